"""python -m vidkd.predict VIDEO --model PATH [--top 5] [--stride-s S] [--json FILE] [--png FILE]

What happens when: a trained student looks at a video of any length through a window that slides over it. PATH is a run
directory, or the student.safetensors in it.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from vidkd import checkpoint, cli, export
from vidkd.data import clips, complete, container, sampling, transforms
from vidkd.data.decode import Video, open_video
from vidkd.data.degrade import degrade
from vidkd.errors import ConfigError, DataError
from vidkd.export import Student
from vidkd.timeline import Timeline, clock, picture, text_bar

DECODER = "pyav"  # its memory stays flat over hours; decord keeps every packet that it has read
ASSUMED_FPS = 25.0  # where a video does not say
PICTURES, PICTURE_PX = 9, 240  # frames in the --png, and their height


def main(argv: list[str]) -> int:
    args = _arguments().parse_args(argv)
    _check(args)
    student = export.load_student(args.model).to(args.device)
    complete_or_error(args.video)
    with open_video(args.video, DECODER) as video:
        fps, duration_s = timing(video)
        starts, span = windows(student, video, args.stride_s)
        _say_what(args.video, video, student, duration_s, span / fps, len(starts))
        pictures: dict[int, Tensor | None] = {}
        if args.png:
            pictures = {int((i + 0.5) * video.frames / PICTURES): None for i in range(PICTURES)}
        found = probabilities(student, video, starts, args.batch, pictures)
    start_s = torch.tensor(starts, dtype=torch.float64) / fps
    timeline = Timeline(student.classes, start_s, (start_s + span / fps).clamp(max=duration_s), found, duration_s)
    _print(timeline, args.top)
    if args.json:
        report = as_json(timeline, args.top, args.video, args.model, student, fps)
        checkpoint.write_atomic(args.json, (json.dumps(report, indent=1) + "\n").encode())
    if args.png:
        frames = [(i / fps, frame) for i, frame in pictures.items() if frame is not None]
        about = f"{student.network}, {len(student.classes)} classes, {len(starts)} windows of {clock(span / fps)} s"
        checkpoint.write_atomic(args.png, picture(timeline, args.video.name, about, frames))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidkd.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", type=Path, required=True, metavar="PATH")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes a window (default: 5)")
    parser.add_argument("--stride-s", type=float, metavar="S", help="seconds between windows (default: half a window)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every window there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw it all over time")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="windows at a time (default: 8)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _check(args: argparse.Namespace) -> None:
    """What can be known to be wrong before the work is done."""
    for name in ("top", "batch"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: must be 1 or more")
    if args.stride_s is not None and not (math.isfinite(args.stride_s) and args.stride_s > 0):
        raise ConfigError(f"--stride-s {args.stride_s}: must be a positive number of seconds")
    for path in (args.json, args.png):
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{path}: cannot be written there: {'a folder' if path.is_dir() else 'no such folder'}")


def complete_or_error(path: Path) -> None:
    """DataError if the video is shorter than it says it is, or no video at all: a decoder may not notice."""
    kind = container.inspect(path).kind
    if missing := complete.missing_bytes(path, kind):
        raise DataError(f"{path}: it was cut short: at least {missing} bytes are missing at its end; get it again")


def timing(video: Video) -> tuple[float, float]:
    """Frames a second and the duration in seconds. DataError for a video without frames."""
    if video.frames < 1:
        raise DataError(f"{video.path}: it has no frames")
    fps = video.fps if math.isfinite(video.fps) and video.fps > 0 else ASSUMED_FPS
    return fps, video.frames / fps


def windows(student: Student, video: Video, stride_s: float | None) -> tuple[list[int], int]:
    """The first frames of all windows, and how many frames each covers."""
    span = min(sampling.span(student.clip), video.frames)
    step = max(1, span // 2 if stride_s is None else round(stride_s * timing(video)[0]))
    if step <= span:
        return sampling.window_starts(video.frames, span, step), span
    return list(range(0, video.frames - span + 1, step)), span  # what lies between is not looked at


@torch.no_grad()
def probabilities(
    student: Student, video: Video, starts: list[int], batch: int, pictures: dict[int, Tensor | None] | None = None
) -> Tensor:
    """[n, K] float64, one row a window. `pictures` is filled with small copies of the frames that it names.

    One pass over the video; in memory are never more frames than `batch` windows have, at the student's size.
    """
    device = student.tapped.mean.device
    given = student.view.frames or student.clip.frames
    plans = [sampling.subsample(sampling.indices(s, student.clip, video.frames, student.short), given) for s in starts]
    needed = sorted({i for plan in plans for i in plan} | set(pictures or ()))
    walk = zip(needed, video.walk(needed), strict=True)
    held: dict[int, Tensor] = {}
    rows = []
    bar = tqdm(total=len(plans), unit="window", disable=None, leave=False)
    for at in range(0, len(plans), batch):
        portion = plans[at : at + batch]
        first, last = min(map(min, portion)), max(map(max, portion))
        held = {i: frame for i, frame in held.items() if i >= first}
        for i, frame in _up_to(walk, last, held):
            held[i] = _small(frame, student.view.size_px)
            if pictures and i in pictures:
                pictures[i] = _picture(frame)
        seen = [_degraded(student, [held[i] for i in plan], plan[0]) for plan in portion]
        rows.append(student(torch.stack(seen).to(device)).double().softmax(dim=1).cpu())
        bar.update(len(portion))
    bar.close()
    for i, frame in walk:  # pictures behind the last window
        if pictures and i in pictures:
            pictures[i] = _picture(frame)
    found = torch.cat(rows)
    if not torch.isfinite(found).all():
        raise DataError(f"{video.path}: the student answers with something that is not a number; its weights are bad")
    return found


def _up_to(walk: Iterator[tuple[int, Tensor]], last: int, held: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """The frames that are still to come, up to and with frame `last`."""
    if last in held:
        return
    for i, frame in walk:
        yield i, frame
        if i >= last:
            return


def _small(frame: Tensor, size_px: int) -> Tensor:
    """[3, H, W] -> [3, size_px, size_px]: the centre, as evaluation sees it."""
    window = transforms.centre(*frame.shape[1:])
    return transforms.view(transforms.crop(frame[None], window), transforms.Drawn(window), size_px)[0]


def _picture(frame: Tensor) -> Tensor:
    width = max(1, round(frame.shape[2] * PICTURE_PX / frame.shape[1]))
    return F.resize(frame, [PICTURE_PX, width], antialias=True)


def _degraded(student: Student, frames: list[Tensor], address: int) -> Tensor:
    """[3, T, H, W], made worse as the student's training clips were."""
    return degrade(torch.stack(frames), student.view.degrade, clips.generator(address)).transpose(0, 1)


