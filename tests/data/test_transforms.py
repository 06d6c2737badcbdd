"""What each network sees of decoded frames."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vidkd.config import Augment, Degrade, RandAugment
from vidkd.data import degrade, randaugment, transforms
from vidkd.data.transforms import Colors, Drawn


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene() -> Tensor:
    """[4, 3, 96, 128] uint8, smooth and colourful, moving, laid out as a decoder leaves it (channels last)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 128), indexing="ij")
    waves = [torch.sin(6 * x + 4 * k * y + 0.4 * t + k) for t in range(4) for k in range(3)]
    frames = (torch.stack(waves).view(4, 3, 96, 128) * 100 + 128).to(torch.uint8)
    return frames.contiguous(memory_format=torch.channels_last)


def mean_difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


def smaller(frames: Tensor, factor: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(frames.float(), factor)


# Windows


def test_random_windows_have_the_area_and_shape_asked_for():
    draws = rng()
    for _ in range(300):
        u = torch.rand(40, generator=draws, dtype=torch.float64).tolist()
        top, left, h, w = transforms.random_window(96, 128, (0.3, 0.8), (0.75, 4 / 3), u)
        assert min(top, left) >= 0 and top + h <= 96 and left + w <= 128
        assert 0.28 < h * w / (96 * 128) < 0.82
        assert 0.72 < w / h < 1.38


def test_random_windows_reach_every_edge():
    windows = [
        transforms.random_window(32, 32, (0.5, 0.5), (1, 1), torch.rand(40, generator=rng(k)).tolist())
        for k in range(400)
    ]
    side = 23  # round(sqrt(512))
    assert {w[2:] for w in windows} == {(side, side)}
    assert {w[0] for w in windows} == {w[1] for w in windows} == set(range(32 - side + 1))


def test_a_window_that_never_fits_is_the_largest_in_the_middle():
    assert transforms.random_window(10, 100, (1, 1), (0.75, 4 / 3), [0.5] * 40) == (0, 43, 10, 13)
    assert transforms.random_window(100, 10, (1, 1), (0.75, 4 / 3), [0.5] * 40) == (43, 0, 13, 10)


def test_test_windows_by_hand():
    assert transforms.test_windows(96, 128, 1) == [(0, 16, 96, 96)]
    assert transforms.test_windows(96, 128, 3) == [(0, 0, 96, 96), (0, 16, 96, 96), (0, 32, 96, 96)]
    assert transforms.test_windows(128, 96, 3) == [(0, 0, 96, 96), (16, 0, 96, 96), (32, 0, 96, 96)]
    five = transforms.test_windows(96, 128, 5)
    assert five == [(0, 0, 84, 84), (0, 44, 84, 84), (12, 0, 84, 84), (12, 44, 84, 84), (6, 22, 84, 84)]
    assert transforms.test_windows(1, 1, 5) == [(0, 0, 1, 1)] * 5


# Draws


def test_each_part_draws_the_same_whatever_the_others_say():
    plain = transforms.draw(Augment(), 96, 128, rng(3))
    rich = Augment(color_jitter=0.4, randaugment=RandAugment(), flip=0.9, mixup_alpha=1)
    assert transforms.draw(rich, 96, 128, rng(3)).window == plain.window
    other = transforms.draw(Augment(color_jitter=0.4, crop_scale=None, flip=0), 96, 128, rng(3))
    assert other.colors == transforms.draw(rich, 96, 128, rng(3)).colors
    assert other.window == transforms.centre(96, 128)
    assert not other.flip


def test_flips_and_colours_have_the_probability_and_range_asked_for():
    drawn = [transforms.draw(Augment(flip=0.25, color_jitter=0.4), 96, 128, rng(k)) for k in range(1000)]
    assert 200 < sum(d.flip for d in drawn) < 300
    colors = torch.tensor([[c.brightness, c.contrast, c.saturation, c.hue] for d in drawn if (c := d.colors)])
    low, high = colors.min(0).values, colors.max(0).values
    assert torch.allclose(low, torch.tensor([0.6, 0.6, 0.6, -0.04]), atol=0.01)
    assert torch.allclose(high, torch.tensor([1.4, 1.4, 1.4, 0.04]), atol=0.01)


def test_no_global_random_state_is_read_or_moved(scene: Tensor):
    augment = Augment(color_jitter=0.4, randaugment=RandAugment(ops=3))
    worst = Degrade(blur_sigma_px=1, downscale=2, noise_std=0.1, salt_pepper=0.1, jpeg_quality=30)

    def make(k: int) -> Tensor:
        generator = rng(k)
        drawn = transforms.draw(augment, 96, 128, generator)
        return degrade.degrade(transforms.view(transforms.crop(scene, drawn.window), drawn, 48), worst, generator)

    before = [make(k) for k in range(12)]
    for poison in (1, 2):
        random.seed(poison), np.random.seed(poison), torch.manual_seed(poison)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert all(torch.equal(a, make(k)) for k, a in enumerate(before))
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])


