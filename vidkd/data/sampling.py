"""Which frames of a video: pure functions on whole numbers.

A clip is `frames` source frames, `stride` apart; its span, (frames - 1) * stride + 1 source frames, is what it covers.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch

from vidkd.config import ClipSpec

ROUNDING = 1e-6  # of a frame: 29.97 is not a binary number


def span(clip: ClipSpec) -> int:
    """Source frames from the first to the last frame of a clip, both counted."""
    return (clip.frames - 1) * clip.stride + 1


def at_rate(video_frames: int, fps: float, rate: float | None) -> Sequence[int]:
    """The source frames of a video read at `rate` frames a second: of each 1 / rate seconds the last frame that begins
    in them; floor(video_frames * rate / fps) in all, at least one. All frames where `rate` is None."""
    if rate is None:
        return range(video_frames)
    step = fps / rate
    count = max(1, math.floor(video_frames / step + ROUNDING))
    return [min(math.ceil((k + 1) * step - ROUNDING) - 1, video_frames - 1) for k in range(count)]


def train_start(video_frames: int, span: int, rng: torch.Generator) -> int:
    """The first frame of a random span inside the video, every place equally likely; 0 where it does not fit."""
    room = max(video_frames - span, 0)
    return int(torch.randint(room + 1, (), generator=rng))


def test_starts(video_frames: int, span: int, clips: int) -> list[int]:
    """The first frames of `clips` spans spread evenly from the video's start to its end; the middle for one."""
    room = max(video_frames - span, 0)
    if clips == 1:
        return [room // 2]
    return [(2 * k * room + clips - 1) // (2 * (clips - 1)) for k in range(clips)]  # k * room / (clips - 1), rounded


def indices(start: int, clip: ClipSpec, video_frames: int, short: Literal["loop", "hold"]) -> list[int]:
    """The `clip.frames` source frames of the span that begins at `start`.

    Where the video ends before the span does, it begins again (loop) or stands still on its last frame (hold).
    """
    wanted = range(start, start + clip.frames * clip.stride, clip.stride)
    if short == "loop":
        return [i % video_frames for i in wanted]
    return [min(i, video_frames - 1) for i in wanted]


def subsample(indices: Sequence[int], frames: int) -> list[int]:
    """`frames` of the indices, evenly spaced from the first on: number floor(i * T / frames)."""
    if not 0 < frames <= len(indices):
        raise ValueError(f"cannot take {frames} of {len(indices)} frames")
    return [indices[i * len(indices) // frames] for i in range(frames)]


def window_starts(video_frames: int, span: int, step: int) -> list[int]:
    """The first frames of spans `step` apart that together cover every frame: the last one ends with the video.

    `step` may not be larger than `span`, or frames between two spans would be seen by neither.
    """
    if not 0 < step <= span:
        raise ValueError(f"step {step} must be in 1..{span}, the span")
    last = max(video_frames - span, 0)
    starts = list(range(0, last + 1, step))
    return starts if starts[-1] == last else [*starts, last]