def as_json(timeline: Timeline, top: int, video: Path, model: Path, student: Student, fps: float) -> dict[str, Any]:
    """The whole answer as plain values."""

    def best(row: Tensor) -> list[dict[str, Any]]:
        return [{"class": name, "probability": p} for name, p in timeline.top(row, top)]

    spans = zip(timeline.start_s.tolist(), timeline.end_s.tolist(), timeline.probabilities, strict=True)
    return {
        "video": str(video),
        "model": str(model),
        "network": student.network,
        "fps": fps,
        "duration_s": timeline.duration_s,
        "overall": best(timeline.overall()),
        "windows": [{"start_s": start, "end_s": end, "top": best(row)} for start, end, row in spans],
    }


def _say_what(path: Path, video: Video, student: Student, duration_s: float, window_s: float, count: int) -> None:
    fps = f"{video.fps:.4g}/s" if video.fps > 0 else f"{ASSUMED_FPS:g}/s (assumed: the file does not say)"
    print(f"{path}: {clock(duration_s)} s, {video.frames} frames at {fps}")
    print(f"{student.network}, {len(student.classes)} classes: {count} window(s) of {clock(window_s)} s\n", flush=True)


def _print(timeline: Timeline, top: int) -> None:
    width = len(clock(timeline.duration_s))
    for start, end, row in zip(timeline.start_s.tolist(), timeline.end_s.tolist(), timeline.probabilities, strict=True):
        classes = ", ".join(f"{name} {p:.1%}" for name, p in timeline.top(row, top))
        print(f"{clock(start):>{width}} - {clock(end):>{width}} s  {classes}")
    print("\n" + "\n".join(text_bar(timeline)))
    print("\nall in all: " + ", ".join(f"{name} {p:.1%}" for name, p in timeline.top(timeline.overall(), top)))


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]  a terminal without ▄
    sys.exit(cli.run_main(main, sys.argv[1:]))
