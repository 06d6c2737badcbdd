"""Attention behind the late tap: its counts, what it changes and what it leaves alone, on every network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vidkd import models
from vidkd.errors import ConfigError, DataError
from vidkd.models import attention, cost, detector, weights
from vidkd.models.attention import AttentionSection, GapHead, ParityHead, reweight
from zoo import BIG, smallest_clip, smallest_options

K = 5


def carried(name="tiny16", frames=4, size_px=16, **section):
    torch.manual_seed(0)
    return attention.attach(models.build(name, K), AttentionSection(**section), frames, size_px)


def test_counts_of_the_heads():
    with torch.device("meta"):
        assert cost.parameters(GapHead(1024)) == 2_099_712
        parity = ParityHead((1024, 8, 7, 7))
        assert cost.parameters(parity) == 27_275_784
        assert cost.parameters(parity.squeeze[0]) == 25_690_624
        features = torch.empty(1, 1024, 8, 7, 7)
        assert cost.gmacs_of(parity, features) == pytest.approx(1.82, abs=0.01)
        assert cost.gmacs_of(GapHead(1024), features) == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize(("name", "parameters", "gmacs"), [("i3d_top", 37_808_397, 47.2), ("i3d", 39_666_573, 113.0)])
def test_totals_with_the_parity_head(name, parameters, gmacs):
    with torch.device("meta"):
        network = models.build(name, 101)
        bare = cost.parameters(network.net), cost.gmacs(network, 64, 224)
        attention.attach(network, AttentionSection(head="parity"), 64, 224)
        found = attention.costs(network, 64, 224)
    assert found["parameters"] == parameters
    assert found["gmacs"] == pytest.approx(gmacs, abs=0.05)
    assert found["parameters_without_attention"] == bare[0]
    assert found["gmacs_without_attention"] == pytest.approx(bare[1], abs=1e-9)
    assert "without attention" in attention.said(found)


@pytest.mark.parametrize("frames", [4, 8, 32])
@pytest.mark.parametrize("side", [3, 7])
def test_the_gap_head_takes_any_clip(frames, side):
    lam = GapHead(64)(torch.rand(2, 64, frames, side, side))
    assert lam.shape == (2, 64, frames)
    assert lam.min() > 0 and lam.max() < 1


def test_the_gap_head_by_hand():
    torch.manual_seed(0)
    head, features = GapHead(64), torch.rand(2, 64, 5, 3, 4)
    state = head.state_dict()
    x = F.conv1d(features.mean((3, 4)), state["squeeze.0.weight"], state["squeeze.0.bias"])
    x = F.relu(F.group_norm(x, 16, state["squeeze.1.weight"], state["squeeze.1.bias"]))
    lam = torch.sigmoid(F.conv1d(x, state["excite.weight"], state["excite.bias"], padding=1))
    torch.testing.assert_close(head(features), lam)


def test_the_parity_head_takes_one_shape():
    head = ParityHead((8, 4, 3, 3))
    assert head(torch.rand(2, 8, 4, 3, 3)).shape == (2, 8, 4)
    with pytest.raises(ValueError, match=r"for \[8, 4, 3, 3\] met features \[8, 2, 3, 3\]"):
        head(torch.rand(2, 8, 2, 3, 3))


@pytest.mark.parametrize("how", ["per_sample", "parity"])
class TestReweight:
    def test_a_constant_lam_changes_nothing(self, how):
        features = torch.rand(3, 5, 4, 2, 2)
        torch.testing.assert_close(reweight(features, torch.full((3, 5, 4), 0.3), how), features)

    def test_t1_features_of_zero_stay_finite(self, how):
        assert reweight(torch.zeros(2, 3, 4, 2, 2), torch.rand(2, 3, 4), how).eq(0).all()


def test_reweight_by_hand():
    features = torch.tensor([[2.0, 4.0], [6.0, 8.0]]).view(2, 1, 2, 1, 1)
    lam = torch.tensor([[0.25, 0.75], [0.5, 1.0]]).view(2, 1, 2)
    own = reweight(features, lam, "per_sample").flatten()
    torch.testing.assert_close(own, torch.tensor([1.0, 6.0, 4.0, 32 / 3]))  # means 1/2 and 3/4
    whole = reweight(features, lam, "parity").flatten()
    torch.testing.assert_close(whole, torch.tensor([0.5, 3.0, 3.0, 8.0]) * 20 / 14.5)


def test_t1_logits_do_not_depend_on_batch_mates():
    video = torch.rand(3, 3, 4, 16, 16)
    ours, theirs = carried().eval(), carried(reweight="parity").eval()
    torch.testing.assert_close(ours(video).logits[:1], ours(video[:1]).logits)
    assert (theirs(video).logits[:1] - theirs(video[:1]).logits).abs().max() > 1e-5  # as published


@pytest.mark.parametrize("name", sorted(set(models.names()) - set(detector.NETWORKS)))
def test_every_network_carries_it(name):
    """late stays what it was, attention is [B, C, T], and the answer hears of it."""
    if name == "frame2d":
        pytest.importorskip("timm")
    with torch.device("meta" if name in BIG else "cpu"):
        network = models.build(name, K, **smallest_options(name)).eval()
        frames, size_px = smallest_clip(network)
        video = torch.rand(2, 3, frames, size_px, size_px)
        with torch.no_grad():
            bare = network(video)
            names = set(network.net.state_dict())
            attention.attach(network, AttentionSection(), frames, size_px)
            view = network(video)
    late = view.taps["late"]
    assert view.taps["attention"].shape == late.shape[:3]
    assert names < set(network.net.state_dict())
    if name not in BIG:
        torch.testing.assert_close(late, bare.taps["late"])
        assert not torch.equal(view.logits, bare.logits)


@pytest.mark.parametrize("name", ["tiny4", "frame2d", "mvit_v1_b", "slowfast_r50"])
def test_the_rest_of_the_network_sees_reweighted_features(name):
    """A lam of one half everywhere is no re-weighting, in each layout of the late tap."""
    if name == "frame2d":
        pytest.importorskip("timm")
    options = smallest_options(name)
    torch.manual_seed(0)
    network = models.build(name, K, **options).eval()
    frames, size_px = smallest_clip(network)
    video = torch.rand(1, 3, frames, size_px, size_px)
    with torch.no_grad():
        bare = network(video).logits
        attention.attach(network, AttentionSection(), frames, size_px)
        head = network.net.get_submodule("attention.head.excite")
        head.weight.zero_()
        head.bias.zero_()
        torch.testing.assert_close(network(video).logits, bare, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_the_head_and_the_backbone():
    network = carried()
    network(torch.rand(2, 3, 4, 16, 16)).logits.square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert network.net.get_submodule("attention.head.squeeze.0").weight.grad.abs().max() > 0


def test_a_deep_copy_attends_for_itself():
    network = carried().eval()
    copied = copy.deepcopy(network)
    video = torch.rand(1, 3, 4, 16, 16)
    with torch.no_grad():
        copied.net.get_submodule("attention.head.excite").bias.add_(torch.randn(32))
        assert not torch.equal(copied(video).logits, network(video).logits)
        assert not torch.equal(copied(video).taps["attention"], network(video).taps["attention"])
    assert not network._seen


class TestWeights:
    def test_of_a_bare_network_need_a_new_head(self, tmp_path):
        bare = models.build("tiny16", 7)
        save_file(bare.net.state_dict(), tmp_path / "bare.safetensors")
        network = carried()
        account = weights.load(network, tmp_path / "bare.safetensors", reset_head=True)
        assert "a new head, a new attention" in str(account)
        assert torch.equal(network.net.get_submodule("early.0").weight, bare.net.get_submodule("early.0").weight)

    def test_t2_an_attention_is_never_left_random_in_silence(self, tmp_path):
        save_file(models.build("tiny16", K).net.state_dict(), tmp_path / "bare.safetensors")
        with pytest.raises(DataError, match=r"tensors are missing \(attention"):
            weights.load(carried(), tmp_path / "bare.safetensors")

    def test_t2_of_an_attention_are_loaded_by_name_and_kept(self, tmp_path):
        trained = carried()
        with torch.no_grad():
            trained.net.get_submodule("attention.head.excite").bias.fill_(3.0)
        save_file(trained.net.state_dict(), tmp_path / "trained.safetensors")
        network = carried()
        account = weights.load(network, tmp_path / "trained.safetensors", reset_head=True)
        assert not account.new_attention
        assert network.net.get_submodule("attention.head.excite").bias.eq(3.0).all()
        with pytest.raises(DataError, match=r"not in the network \(attention"):
            weights.load(models.build("tiny16", K), tmp_path / "trained.safetensors")

    @pytest.mark.parametrize("of_file", ["bare", "trained"])
    def test_reset_attention_begins_a_new_one_and_keeps_the_head(self, tmp_path, of_file):
        source = models.build("tiny16", K) if of_file == "bare" else carried()
        save_file(source.net.state_dict(), tmp_path / "w.safetensors")
        network = carried()
        before = {name: t.clone() for name, t in network.net.get_submodule("attention").state_dict().items()}
        account = weights.load(network, tmp_path / "w.safetensors", reset_attention=True)
        assert account.new_attention and not account.new_head
        after = network.net.get_submodule("attention").state_dict()
        assert before and all(torch.equal(after[name], t) for name, t in before.items())
        own, theirs = network.net.state_dict(), source.net.state_dict()
        assert all(torch.equal(own[name], theirs[name]) for name in own if not name.startswith("attention."))


def test_a_parity_head_for_another_clip_is_refused():
    network = carried(head="parity")
    with pytest.raises(ConfigError, match="met features"):
        cost.gmacs(network, 8, 16)
