"""What the methods that compare feature maps [B, C, T, H, W] share."""

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["per_frame", "spatiotemporal", "both"]
SingleForm = Literal["per_frame", "spatiotemporal"]


def forms(form: Form) -> list[SingleForm]:
    """The forms to compute; a loss of `both` is the mean of the two."""
    return ["per_frame", "spatiotemporal"] if form == "both" else [form]


def at_frames(maps: Tensor, frames: int) -> Tensor:
    """maps [B, C, T, H, W] -> [B, C, frames, H, W]: for each of `frames` the one at the same share of the span,
    index floor(i * T / frames)."""
    t = maps.shape[2]
    if t == frames:
        return maps
    return maps[:, :, torch.arange(frames, device=maps.device) * t // frames]


def sizes(shape: tuple[int, int, int, int]) -> str:
    """[C, T, H, W] as TxHxWxC, for a person to read."""
    c, t, h, w = shape
    return f"{t}x{h}x{w}x{c}"


def dead_share(maps: Tensor, form: SingleForm) -> float:
    """The share of the maps of [B, C, T, H, W] that are zero everywhere and so have no direction, in 0..1.

    A map is one channel of one clip over (t, h, w), or per_frame of one of its frames over (h, w).
    """
    dead = ~maps.any(-1).any(-1)
    return (dead if form == "per_frame" else dead.all(2)).float().mean().item()


def projection(c_student: int, c_teacher: int) -> nn.Module:
    """From the student's channels to the teacher's, 1 x 1 x 1 without bias; nothing where they are the same."""
    return nn.Identity() if c_student == c_teacher else nn.Conv3d(c_student, c_teacher, 1, bias=False)
