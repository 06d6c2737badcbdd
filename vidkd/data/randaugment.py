"""RandAugment for clips: the same operations, strengths and directions for every frame and every view of a clip."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vidkd.config import RandAugment

MAX_MAGNITUDE = 30


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    strength: float  # in -1..1, or 0..1 where a sign means nothing


def draw(section: RandAugment, rng: torch.Generator) -> tuple[Operation, ...]:
    """`ops` operations, each as likely as every other, of the section's magnitude; half of them the other way round."""
    drawn = []
    names = list(OPERATIONS)
    for which, sign in torch.rand(section.ops, 2, generator=rng, dtype=torch.float64).tolist():
        strength = section.magnitude / MAX_MAGNITUDE
        drawn.append(Operation(names[int(which * len(names))], -strength if sign < 0.5 else strength))
    return tuple(drawn)


def apply(frames: Tensor, operation: Operation) -> Tensor:
    """frames [T, 3, H, W] uint8 -> the same shape."""
    return OPERATIONS[operation.name](frames, operation.strength)


def _moved(frames: Tensor, *, right: float = 0, down: float = 0, turn: float = 0, lean: tuple[float, float]) -> Tensor:
    """Shifted by shares of the sides, turned and sheared by degrees about the middle: alike at every size."""
    height, width = frames.shape[-2:]
    shift = [right * width, down * height]  # not rounded to pixels, or views of other sizes would drift apart
    return F.affine(
        frames, angle=turn, translate=shift, scale=1.0, shear=list(lean), interpolation=InterpolationMode.BILINEAR
    )


def _as_one_picture(change: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """What depends on the statistics of a picture is given those of the whole clip: it must not flicker."""
    t, c, h, w = frames.shape
    return change(frames.transpose(0, 1).reshape(c, t * h, w)).view(c, t, h, w).transpose(0, 1)


def _degrees(slope: float) -> float:
    return math.degrees(math.atan(slope))


STRAIGHT = (0.0, 0.0)
# The largest strengths are those of the paper's code, also torchvision's: (frames, strength in -1..1) -> frames.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, _: x,
    "shear_x": lambda x, s: _moved(x, lean=(_degrees(0.3 * s), 0.0)),
    "shear_y": lambda x, s: _moved(x, lean=(0.0, _degrees(0.3 * s))),
    "translate_x": lambda x, s: _moved(x, right=150 / 331 * s, lean=STRAIGHT),
    "translate_y": lambda x, s: _moved(x, down=150 / 331 * s, lean=STRAIGHT),
    "rotate": lambda x, s: _moved(x, turn=30 * s, lean=STRAIGHT),
    "brightness": lambda x, s: F.adjust_brightness(x, 1 + 0.9 * s),
    "color": lambda x, s: F.adjust_saturation(x, 1 + 0.9 * s),
    "contrast": lambda x, s: _as_one_picture(lambda p: F.adjust_contrast(p, 1 + 0.9 * s), x),
    "sharpness": lambda x, s: F.adjust_sharpness(x, 1 + 0.9 * s),
    "posterize": lambda x, s: F.posterize(x, 8 - round(4 * abs(s))),
    "solarize": lambda x, s: F.solarize(x, 255 * (1 - abs(s))),
    "autocontrast": lambda x, _: _as_one_picture(F.autocontrast, x),
    "equalize": lambda x, _: _as_one_picture(F.equalize, x),
}
