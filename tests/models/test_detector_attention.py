"""Attention in both maps that a detector reads, and the distillation of each: generative attention at two layers."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from vidkd import models
from vidkd.errors import ConfigError, DataError
from vidkd.methods import generative_attention as ga
from vidkd.methods._cvae import CVAE
from vidkd.models import attention, cost, weights
from vidkd.models._heads import Lateral
from vidkd.models.attention import AttentionSection, GapHead, ParityHead, reweight
from vidkd.taps import Frozen
from vidkd.types import ClipBatch

K, FRAMES, SIZE_PX = 3, 8, 16
SMALL = {"backbone": "tiny16", "frames": FRAMES, "size_px": SIZE_PX, "width": 32, "levels": 3}
BOTH = ("middle", "late")
FINE, COARSE = (832, 64, 6, 6), (1024, 32, 3, 3)  # of I3D at 256 x 96 px
BATCH = ClipBatch({"student": torch.zeros(2, 3, 1, 1, 1)}, torch.tensor([0, 1]), ("a", "b"))


def carried(taps=BOTH, seed=0, **section):
    torch.manual_seed(seed)
    made = models.build("detector", K, **SMALL)
    made.clip = (FRAMES, SIZE_PX)
    return attention.attach(made, AttentionSection(taps=taps, **section), FRAMES, SIZE_PX)


def video(n=2):
    return torch.randint(0, 256, (n, 3, FRAMES, SIZE_PX, SIZE_PX), dtype=torch.uint8)


class TestSizes:
    """Those of detection.md, section 2."""

    def test_of_the_heads(self):
        with torch.device("meta"):
            gap, parity = [GapHead(shape[0]) for shape in (FINE, COARSE)], [ParityHead(s) for s in (FINE, COARSE)]
            maps = [torch.empty(1, *shape) for shape in (FINE, COARSE)]
        assert [cost.parameters(head) for head in gap] == [1_706_304, 2_099_712]
        assert [cost.parameters(head) for head in parity] == [16_670_720, 6_328_864]
        for heads, gmacs in ((gap, 0.18), (parity, 3.88)):
            found = sum(cost.gmacs_of(head, x) for head, x in zip(heads, maps, strict=True))
            assert found == pytest.approx(gmacs, abs=0.01)

    def test_of_the_cvaes(self):
        with torch.device("meta"):
            made = [CVAE(shape[0], "conv", (shape[2], shape[3])) for shape in (FINE, COARSE)]
        assert sum(map(cost.parameters, made)) == 84_405_824

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("backbone", "parameters", "gmacs"), [("i3d", 67_745_653, 88.10), ("i3d_top", 65_887_477, 39.76)]
    )
    def test_of_the_whole(self, backbone, parameters, gmacs):
        with torch.device("meta"):
            made = models.build("detector", 20, backbone=backbone)
            attention.attach(made, AttentionSection(head="parity", taps=BOTH), 256, 96)
            found = attention.costs(made, 256, 96)
        assert found["parameters"] == parameters
        assert found["gmacs"] == pytest.approx(gmacs, abs=0.01)


@pytest.mark.parametrize("shape", [FINE, COARSE], ids=["4f", "5c"])
def test_d2_a_constant_lam_does_not_starve_the_group_norm(shape):
    """Behind the published normaliser, the sum of lam, the features are some 1e-5 of what they were."""
    torch.manual_seed(0)
    lateral, maps, lam = Lateral(shape, 512), torch.rand(1, *shape), torch.full((1, *shape[:2]), 0.5)
    with torch.no_grad():
        ours, theirs = (
            lateral.norm(lateral.conv(reweight(maps, lam, how)).flatten(2)).std() for how in ("per_sample", "sum")
        )
    assert 0.9 <= ours <= 1.1
    assert theirs < 0.05


class TestGate:
    def test_each_map_is_weighted_on_its_way_to_the_heads(self):
        """The maps that are heard stay F, that of the coarser level too, although the finer one lies before it."""
        made, seen = carried().eval(), video()
        bare = models.build("detector", K, **SMALL).eval()
        bare.net.load_state_dict({n: t for n, t in made.net.state_dict().items() if not attention.owns(n)})
        view, without = made(seen), bare(seen)
        for tap in BOTH:
            assert torch.equal(view.taps[tap], without.taps[tap])
            assert view.taps[attention.name(tap)].shape == view.taps[tap].shape[:3]
        weighted = [
            reweight(view.taps[tap], view.taps[name], "per_sample")
            for tap, name in (("middle", "attention_middle"), ("late", "attention"))
        ]
        torch.testing.assert_close(view.logits, bare.net.heads(*weighted))
        assert not torch.equal(view.logits, without.logits)

    @pytest.mark.parametrize("tap", BOTH)
    def test_a_constant_lam_changes_nothing(self, tap):
        made, seen = carried((tap,)).eval(), video()
        head = made.net.get_submodule(f"{attention.name(tap)}.head.excite")
        with torch.no_grad():
            before = made(seen).logits
            head.weight.zero_()
            head.bias.zero_()
            after = made(seen)
            maps = [after.taps[name] for name in BOTH]
            torch.testing.assert_close(after.logits, made.net.heads(*maps), rtol=1e-4, atol=1e-5)
        assert not torch.equal(before, after.logits)

    def test_a_batch_is_its_clips(self):
        made, seen = carried().eval(), video(4)
        together = made(seen).logits
        torch.testing.assert_close(together, torch.cat([made(v[None]).logits for v in seen]), atol=1e-5, rtol=1e-4)

    def test_every_parameter_learns(self):
        made = carried()
        view = made(video())
        sum(t.square().mean() for t in (view.logits, *view.taps.values()) if t.requires_grad).backward()
        assert [name for name, p in made.named_parameters() if p.grad is None] == []

    def test_a_deep_copy_attends_for_itself(self):
        made, seen = carried().eval(), video()
        copied = copy.deepcopy(made)
        with torch.no_grad():
            copied.net.get_submodule("attention_middle.head.excite").bias.add_(torch.randn(16))
            assert not torch.equal(copied(seen).logits, made(seen).logits)

    def test_costs_with_and_without(self):
        found, heads = attention.costs(carried(), FRAMES, SIZE_PX), [GapHead(16), GapHead(32)]
        own = sum(map(cost.parameters, heads))
        assert found["parameters"] - found["parameters_without_attention"] == own
        bare = models.build("detector", K, **SMALL)
        assert found["gmacs_without_attention"] == pytest.approx(cost.gmacs(bare, FRAMES, SIZE_PX), rel=1e-6)


class TestSection:
    def test_what_was_saved_before_there_was_a_choice_stays(self):
        assert AttentionSection().model_dump(mode="json") == {"head": "gap", "reweight": "per_sample"}
        assert AttentionSection(taps=BOTH).model_dump(mode="json")["taps"] == ["middle", "late"]

    @pytest.mark.parametrize("taps", [(), ("late", "late")])
    def test_each_tap_once(self, taps):
        with pytest.raises(ValueError, match="at least one tap, and each once"):
            AttentionSection(taps=taps)

    @pytest.mark.parametrize(
        ("tap", "message"), [("lat", "no tap 'lat'; did you mean 'late'"), ("reach", "the tap 'reach' is none")]
    )
    def test_of_no_map(self, tap, message):
        with pytest.raises(ConfigError, match=message):
            carried((tap,))


class TestWeights:
    def test_of_a_bare_detector(self, tmp_path):
        bare = models.build("detector", K, **SMALL)
        save_file(bare.net.state_dict(), tmp_path / "bare.safetensors")
        assert "a new attention" in str(weights.load(carried(), tmp_path / "bare.safetensors", reset_head=True))
        with pytest.raises(DataError, match=r"tensors are missing \(attention_middle"):
            weights.load(carried(), tmp_path / "bare.safetensors")

    def test_one_of_two_is_never_left_random_in_silence(self, tmp_path):
        save_file(carried(("late",)).net.state_dict(), tmp_path / "one.safetensors")
        with pytest.raises(DataError, match=r"tensors are missing \(attention_middle"):
            weights.load(carried(), tmp_path / "one.safetensors", reset_head=True)

    def test_warm_start_brings_detector_and_attention(self, tmp_path):
        """What detection.md recommends for a student of the teacher's size: all of the teacher, by name."""
        teacher, student = carried(), carried(seed=1)
        save_file(teacher.net.state_dict(), tmp_path / "teacher.safetensors")
        weights.load(student, tmp_path / "teacher.safetensors", adapt="collapse")
        own = student.net.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in teacher.net.state_dict().items())


