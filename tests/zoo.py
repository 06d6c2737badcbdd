"""The smallest that every network of the zoo can be made and shown."""

from vidkd import models
from vidkd.taps import Tapped

BIG = {"csn_r101", "slowfast_r50", "slowfast_r101", "swin3d_s", "swin3d_b", "x3d_l", "r3d_18", "i3d_r50", "r2plus1d_18"}


def smallest_options(name: str) -> dict[str, int]:
    """Networks that are built for one clip length and size are built for the least."""
    return {"frames": 2, "size_px": 32} if {"frames", "size_px"} <= models.options_of(name).keys() else {}


def smallest_clip(network: Tapped) -> tuple[int, int]:
    limits = network.input
    return limits.frames or max(limits.min_frames, limits.frames_multiple), limits.size_px or limits.min_size_px
