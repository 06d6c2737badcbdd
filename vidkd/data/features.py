"""Features of a video that were computed before (vidkd.extract), in the place of its pictures: a .npy file [T, C] is a
video of T pictures of one pixel and C channels. ActionFormer and OpenTAD keep features in the same form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidkd.config import Degrade, Run
from vidkd.data.index import Part
from vidkd.errors import ConfigError, DataError

DESCRIPTION = "features.json"  # in the folder of the features or above it: what they are, and how many a second


def check(name: str, run: Run) -> None:
    """ConfigError if `run` would do to the features of the data set `name` what is for pictures."""
    augment, views = run.data.augment, run.views().values()
    colours = augment.color_jitter or augment.randaugment
    if colours or any(view.size_px > 1 or view.degrade != Degrade() for view in views):
        raise ConfigError(
            f"{name} holds features, not pictures: set size_px to 1 and leave out data.augment.color_jitter, "
            "data.augment.randaugment and degrade"
        )


def channels(part: Part) -> int:
    """Of the videos of `part`: 3, colours, 2, flow along x and y, or as many as features have."""
    known = {"rgb": 3, "flow": 2}.get(part.modality)
    return known or int(Features(part[0].path).mapped.shape[1])


class Features:
    """Reads a file of features, mapped into memory."""

    errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as features ({error}); extract them again") from None
        if self.mapped.ndim != 2 or self.mapped.dtype.kind != "f" or not self.mapped.size:
            shape, kind = list(self.mapped.shape), self.mapped.dtype
            raise DataError(f"{path}: features are numbers with a point [T, C], not {kind} {shape}")

    @property
    def frames(self) -> int:
        return len(self.mapped)

    @property
    def fps(self) -> float:
        """Features a second, from the description; 0 where there is none."""
        place = next((p / DESCRIPTION for p in self.path.parents if (p / DESCRIPTION).is_file()), None)
        if place is None:
            return 0.0
        try:
            said = json.loads(place.read_text(encoding="utf-8"))
            return float(said["video_fps"] or 0) / said["stride_frames"]
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise DataError(f"{place}: does not say how many features there are a second ({error!r})") from None

    @property
    def size_px(self) -> tuple[int, int]:
        return 1, 1

    def read(self, indices: list[int]) -> Tensor:
        """[n, C, 1, 1] float32, fewer where the video ends before."""
        rows = np.asarray(self.mapped[[i for i in indices if i < self.frames]], np.float32)
        return torch.from_numpy(rows)[..., None, None]

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        yield from self.read(indices)

    def close(self) -> None:
        self.mapped = None