# Views


def test_the_students_view_is_the_teachers_made_smaller(scene: Tensor):
    augment = Augment(color_jitter=0.4, flip=0.5)
    for k in range(20):
        drawn = transforms.draw(augment, 96, 128, rng(k))
        cropped = transforms.crop(scene, drawn.window)
        gray = transforms.mean_gray(cropped[0])
        teacher = transforms.view(cropped, drawn, 64, gray)
        student = transforms.view(cropped, drawn, 32, gray)
        assert mean_difference(smaller(teacher, 2), student) < 1.0
        assert mean_difference(smaller(teacher, 2).flip(-1), student) > 3.0


def test_a_view_is_cropped_then_resized_then_flipped(scene: Tensor):
    window = (10, 20, 60, 70)
    expected = F.resize(scene[:, :, 10:70, 20:90].contiguous(), [56, 56], antialias=True)
    cropped = transforms.crop(scene, window)
    assert torch.equal(transforms.view(cropped, Drawn(window), 56), expected)
    assert torch.equal(transforms.view(cropped, Drawn(window, flip=True), 56), expected.flip(-1))
    square = transforms.crop(scene, (0, 0, 56, 56))
    assert torch.equal(transforms.view(square, Drawn((0, 0, 56, 56)), 56), square)  # nothing to resize


# Colours


def test_colours_that_change_nothing(scene: Tensor):
    assert torch.equal(transforms.recolored(scene, Colors(1, 1, 1, 0), 77), scene)


@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_each_change_of_colour_is_torchvisions(scene: Tensor, factor: float):
    frame = scene[:1]
    gray = float(F.rgb_to_grayscale(frame).float().mean())
    for colors, expected in (
        (Colors(factor, 1, 1, 0), F.adjust_brightness(frame, factor)),
        (Colors(1, factor, 1, 0), F.adjust_contrast(frame, factor)),
        (Colors(1, 1, factor, 0), F.adjust_saturation(frame, factor)),
    ):
        assert (transforms.recolored(frame, colors, gray).int() - expected.int()).abs().max() <= 1


def test_hue_turns_colours_and_leaves_luma_and_grays_alone():
    red = torch.tensor([150, 90, 90], dtype=torch.uint8).view(1, 3, 1, 1)
    turned = transforms.recolored(red, Colors(1, 1, 1, 1 / 3), 0)[0, :, 0, 0].tolist()
    assert max(turned) != turned[0]  # a third of the circle away, red leads no more
    back = transforms.recolored(transforms.recolored(red, Colors(1, 1, 1, 0.2), 0), Colors(1, 1, 1, -0.2), 0)
    assert (back.int() - red.int()).abs().max() <= 1
    luma = float(transforms.LUMA @ torch.tensor(turned, dtype=torch.float))
    assert math.isclose(luma, float(transforms.LUMA @ red.float().flatten()), abs_tol=1)
    gray = torch.full((1, 3, 2, 2), 123, dtype=torch.uint8)
    assert torch.equal(transforms.recolored(gray, Colors(1, 1, 1, 0.17), 0), gray)


def test_contrast_does_not_flicker():
    clip = torch.tensor([60, 200], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 3, 8, 8)  # a dark and a light frame
    changed = transforms.recolored(clip, Colors(1, 0.5, 1, 0), mean_gray=60)
    assert changed[:, 0, 0, 0].tolist() == [60, 130]  # one gray to turn about for both


