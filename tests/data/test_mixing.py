"""Mixup and CutMix: one mixture for every view, and labels in the shares of what is seen."""

import pytest
import torch

from vidkd.config import Augment
from vidkd.data import mixing
from vidkd.errors import ConfigError
from vidkd.types import ClipBatch

MIXUP = Augment(mixup_alpha=0.8)
CUTMIX = Augment(cutmix_alpha=1.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant_clips() -> ClipBatch:
    """Clip b is all of gray level 10 * b, of class b, in a large and a small view."""
    level = (torch.arange(6) * 10).to(torch.uint8).view(6, 1, 1, 1, 1)
    views = {"teacher": level.repeat(1, 3, 4, 20, 30), "student": level.repeat(1, 3, 2, 10, 15)}
    return ClipBatch(views, torch.arange(6), tuple("abcdef"))


def test_off_is_the_batch_itself():
    batch = constant_clips()
    assert mixing.mix(batch, Augment(), 6, rng()) is batch
    assert mixing.mix(batch, Augment(mixup_alpha=1, mix_probability=0), 6, rng()) is batch


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("seed", range(12))
def test_labels_have_the_shares_of_what_the_student_sees(augment: Augment, seed: int):
    batch = constant_clips()
    mixed = mixing.mix(batch, augment, 6, rng(seed))
    assert mixed.target is not None
    assert torch.allclose(mixed.target.sum(1), torch.ones(6))
    gray = mixed.views["student"].mean((1, 2, 3, 4))
    assert torch.allclose(gray, mixed.target @ (torch.arange(6) * 10 / 255), atol=1e-5)
    assert torch.equal(mixed.label, batch.label) and mixed.clip == batch.clip


@pytest.mark.parametrize("seed", range(12))
def test_every_view_shows_the_same_mixture(seed: int):
    mixed = mixing.mix(constant_clips(), MIXUP, 6, rng(seed))
    assert torch.allclose(mixed.views["teacher"][:, 0, 0, 0, 0], mixed.views["student"][:, 0, 0, 0, 0])
    cut = mixing.mix(constant_clips(), CUTMIX, 6, rng(seed))
    large, small = cut.views["teacher"][:, 0], cut.views["student"][:, 0]
    assert (large == large[:, :1]).all()  # the same box in every frame
    differing = (torch.nn.functional.avg_pool2d(large[:, 0], 2) - small[:, 0]).abs() > 1e-6
    assert differing.float().mean() < 0.25  # at the box's edge, by less than a pixel


def test_mixed_views_are_float_in_0_to_1():
    full = ClipBatch({"student": torch.full((2, 3, 2, 8, 8), 255, dtype=torch.uint8)}, torch.tensor([0, 1]), ("a", "b"))
    for augment in (MIXUP, CUTMIX):
        video = mixing.mix(full, augment, 2, rng()).views["student"]
        assert video.dtype == torch.float32
        assert torch.allclose(video, torch.ones(()))


def test_mixing_is_addressed():
    both = Augment(mixup_alpha=0.8, cutmix_alpha=1.0)
    one, other = (mixing.mix(constant_clips(), both, 6, rng(4)) for _ in range(2))
    assert torch.equal(one.views["student"], other.views["student"])
    state = torch.get_rng_state()
    mixing.mix(constant_clips(), both, 6, rng(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_shares_chance_and_choice_are_as_configured():
    batch = constant_clips()
    half = Augment(mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=0.5)
    made = [mixing.mix(batch, half, 6, rng(seed)) for seed in range(400)]
    mixed = [m for m in made if m.target is not None]
    assert 160 < len(mixed) < 240
    flat = [m for m in mixed if (m.views["student"] == m.views["student"][..., :1, :1]).all()]
    assert 60 < len(flat) < 150  # mixup leaves constant clips constant
    shares = [float(mixing.mix(batch, MIXUP, 6, rng(s)).target.diagonal()[0]) for s in range(300)]  # pyright: ignore[reportOptionalMemberAccess]
    assert sum(shares) / 300 == pytest.approx(0.5 + 0.5 / 6, abs=0.06)  # a sixth have themselves as partner


def test_boxes_by_hand():
    assert mixing.random_box(0.25, 0.5, 0.5) == (0.25, 0.25, 0.75, 0.75)
    assert mixing.random_box(0.25, 0.0, 0.9) == (0.0, pytest.approx(0.65), 0.25, 1.0)
    video = torch.zeros(1, 3, 2, 10, 20)
    assert mixing.area((0.25, 0.25, 0.75, 0.75), video) == (8 - 2) * (15 - 5) / 200  # 2.5 and 7.5 round to even
    assert mixing.area(mixing.random_box(1.0, 0.5, 0.5), video) == 1
    assert mixing.area(mixing.random_box(0.0, 0.5, 0.5), video) == 0


def test_a_task_with_truth_in_pixels_cannot_mix():
    batch = constant_clips()
    batch.extra["saliency"] = torch.zeros(6, 2, 10, 15)
    with pytest.raises(ConfigError, match="mixup mixes labels, but this task's truth is saliency"):
        mixing.mix(batch, MIXUP, 6, rng())
    assert mixing.mix(batch, Augment(), 6, rng()) is batch
