"""An action cut in two by background, and what the detector learns from it; and the background term, which learns from
what an attention overlooks."""

import math
from dataclasses import replace

import pytest
import torch

from vidkd import annotations, models
from vidkd.errors import ConfigError
from vidkd.models import attention
from vidkd.models.attention import AttentionSection
from vidkd.tasks import _boundary_contrast as contrast
from vidkd.tasks import _detection_losses as losses
from vidkd.tasks import detection
from vidkd.types import ALTERED, ClipBatch, Segments, Shown

CLASSES = ("jump", "run")
FRAMES, SIZE_PX = 32, 16
SMALL = {"backbone": "tiny4", "frames": FRAMES, "size_px": SIZE_PX, "width": 32, "levels": 4}
ROWS = [
    ("u", 1.0, 11.0, "jump"),
    ("u", 20.0, 23.0, "run"),
    ("w", 3.0, 9.0, "run"),
]  # of w there is no action of more than twice the shortest one


@pytest.fixture
def make(tmp_path):
    def made(**config):
        annotations.write(tmp_path / "segments.csv", Segments.of(ROWS))
        annotations.write(tmp_path / "ambiguous.csv", Segments.of([("u", 26.0, 28.0, "Ambiguous")]))
        return detection.Task(detection.Config(kind="detection", **config), CLASSES, tmp_path)

    return made


def window(video, left=0, duration_s=32.0):
    """32 frames, one a second; `left` of the crop stands for another draw of the augmentation."""
    return Shown(video, 0.0, 32.0, duration_s, tuple(range(FRAMES)), (0, left, 16, 16))


class TestCut:
    def test_by_hand_from_behind(self):
        """Frames 5 to 8 of ten are moved into an action of frames 0 to 4, before its frame 2."""
        cuts = torch.tensor([[0, 5, 2, 6, 2], [0, 0, 0, 0, 0]])
        order = contrast.order(cuts, 10)
        assert order.tolist() == [[0, 1, 6, 7, 2, 3, 4, 5, 8, 9], list(range(10))]
        assert contrast.parts(cuts)[0].tolist() == [[0, 2], [4, 7], [2, 4]]

    def test_by_hand_from_before(self):
        cuts = torch.tensor([[4, 9, 6, 1, 2]])
        assert contrast.order(cuts, 10).tolist() == [[0, 3, 4, 5, 1, 2, 6, 7, 8, 9]]
        assert contrast.parts(cuts)[0].tolist() == [[2, 4], [6, 9], [4, 6]]

    @pytest.mark.parametrize("seed", range(50))
    def test_d9_what_is_moved_is_background_and_the_parts_are_the_action(self, seed):
        """The pasted piece intersects no action, whatever was drawn."""
        rng = torch.Generator().manual_seed(seed)
        start = (40 * torch.rand(3, generator=rng)).tolist()
        every = [(s, s + 4 + 20 * float(torch.rand((), generator=rng))) for s in start]
        found = contrast.cut(every, every, 3.4, 64, rng)
        if found == list(contrast.NO_CUT):
            return
        first, last, at, moved, length = found
        assert length == 4
        assert all(moved + length <= s or e <= moved for s, e in every)
        assert first + length <= at <= last - length
        frame = contrast.order(torch.tensor([found]), 64)[0]
        assert frame.sort().values.tolist() == list(range(64))
        a, b, c = (frame[i:j].tolist() for i, j in contrast.parts(torch.tensor([found]))[0].tolist())
        assert a + b == list(range(first, last))
        assert c == list(range(moved, moved + length))

    def test_enough_of_those_were_cut(self):
        cuts = [contrast.cut([(2, 30)], [(2, 30)], 3, 64, torch.Generator().manual_seed(s)) for s in range(40)]
        assert contrast.NO_CUT not in [tuple(c) for c in cuts]
        assert len({c[2] for c in cuts}) > 10 and len({c[3] for c in cuts}) > 10

    def test_where_it_cannot_be_done(self):
        rng = torch.Generator()
        assert contrast.cut([(0, 6)], [(0, 6)], 3, 64, rng) == [0] * 5  # not more than twice the shortest
        assert contrast.cut([(0, 60)], [(0, 60)], 5, 64, rng) == [0] * 5  # no room for five frames of background


