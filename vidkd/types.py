"""The few values that travel between packages. They check themselves at the border; the interior trusts them.

Shape letters, the same in every file:
    B clips   C channels   T frames   H height   W width   K classes   V test views
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segments:
    """Actions in videos, or detections of them, as columns of one length; times in seconds from the video's start."""

    video: NDArray[np.object_]  # names
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    label: NDArray[np.object_]  # class names
    score: NDArray[np.float64] | None = None  # the higher the surer; None for annotations

    def __post_init__(self) -> None:
        columns = [self.video, self.start_s, self.end_s, self.label, *([] if self.score is None else [self.score])]
        if len({len(column) for column in columns}) != 1:
            raise ValueError(
                f"columns of {[len(column) for column in columns]} rows; they must be as long as each other"
            )

    def __len__(self) -> int:
        return len(self.video)

    def where(self, rows: NDArray[np.bool_]) -> "Segments":
        """The rows for which `rows` is true."""
        score = None if self.score is None else self.score[rows]
        return Segments(self.video[rows], self.start_s[rows], self.end_s[rows], self.label[rows], score)

    @staticmethod
    def of(rows: Iterable[tuple[Any, ...]], scored: bool = False) -> "Segments":
        """From (video, start_s, end_s, label) tuples, with a score behind where `scored`."""
        columns = list(zip(*rows, strict=True)) or [()] * (5 if scored else 4)
        kinds = (object, np.float64, np.float64, object, np.float64)
        return Segments(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=False)))


@dataclass(frozen=True, slots=True)
class Shown:
    """What one clip shows: which moments of which video, and which window of the picture. A task cuts its own truth
    (segments, maps) to it."""

    video: str  # its name in the index
    start_s: float  # the span of time it covers; a video shorter than a clip ends before end_s
    end_s: float
    duration_s: float  # of the video
    frames: tuple[int, ...] = ()  # of the source, those that are shown
    window: tuple[int, int, int, int] | None = None  # top, left, height, width in source pixels
    flip: bool = False


ALTERED = "altered"  # the view that a task has made of the student's, for the student to see beside it


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """What a loader yields: the same clips as each network sees them."""

    views: dict[str, Tensor]  # network -> [B, 3, T, H, W], uint8 in 0..255 or float in 0..1 (after mixing); `ALTERED`
    label: Tensor  # [B] int64
    clip: tuple[str, ...]  # B names, unique in the index
    target: Tensor | None = None  # [B, K] soft labels, where mixup or CutMix made some
    address: Tensor | None = (
        None  # [B, 2] int64, (address epoch, position in the part): what a teacher cache is keyed by
    )
    extra: dict[str, Tensor] = field(default_factory=dict)  # a task's own truth, [B, ...]: BaseTask.truth

    def __post_init__(self) -> None:
        for name, video in self.views.items():
            if video.ndim != 5 or video.shape[0] != len(self.label):
                raise ValueError(f"view {name!r} must be [{len(self.label)}, 3, T, H, W], got {tuple(video.shape)}")
        if self.label.ndim != 1 or len(self.clip) != len(self.label):
            raise ValueError(f"{len(self.clip)} clip names for labels of shape {tuple(self.label.shape)}")

    def seen_by(self, network: str) -> Tensor:
        """The view made for `network`; ValueError if the loader was not asked for it."""
        if network not in self.views:
            raise ValueError(f"the batch has no view {network!r}; it has: {', '.join(sorted(self.views))}")
        return self.views[network]

    def to(self, device: torch.device) -> "ClipBatch":
        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}

        target = None if self.target is None else self.target.to(device)
        return replace(self, views=move(self.views), label=self.label.to(device), target=target, extra=move(self.extra))


@dataclass(frozen=True, slots=True)
class View:
    """What one network made of one batch."""

    logits: Tensor  # [B, K]
    taps: dict[str, Tensor]  # tap name -> the tap's axes, [B, C, T, H, W] unless it says otherwise
    video: Tensor | None = None  # [B, 3, T, H, W] the normalised input; None where it was replayed from a cache
    altered: "View | None" = None  # what it made of views["altered"], where the task has the student see that too
