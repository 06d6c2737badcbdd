"""What trained students say of a video of any length, through windows that slide over it: the probabilities of each
window, or, of detectors, when what happens."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from vidkd.data import order, sampling, transforms, walking
from vidkd.data.decode import Video
from vidkd.data.degrade import degrade
from vidkd.errors import DataError
from vidkd.export import Student
from vidkd.types import View

FLOW_CHANNELS = 2  # along x and y
ASSUMED_FPS = 25.0  # where a video does not say
PICTURE_PX = 240  # the height of the frames that are kept to be shown
Pictures = dict[int, Tensor | None]
Answer = Callable[[Tensor, slice], Any]
Event = tuple[float, float, str, float]  # start_s, end_s, class, score


def of_flow(student: Student) -> bool:
    return len(student.tapped.input.mean) == FLOW_CHANNELS


def timing(video: Video) -> tuple[float, float]:
    """Frames a second and the duration in seconds. DataError for a video without frames."""
    if video.frames < 1:
        raise DataError(f"{video.path}: it has no frames")
    fps = video.fps if math.isfinite(video.fps) and video.fps > 0 else ASSUMED_FPS
    return fps, video.frames / fps


def windows(student: Student, video: Video, stride_s: float | None) -> tuple[list[int], int]:
    """The first frames of all windows, and how many frames each covers."""
    frames = len(readable(student, video))
    span = min(sampling.span(student.clip), frames)
    step = max(1, span // 2 if stride_s is None else round(stride_s * (student.fps or timing(video)[0])))
    if step <= span:
        return sampling.window_starts(frames, span, step), span
    return list(range(0, frames - span + 1, step)), span  # what lies between is not looked at


def readable(student: Student, video: Video) -> Sequence[int]:
    """The source frames that there are for the student: those at its rate, if it has one."""
    return sampling.at_rate(video.frames, timing(video)[0], student.fps)


def probabilities(
    student: Student, video: Video, starts: list[int], batch: int, pictures: Pictures | None = None
) -> Tensor:
    """[n, K] float64, one row a window. `pictures` is filled with small copies of the frames that it names."""

    def answer(seen: Tensor, _rows: slice) -> Tensor:
        return student(seen).double().softmax(dim=1).cpu()

    found = torch.cat(over_windows(student, video, starts, batch, answer, pictures))
    if not torch.isfinite(found).all():
        raise DataError(f"{video.path}: the student answers with something that is not a number; its weights are bad")
    return found


def events(
    students: list[Student],
    task: Any,
    sources: Sequence[Video],
    starts: list[int],
    batch: int,
    pictures: Pictures | None = None,
) -> list[Event]:
    """What the task makes of all windows together, by falling score; the answers of several students, each to its own
    of the `sources` (the video, its flow), are averaged. `pictures` is filled by who sees colours."""
    student, (fps, duration_s) = students[0], timing(sources[0])
    rate = student.fps or fps
    start_s = torch.tensor(starts, dtype=torch.float64) / rate
    span_s = torch.stack([start_s, start_s + student.clip.frames * student.clip.stride / rate], dim=1)

    def answers(each: Student, video: Video) -> list[View]:
        wanted = None if of_flow(each) else pictures
        return over_windows(each, video, starts, batch, lambda seen, _: task.said_of(each.tapped(seen)), wanted)

    said = [answers(each, own) for each, own in zip(students, sources, strict=True)]
    together = map(task.fused, zip(*said, strict=True))
    kept = [task.keep(view, own) for view, own in zip(together, span_s.split(batch), strict=True)]
    everything = {key: torch.cat([each[key] for each in kept]) for key in kept[0]}
    found = task.events(everything, task.Config.model_validate(student.task), student.classes)
    return [(start, min(end, duration_s), label, score) for start, end, label, score in found if start < duration_s]


@torch.no_grad()
def over_windows(
    student: Student, video: Video, starts: list[int], batch: int, answer: Answer, pictures: Pictures | None = None
) -> list[Any]:
    """What `answer` makes of every `batch` windows: [B, 3, T, H, W] and which of all they are.

    One pass over the video; in memory are never more frames than `batch` windows have, at the student's size.
    """
    device, source = student.tapped.mean.device, readable(student, video)
    given, clip = student.view.frames or student.clip.frames, student.clip
    spans = ([source[i] for i in sampling.indices(s, clip, len(source), student.short)] for s in starts)
    plans = [sampling.subsample(span, given) for span in spans]
    bar = tqdm(total=len(plans), unit="window", disable=None, leave=False)

    def made(i: int, frame: Tensor) -> Tensor:
        if pictures and i in pictures:
            pictures[i] = _picture(frame)
        return _small(frame, student.view.size_px)

    answers = []
    for k, portion in enumerate(walking.portions(video, plans, batch, made, set(pictures or ()))):
        rows = slice(k * batch, k * batch + len(portion))
        seen = [_degraded(student, frames, plan[0]) for frames, plan in zip(portion, plans[rows], strict=True)]
        answers.append(answer(torch.stack(seen).to(device), rows))
        bar.update(len(portion))
    bar.close()
    return answers


def _small(frame: Tensor, size_px: int) -> Tensor:
    """[3, H, W] -> [3, size_px, size_px]: the centre, as evaluation sees it."""
    window = transforms.centre(*frame.shape[1:])
    return transforms.view(transforms.crop(frame[None], window), transforms.Drawn(window), size_px)[0]


def _picture(frame: Tensor) -> Tensor:
    width = max(1, round(frame.shape[2] * PICTURE_PX / frame.shape[1]))
    return F.resize(frame, [PICTURE_PX, width], antialias=True)


def _degraded(student: Student, frames: Tensor, address: int) -> Tensor:
    """[3, T, H, W], made worse as the student's training clips were."""
    return degrade(frames, student.view.degrade, order.generator(address)).transpose(0, 1)