class TestTask:
    def test_d9_each_clip_has_a_flag_of_its_own(self, make):
        """At any batch size. The shortest action of u lasts 3 s, that of w is its only one."""
        task = make(contrast=True)
        first, second = (task.truth(window(v))["cut"] for v in "uw")
        assert second.tolist() == [0, 0, 0, 0, 0, 32]
        start, end, at, moved, length, frames = first.tolist()
        assert (start, end, length, frames) == (1, 11, 3, 32)
        assert 4 <= at <= 8
        assert all(moved + 3 <= s or e <= moved for s, e in ((1, 11), (20, 23), (26, 28)))

    def test_another_draw_of_the_same_window_is_another_cut_and_the_same_draw_the_same(self, make):
        task = make(contrast=True)
        cuts = [tuple(task.truth(window("u", left))["cut"].tolist()) for left in range(20)]
        assert len(set(cuts)) > 5
        assert tuple(task.truth(window("u", 3))["cut"].tolist()) == cuts[3]

    def test_nothing_is_moved_from_behind_the_end_of_the_file(self, make):
        """The last frame stands still there."""
        task = make(contrast=True)
        for left in range(30):
            moved, length = task.truth(window("u", left, duration_s=19.0))["cut"][3:5].tolist()
            assert moved + length <= 19

    def test_without_it_nothing_is_said_or_shown(self, make):
        task = make()
        assert "cut" not in task.truth(window("u"))
        batch = ClipBatch({"student": torch.zeros(1, 3, FRAMES, 1, 1)}, torch.tensor([0]), ("u",))
        assert task.altered(batch) is batch
        assert task.terms() == list(losses.TERMS)

    def test_the_altered_clips(self, make):
        task, names = make(contrast=True), ("w", "u")
        cut = torch.stack([task.truth(window(v))["cut"] for v in names])
        video = torch.arange(FRAMES, dtype=torch.uint8).view(1, 1, FRAMES, 1, 1).expand(2, 3, FRAMES, 2, 2)
        batch = ClipBatch({"student": video}, torch.tensor([0, 0]), names, extra={"cut": cut})
        shown = task.altered(batch).seen_by(ALTERED)
        assert torch.equal(shown[0], video[0])
        assert shown[1, 0, :, 0, 0].tolist() == contrast.order(cut, FRAMES)[1].tolist() != list(range(FRAMES))
        none = replace(batch, extra={"cut": cut[:1].expand(2, -1)})
        assert ALTERED not in task.altered(none).views
        with pytest.raises(ConfigError, match="sees 16 of the 32 frames of a clip, and needs all"):
            task.altered(replace(batch, views={"student": video[:, :, ::2]}))