# RandAugment


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_every_operation_is_one_for_all_frames_and_sizes(scene: Tensor, name: str):
    for strength in (0.3, -0.3):
        operation = randaugment.Operation(name, strength)
        still = scene[:1].repeat(4, 1, 1, 1)
        moved = randaugment.apply(still, operation)
        assert moved.shape == still.shape and moved.dtype == torch.uint8
        assert (moved.int() - moved[:1].int()).abs().max() == 0  # the same for every frame
        big = randaugment.apply(F.resize(scene, [96, 96], antialias=True), operation)
        small = randaugment.apply(F.resize(scene, [48, 48], antialias=True), operation)
        inner = mean_difference(smaller(big, 2)[:, :, 4:-4, 4:-4], small[:, :, 4:-4, 4:-4])
        assert inner < (6.0 if name == "equalize" else 3.0), strength  # the same at every size


def test_operations_are_drawn_evenly_and_in_both_directions():
    drawn = [o for k in range(700) for o in randaugment.draw(RandAugment(ops=2, magnitude=15), rng(k))]
    counts = {name: sum(o.name == name for o in drawn) for name in randaugment.OPERATIONS}
    assert len(drawn) == 1400 and all(70 < n < 130 for n in counts.values())
    assert {o.strength for o in drawn} == {0.5, -0.5}
    assert 600 < sum(o.strength > 0 for o in drawn) < 800


def test_magnitude_0_moves_nothing(scene: Tensor):
    for name in ("shear_x", "shear_y", "translate_x", "rotate", "brightness", "color", "contrast", "sharpness"):
        assert mean_difference(randaugment.apply(scene, randaugment.Operation(name, 0.0)), scene) < 0.6, name


# Degradation


def test_no_degradation_is_none(scene: Tensor):
    assert degrade.degrade(scene, Degrade(), rng()) is scene


def test_noise_has_the_deviation_asked_for():
    gray = torch.full((4, 3, 40, 40), 128, dtype=torch.uint8)
    noisy = degrade.degrade(gray, Degrade(noise_std=0.05), rng()).float()
    assert noisy.std().item() == pytest.approx(0.05 * 255, rel=0.03)
    assert noisy.mean().item() == pytest.approx(128, abs=0.3)
    assert not torch.equal(noisy[0], noisy[1])


def test_salt_and_pepper_has_the_share_asked_for():
    gray = torch.full((4, 3, 100, 100), 128, dtype=torch.uint8)
    changed = degrade.degrade(gray, Degrade(salt_pepper=0.1), rng())
    assert set(changed.unique().tolist()) == {0, 128, 255}
    assert (changed == 0).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert (changed == 255).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert torch.equal(changed[:, 0], changed[:, 2])  # a pixel is white, not red


def test_downscaling_is_a_mean_over_areas():
    columns = torch.tensor([0, 100], dtype=torch.uint8).repeat(4).expand(1, 3, 8, 8)
    assert degrade.degrade(columns, Degrade(downscale=2), rng()).unique().tolist() == [50]
    assert degrade.degrade(columns, Degrade(downscale=2.7), rng()).shape == columns.shape
    assert degrade.degrade(columns, Degrade(downscale=100), rng()).unique().tolist() == [50]


def test_blur_smooths_and_fits_into_the_smallest_picture(scene: Tensor):
    blurred = degrade.degrade(scene, Degrade(blur_sigma_px=3), rng())
    assert blurred.shape == scene.shape
    assert blurred.float().diff(dim=-1).abs().mean() < scene.float().diff(dim=-1).abs().mean()
    tiny = scene[:, :, :4, :4]
    assert degrade.degrade(tiny, Degrade(blur_sigma_px=9), rng()).shape == tiny.shape
    assert degrade.degrade(scene[:, :, :1, :1], Degrade(blur_sigma_px=9), rng()).shape == (4, 3, 1, 1)


def test_jpeg_is_worse_at_lower_quality(scene: Tensor):
    high, low = (degrade.degrade(scene, Degrade(jpeg_quality=q), rng()) for q in (95, 5))
    assert high.shape == scene.shape and high.dtype == torch.uint8
    assert 0 < mean_difference(high, scene) < 2 < mean_difference(low, scene)
