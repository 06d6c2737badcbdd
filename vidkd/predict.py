"""python -m vidkd.predict VIDEO --model PATH [--top 5] [--stride-s S] [--json FILE] [--png FILE] [--html FILE]

What happens when: a trained student looks at a video of any length through a window that slides over it. PATH is a run
directory, or the student.safetensors in it. A detector (--task detection) says when each action begins and ends; of
several (--model A --model B: two streams) the answers are averaged before anything is decoded. A student of optical
flow sees --flow FILE, as data_prep flow stored it, or flow that is computed here (--flow-side PX, the short side of the
videos that its flow was computed from).
"""

import argparse
import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidkd import checkpoint, cli, export, outcome, sliding, tasks
from vidkd.data import complete, container, flow
from vidkd.data.decode import Video, open_video
from vidkd.errors import ConfigError, DataError
from vidkd.export import Student
from vidkd.run_dir import differences
from vidkd.timeline import Timeline, clock, of_events, page, picture, text_bar
from vidkd.timeline import events as event_line
from vidkd.timeline.events import Event

DECODER = "pyav"  # its memory stays flat over hours; decord keeps every packet that it has read
PICTURES = 9  # frames in the --png


def main(argv: list[str]) -> int:
    args = _arguments().parse_args(argv)
    _check(args)
    students = [export.load_student(path).to(args.device) for path in args.model]
    student = students[0]
    trained_for = student.task["kind"]
    if args.task not in (None, trained_for):
        raise ConfigError(f"--task {args.task}: {args.model[0]} was trained for {trained_for}")
    task = tasks.load(trained_for)
    asked = "--flow" if args.flow is not None else "--flow-side" if args.flow_side is not None else ""
    _check_streams(args.model, students, task, asked)
    complete_or_error(args.video)
    with open_video(args.video, DECODER) as video, ExitStack() as opened:
        sources = [
            opened.enter_context(flow.instead_of(video, args.flow, args.flow_side)) if sliding.of_flow(each) else video
            for each in students
        ]
        fps, duration_s = sliding.timing(video)
        rate = student.fps or fps
        starts, span = sliding.windows(student, video, args.stride_s)
        _say_what(args.video, video, students, duration_s, span / rate, len(starts))
        pictures: sliding.Pictures = {}
        if (args.png or args.html) and video in sources and video.decoder != "features":
            pictures = {int((i + 0.5) * video.frames / PICTURES): None for i in range(PICTURES)}
        report: dict[str, Any] = {"video": str(args.video), "model": ", ".join(map(str, args.model))}
        report |= {"network": student.network, "fps": fps, "duration_s": duration_s}
        timeline = None
        if hasattr(task, "events"):
            every = sliding.events(students, task, sources, starts, args.batch, pictures)
            found = [event for event in every if event[3] >= args.threshold]
            _print_events(found, of_events(student.classes, found, duration_s))
            report["events"] = [dict(zip(("start_s", "end_s", "class", "score"), e, strict=True)) for e in found]
        else:
            seen = sliding.probabilities(student, sources[0], starts, args.batch, pictures)
            start_s = torch.tensor(starts, dtype=torch.float64) / rate
            end_s = (start_s + span / rate).clamp(max=duration_s)
            timeline = Timeline(student.classes, start_s, end_s, seen, duration_s)
            _print(timeline, args.top)
            found = rulers(timeline)
            report |= as_json(timeline, args.top)
    if args.json:
        checkpoint.write_atomic(args.json, (json.dumps(report, indent=1) + "\n").encode())
    frames = [(i / fps, frame) for i, frame in pictures.items() if frame is not None]
    networks = " and ".join(each.network for each in students)
    about = f"{networks}, {len(student.classes)} classes, {len(starts)} window(s) of {clock(span / rate)} s"
    if args.png:
        drawn = (
            picture(timeline, args.video.name, about, frames)
            if timeline
            else event_line.picture(found, args.video.name, about, frames, duration_s)
        )
        checkpoint.write_atomic(args.png, drawn)
    if args.html:
        checkpoint.write_atomic(args.html, page.page(found, args.video.name, about, frames, duration_s).encode())
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidkd.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", type=Path, required=True, action="append", metavar="PATH")
    parser.add_argument("--task", help="what the model was trained for; another one is an error")
    parser.add_argument("--flow", type=Path, metavar="FILE", help="the video's optical flow, for students of flow")
    parser.add_argument("--flow-side", type=int, metavar="PX", help="or compute it from pictures of that short side")
    parser.add_argument("--threshold", type=float, default=0.1, metavar="P", help="the least score of an event (0.1)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes a window (default: 5)")
    parser.add_argument("--stride-s", type=float, metavar="S", help="seconds between windows (default: half a window)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every window there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw it all over time")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the same as a web page in one file")
    cli.add_window_options(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    """What can be known to be wrong before the work is done."""
    for name in ("top", "batch"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: must be 1 or more")
    if not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold {args.threshold}: must be a probability, 0 to 1")
    if args.stride_s is not None and not (math.isfinite(args.stride_s) and args.stride_s > 0):
        raise ConfigError(f"--stride-s {args.stride_s}: must be a positive number of seconds")
    if args.flow is not None and args.flow_side is not None:
        raise ConfigError("--flow says where the flow is, --flow-side that it is to be computed: give one of them")
    if args.flow_side is not None and args.flow_side < 16:
        raise ConfigError(f"--flow-side {args.flow_side}: must be 16 or more")
    cli.check_outputs((args.json, args.png, args.html), (args.video, args.flow, *args.model))


def _check_streams(paths: list[Path], students: list[Student], task: Any, asked: str) -> None:
    """ConfigError unless all students can speak of the same windows, and their task can join what they say; `asked`
    names the option of flow that was given, "" if none."""
    first = students[0]
    if asked and not any(map(sliding.of_flow, students)):
        raise ConfigError(f"{asked}: no --model sees optical flow, for which it is")
    if len(students) > 1 and not hasattr(task, "events"):
        raise ConfigError("several --model are for detectors, whose answers are averaged; give one")
    for path, other in zip(paths, students, strict=True):
        tasks_differ = differences(outcome.scoring(first.task), outcome.scoring(other.task), "task")
        if tasks_differ:
            raise ConfigError(f"--model {path}: another task than that of {paths[0]}: {'; '.join(tasks_differ)}")
        for what in ("classes", "clip", "fps", "short"):
            if (own := getattr(other, what)) != (wanted := getattr(first, what)):
                raise ConfigError(f"--model {path}: its {what} is {own}, that of {paths[0]} {wanted}; they must agree")


def complete_or_error(path: Path) -> None:
    """DataError if the video is shorter than it says it is, or no video at all: a decoder may not notice."""
    kind = container.inspect(path).kind
    if missing := complete.missing_bytes(path, kind):
        raise DataError(f"{path}: it was cut short: at least {missing} bytes are missing at its end; get it again")


def rulers(timeline: Timeline, slots: int = 600) -> list[Event]:
    """Every stretch of time that one class rules, as an event."""
    step = timeline.duration_s / slots
    return [(start * step, end * step, timeline.classes[k], p) for start, end, k, p in timeline.stretches(slots)]


def as_json(timeline: Timeline, top: int) -> dict[str, Any]:
    """All windows as plain values."""

    def best(row: Tensor) -> list[dict[str, Any]]:
        return [{"class": name, "probability": p} for name, p in timeline.top(row, top)]

    spans = zip(timeline.start_s.tolist(), timeline.end_s.tolist(), timeline.probabilities, strict=True)
    return {
        "overall": best(timeline.overall()),
        "windows": [{"start_s": start, "end_s": end, "top": best(row)} for start, end, row in spans],
    }


def _say_what(
    path: Path, video: Video, students: list[Student], duration_s: float, window_s: float, count: int
) -> None:
    fps = f"{video.fps:.4g}/s" if video.fps > 0 else f"{sliding.ASSUMED_FPS:g}/s (assumed: the file does not say)"
    print(f"{path}: {clock(duration_s)} s, {video.frames} frames at {fps}")
    networks = " and ".join(each.network for each in students)
    print(f"{networks}, {len(students[0].classes)} classes: {count} window(s) of {clock(window_s)} s\n", flush=True)


def _print(timeline: Timeline, top: int) -> None:
    width = len(clock(timeline.duration_s))
    for start, end, row in zip(timeline.start_s.tolist(), timeline.end_s.tolist(), timeline.probabilities, strict=True):
        classes = ", ".join(f"{name} {p:.1%}" for name, p in timeline.top(row, top))
        print(f"{clock(start):>{width}} - {clock(end):>{width}} s  {classes}")
    print("\n" + "\n".join(text_bar(timeline)))
    print("\nall in all: " + ", ".join(f"{name} {p:.1%}" for name, p in timeline.top(timeline.overall(), top)))


def _print_events(found: list[Event], timeline: Timeline) -> None:
    width = len(clock(timeline.duration_s))
    for start, end, label, score in sorted(found):
        print(f"{clock(start):>{width}} - {clock(end):>{width}} s  {label} {score:.1%}")
    print("\n" + "\n".join(text_bar(timeline)) if found else "nothing is sure enough; a lower --threshold shows more")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]  a terminal without ▄
    sys.exit(cli.run_main(main, sys.argv[1:]))