class TestTriplet:
    def features(self, n=2):
        torch.manual_seed(0)
        return torch.rand(n, 8, FRAMES, requires_grad=True), torch.rand(n, 32, FRAMES // 2, requires_grad=True)

    def test_by_hand(self):
        """One channel of starts, one of ends; the action from 4 to 20 is cut before 12, frames 24 to 28 go there. The
        windows of 1 frame around 12 (ends of part 1), 16 (start of part 2) and 12 (start of the background)."""
        frame, level = torch.zeros(1, 2, FRAMES), torch.zeros(1, 8, FRAMES // 2)
        frame[0, 1, 12], frame[0, 0, 16], frame[0, 0, 12] = 5.0, 3.0, 4.5
        cuts = torch.tensor([[4, 20, 12, 24, 4, 32]])
        near, far = 5.0 - 3.0, 5.0 - 4.5
        branches = 2 * contrast.OF_BRANCHES * contrast.MARGIN  # all alike: the margin
        found = contrast.triplet_loss(frame, level, cuts)
        assert float(found) == pytest.approx(near - far + contrast.MARGIN + branches, abs=1e-4)

    def test_clips_that_were_not_cut_do_not_count(self):
        frame, level = self.features()
        cuts = torch.tensor([[4, 20, 12, 24, 4, 32], [0, 0, 0, 0, 0, 32]])
        alone = contrast.triplet_loss(frame[:1], level[:1], cuts[:1])
        both = contrast.triplet_loss(frame, level, cuts)
        torch.testing.assert_close(alone, both)
        both.backward()
        assert frame.grad[0].abs().max() > 0 and level.grad[0].abs().max() > 0
        assert not frame.grad[1].any() and not level.grad[1].any()
        assert contrast.triplet_loss(frame, level, torch.zeros(2, 6, dtype=torch.long)) == 0


def test_background_of_all_zero_logits():
    """detection.md, check 4: at 20 classes and 126 locations, for one clip and for three."""
    for n in (1, 3):
        assert losses.background_loss(torch.zeros(n, 21, 126)).item() == pytest.approx(86.99, abs=0.005)
    sure = torch.zeros(1, 21, 126)
    sure[:, 0] = 30
    assert losses.background_loss(sure).item() == pytest.approx(0, abs=1e-3)


class TestBackground:
    def network(self, **section):
        torch.manual_seed(0)
        made = models.build("detector", len(CLASSES), **SMALL)
        section = {"taps": ("middle", "late")} | section
        return attention.attach(made, AttentionSection(**section), FRAMES, SIZE_PX)

    def test_it_is_the_coarse_class_of_what_is_overlooked(self, make):
        task, made = make(background=True), self.network()
        task.asks(made)
        made.train()
        view = made(torch.rand(2, 3, FRAMES, SIZE_PX, SIZE_PX))
        lam = view.taps["attention_middle"], view.taps["attention"]
        maps = [
            attention.reweight(view.taps[tap], 1 - own, "per_sample")
            for tap, own in zip(("middle", "late"), lam, strict=True)
        ]
        heard = {}
        made.net.heads.out["coarse_logits"].register_forward_hook(lambda _m, _a, out: heard.update(logits=out))
        made.net.heads(*maps)
        torch.testing.assert_close(view.taps["background_logits"], heard["logits"])
        # what is heard of the pyramid is that of the foreground
        maps = [attention.reweight(view.taps[t], a, "per_sample") for t, a in zip(("middle", "late"), lam, strict=True)]
        torch.testing.assert_close(view.taps["pyramid_0"][..., 0, 0], made.net.heads.pyramid(*maps)[0])
        assert "background_logits" not in made.eval()(torch.rand(1, 3, FRAMES, SIZE_PX, SIZE_PX)).taps

    def test_a_network_without_attention_in_both_maps(self, make):
        task = make(background=True)
        for made in (models.build("detector", 2, **SMALL), self.network(taps=("late",))):
            with pytest.raises(
                ConfigError, match=r"needs an attention in both .*\{head: gap, taps: \[middle, late\]\}"
            ):
                task.asks(made)
        make().asks(models.build("detector", 2, **SMALL))

    @pytest.mark.parametrize("background", [False, True])
    def test_a_network_that_does_not_detect_is_refused_before_anything_is_trained(self, make, background):
        with pytest.raises(ConfigError, match="needs a network that detects"):
            make(background=background).asks(models.build("tiny4", 2))

    def test_both_terms_are_learned(self, make):
        """From the weights of the configuration on: 35 and 0.1."""
        task, made = make(background=True, contrast=True), self.network()
        task.asks(made)
        assert task.terms()[-2:] == ["background", "triplet"]
        assert (task.config.weight("background", 0), task.config.weight("triplet", 0)) == (35.0, 0.1)
        truth = [task.truth(window(v)) for v in "uw"]
        extra = {key: torch.stack([t[key] for t in truth]) for key in truth[0]}
        video = torch.randint(0, 256, (2, 3, FRAMES, SIZE_PX, SIZE_PX), dtype=torch.uint8)
        batch = task.altered(ClipBatch({"student": video}, torch.tensor([0, 1]), ("u", "w"), extra=extra))
        optimizer = torch.optim.Adam(made.parameters(), lr=2e-3)
        history = []
        for _ in range(30):
            view = replace(made(batch.seen_by("student")), altered=made(batch.seen_by(ALTERED)))
            terms = task.losses(batch, view)
            assert set(terms) == set(task.terms())
            optimizer.zero_grad()
            sum(task.config.weight(name, 0) * term for name, term in terms.items()).backward()
            optimizer.step()
            history.append({name: term.item() for name, term in terms.items()})
        assert all(math.isfinite(v) for v in history[-1].values())
        assert history[-1]["background"] < 0.5 * history[0]["background"]
        assert history[-1]["triplet"] < history[0]["triplet"]
