"""From decoded frames to what each network sees.

Everything random is drawn once a clip, from a generator that is handed in, and shared by its frames and its views: no
global random state is touched. A view is: crop, antialiased resize, flip, colours, RandAugment, all in uint8; then its
own degradation (degrade.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vidkd.config import Augment
from vidkd.data import randaugment
from vidkd.section import Modality

COLORED_AT_ONCE = 32768  # pixels: as much as stays in the processor's cache
Window = tuple[int, int, int, int]  # top, left, height, width, in source pixels
LUMA = torch.tensor([0.299, 0.587, 0.114])
# Luma and the plane of colours: turning that plane changes the hue and leaves the luma and the grays alone.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


@dataclass(frozen=True, slots=True)
class Colors:
    """A change of colours, in the order of the fields; 1, 1, 1, 0 changes nothing."""

    brightness: float  # a factor
    contrast: float  # a factor of the distance from the mean gray
    saturation: float  # a factor of the distance from each pixel's gray
    hue: float  # turns of the colour circle


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the augmentation of one clip came out as."""

    window: Window
    flip: bool = False
    colors: Colors | None = None
    operations: tuple[randaugment.Operation, ...] = ()


def draw(augment: Augment, height: int, width: int, rng: torch.Generator) -> Drawn:
    """One clip's augmentation, for frames of that size. Each part draws the same numbers whatever the others say."""
    place, flip, colors = (torch.rand(n, generator=rng, dtype=torch.float64).tolist() for n in (40, 1, 4))
    window = centre(height, width)
    if augment.crop_scale is not None:
        window = random_window(height, width, augment.crop_scale, augment.crop_ratio, place)
    s = augment.color_jitter
    b, c, t, h = (2 * u - 1 for u in colors)
    return Drawn(
        window,
        flip=flip[0] < augment.flip,
        colors=Colors(1 + s * b, 1 + s * c, 1 + s * t, 0.1 * s * h) if s else None,
        operations=randaugment.draw(augment.randaugment, rng) if augment.randaugment else (),
    )


def random_window(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: Sequence[float]
) -> Window:
    """A window of random area (a share in `scale`) and shape (width / height in `ratio`, log-uniform), anywhere.

    Four of the `draws`, in [0, 1), make one try; the first that fits is it, as in RandomResizedCrop. If none does: the
    largest window of an allowed shape, in the middle.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for a, b, c, d in zip(*(draws[k::4] for k in range(4)), strict=True):
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
    short side: of squares of the whole short side, only three would be different ones."""
    if crops == 1:
        return [centre(height, width)]
    side = min(height, width)
    if crops == 3:
        return [((height - side) * k // 2, (width - side) * k // 2, side, side) for k in range(3)]
    side = max(side * 7 // 8, 1)
    bottom, right = height - side, width - side
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [(top, left, side, side) for top, left in places]


def crop(frames: Tensor, window: Window) -> Tensor:
    """frames [T, C, H, W] inside the window, channels last: so a copy and its resizing take less time than the resizing
    of a part of larger frames."""
    top, left, height, width = window
    inside = frames[..., top : top + height, left : left + width]
    return inside.contiguous(memory_format=torch.channels_last)


def view(cropped: Tensor, drawn: Drawn, size_px: int, mean_gray: float = 0.0, modality: Modality = "rgb") -> Tensor:
    """cropped [T, C, h, w] uint8 -> [T, C, size_px, size_px] uint8, C = 3, or 2 of flow.

    `mean_gray` is what contrast turns about. Mirrored flow moves the other way along x; its vectors keep their length
    whatever the size of the picture, as is the custom of two-stream networks.
    """
    if cropped.shape[-2:] != (size_px, size_px):
        cropped = F.resize(cropped, [size_px, size_px], antialias=True)
    planes = _planes(cropped, drawn.flip)
    if drawn.flip and modality == "flow":
        planes[0] = 255 - planes[0]
    if drawn.colors is not None:
        planes = _recolored(planes, drawn.colors, mean_gray)
    made = planes.transpose(0, 1)
    for operation in drawn.operations:
        made = randaugment.apply(made, operation)
    return made


def _planes(frames: Tensor, flip: bool) -> Tensor:
    """frames [T, C, H, W] as [C, T, H, W], the order in which a network reads them; a copy, mirrored if `flip`."""
    pixels = frames.numpy()  # which copies bytes out of such an order in less time than torch does
    return torch.from_numpy(np.ascontiguousarray(pixels[..., :: -1 if flip else 1].swapaxes(0, 1)))


def mean_gray(frame: Tensor) -> float:
    """The mean luma, 0..255, of frame [3, H, W] uint8, from every fourth row and column."""
    return float(LUMA @ frame[:, ::4, ::4].float().mean((1, 2)))


def recolored(frames: Tensor, colors: Colors, mean_gray: float) -> Tensor:
    """frames [T, 3, H, W] uint8 with changed colours: one affine map of RGB, which costs a pass where four would do.

    Brightness, contrast and saturation are torchvision's, but for clipping only once, at the end. Hue turns the
    plane of colours of YIQ. Contrast turns about one gray for the whole clip, so nothing flickers.
    """
    return _recolored(_planes(frames, flip=False), colors, mean_gray).transpose(0, 1)


def _recolored(planes: Tensor, colors: Colors, mean_gray: float) -> Tensor:
    """`recolored` of planes [3, T, H, W]."""
    matrix = _color_matrix(colors)
    offset = torch.tensor((1.0 - colors.contrast) * colors.brightness * mean_gray)
    pixels = planes.reshape(3, -1)
    made, room = np.empty(pixels.shape, np.uint8), torch.empty(2, 3, min(COLORED_AT_ONCE, pixels.shape[1]))
    for some in range(0, pixels.shape[1], COLORED_AT_ONCE):
        part = pixels[:, some : some + COLORED_AT_ONCE]
        given, changed = room[..., : part.shape[1]]
        given.copy_(part)
        torch.addmm(offset, matrix, given, out=changed).round_().clamp_(0, 255)
        made[:, some : some + COLORED_AT_ONCE] = changed.numpy()
    return torch.from_numpy(made).view(planes.shape)


@lru_cache(maxsize=1)  # the views of a clip follow one another
def _color_matrix(colors: Colors) -> Tensor:
    """[3, 3] float32: what the change of colours does to RGB, but for contrast's offset."""
    cos, sin = math.cos(2 * math.pi * colors.hue), math.sin(2 * math.pi * colors.hue)
    hue = YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ RGB_TO_YIQ
    saturation = colors.saturation * np.eye(3) + (1 - colors.saturation) * LUMA.numpy()
    return torch.from_numpy((colors.brightness * colors.contrast * (hue @ saturation)).astype(np.float32))