class TestDistillation:
    def pair(self, tap, **options):
        own, theirs = carried(), carried(seed=1)
        method = ga.Method(ga.Config(kind="generative_attention", tap=tap, **options), own, theirs, K)
        return method, own, own(video()), Frozen(theirs)(video())

    @pytest.mark.parametrize("tap", BOTH)
    def test_each_layer_learns_from_its_own(self, tap):
        method, own, student, teacher = self.pair(tap)
        assert method.teacher_taps() == [attention.name(tap)]
        terms = method(BATCH, student, teacher)
        assert set(terms) == {"reconstruction", "kl", "prior", "attention", "generative"}
        for module, reached in ((tap, True), (*set(BOTH) - {tap}, False)):
            head = own.net.get_submodule(f"{attention.name(module)}.head.excite")
            found = torch.autograd.grad(terms["attention"], head.weight, retain_graph=True, allow_unused=True)[0]
            assert (found is not None) == reached
        expected = (student.taps[attention.name(tap)] - teacher.taps[attention.name(tap)]).square().mean()
        torch.testing.assert_close(terms["attention"], expected)

    @pytest.mark.parametrize("tap", BOTH)
    def test_d1_the_target_of_prior_is_the_features_themselves(self, tap):
        """Bit for bit the detached F, not what a later layer made of it."""
        method, _, student, _ = self.pair(tap)
        still = student.taps[tap].detach().clone()
        seen = {}
        original = ga.F.mse_loss

        def spy(made, target):
            seen[len(seen)] = target
            return original(made, target)

        ga.F.mse_loss = spy
        try:
            method(BATCH, student, None)
        finally:
            ga.F.mse_loss = original
        for target in (seen[0], seen[1]):  # of reconstruction, of prior
            assert torch.equal(target, still.mean((3, 4)))
            assert not target.requires_grad

    def test_the_cvae_of_another_layer_is_refused(self):
        method, *_ = self.pair("middle")
        with pytest.raises(ConfigError, match=r"CVAE of 'middle' is another .* in another order"):
            method.take_kept(CVAE(32, "pool", (4, 4)).state_dict())

    def test_a_network_without_attention_there(self):
        own = carried(("late",))
        with pytest.raises(ConfigError, match=r"no attention in its tap 'middle'; add student.attention: .*\[late, mi"):
            ga.Method(ga.Config(kind="generative_attention", tap="middle"), own, None, K)
