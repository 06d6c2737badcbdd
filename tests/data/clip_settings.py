"""What the tests of clips show of a video, and to whom."""

from pathlib import Path

from torch import Tensor

from data import numbered
from vidkd.config import Augment, ClipSpec, Data, Degrade, RandAugment, ViewSpec

TEACHER = ViewSpec(size_px=64)
STUDENT = ViewSpec(size_px=32, frames=4)
NOISY = ViewSpec(size_px=32, frames=4, degrade=Degrade(noise_std=0.1))
STILL = Augment(crop_scale=None, flip=0)
RICH = Augment(color_jitter=0.4, randaugment=RandAugment(ops=1), flip=0.5)


def settings(**changes: object) -> Data:
    fields = {"root": Path("."), "clip": ClipSpec(frames=8, stride=2), "augment": STILL, "workers": 0, "timeout_s": 60}
    return Data.model_validate(fields | changes)


def read(video: Tensor) -> list[int]:
    """The numbers in one clip [3, T, H, W]."""
    return numbered.numbers(video.transpose(0, 1))
