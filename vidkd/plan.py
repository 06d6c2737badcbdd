"""python -m vidkd.plan CONFIG [KEY=VALUE ...] [--steps N]

What training CONFIG will be like, before any training: the taps on both sides with their sizes and what joins them,
what each method adds, where the time of a step goes (from a few real steps on this machine), the memory, the hours,
and after how many epochs a teacher cache has paid for itself.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidkd import cli, config_file, distiller, teacher_cache, trained, trainer
from vidkd.config import Run
from vidkd.data import clips, index
from vidkd.data.index import Part
from vidkd.distiller import Trainee
from vidkd.models import cost
from vidkd.section import in_steps
from vidkd.taps import Frozen, Tapped
from vidkd.tasks._base import BaseTask

Rows = list[list[str]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=5, help="real steps to time, after one to warm up (default: 5)")
    args = parser.parse_intermixed_args(argv)
    print(plan(config_file.load(args.config, args.overrides), max(args.steps, 1)))
    return 0


def plan(run: Run, steps: int) -> str:
    """The whole text. ConfigError and DataError as training would raise them at its start."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    accelerator = trained.make_accelerator(run)
    data_set = index.read(run.data.root)
    clips.check(data_set, run)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.train, training=True)
    per_epoch = len(part) // run.train.batch_size
    run = in_steps(run, per_epoch)
    trainee, teacher, accounts = distiller.build(run, len(data_set.classes))
    if teacher is not None:
        teacher.to(accelerator.device)
    timed = Stopwatch(accelerator.device)
    added = take_steps(run, trainee, teacher, task, part, steps, timed)
    sections = [
        f"{run.name}: {len(part)} clips, {per_epoch} steps of {run.train.batch_size} an epoch, "
        f"{run.train.count()} steps on {accelerator.device.type}",
        *accounts,
        "",
        table(networks(trainee.student, teacher)),
    ]
    if trainee.each_method():
        sections += ["", table(adapters(trainee, added))]
    return "\n".join([*sections, "", *prospects(run, part, teacher, trainee, timed, per_epoch)])


class Stopwatch:
    """Seconds by what they were spent on, step by step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.laps.setdefault(what, []).append(time.perf_counter() - started)

    def medians(self) -> dict[str, float]:
        """Of every lap but the first, which warms up."""
        return {what: median(laps[1:] or laps) for what, laps in self.laps.items()}


def take_steps(
    run: Run, trainee: Trainee, teacher: Frozen | None, task: BaseTask, part: Part, steps: int, timed: Stopwatch
) -> list[float]:
    """Take one and then `steps` real training steps on this process; the GMACs that each method adds for one clip."""
    accelerator = trained.make_accelerator(run)
    state = trained.prepare(run, accelerator, trainee)
    added = [0.0] * len(trainee.each_method())
    batches = iter(trainer.train_loader(run, part, 0, accelerator, teacher))
    trainee.train()
    for _ in range(min(1 + steps, run.train.count() * run.train.accumulate)):
        with timed("data"):
            batch = next(batches).to(accelerator.device)
        with timed("teacher"):
            seen = None if teacher is None else teacher(batch.seen_by("teacher"))
        with timed("student"), accelerator.autocast():
            student = trainee.student(batch.seen_by("student"))
            supervised = task.losses(batch, student)
        distilled: distiller.Terms = {}
        with timed("methods"), accelerator.autocast():
            for i, (key, method) in enumerate(zip(trainee.keys, trainee.each_method(), strict=True)):
                with FlopCounterMode(display=False) as counter:
                    distilled |= {f"{key}/{name}": term for name, term in method(batch, student, seen).items()}
                added[i] = counter.get_total_flops() / 2e9 / len(batch.label)
        with timed("backward and optimiser"):
            accelerator.backward(distiller.losses(run, 0, supervised, distilled)["total"])
            for optimizer in state.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
    return added


def networks(student: Tapped, teacher: Frozen | None) -> Rows:
    """Input, cost and taps, student beside teacher."""
    both = [student] + ([teacher.tapped] if teacher is not None else [])
    shapes = [cost.tap_shapes(tapped, *_clip(tapped)) for tapped in both]
    rows = [["", "student", "teacher"][: 1 + len(both)], ["network", *(tapped.name for tapped in both)]]
    rows.append(["input [T, H, W]", *(_times((f, s, s)) for f, s in map(_clip, both))])
    rows.append(["parameters", *(f"{cost.parameters(tapped):,}" for tapped in both)])
    rows.append(["GMACs a clip", *(f"{cost.gmacs(tapped, *_clip(tapped)):.3f}" for tapped in both)])
    for tap in dict.fromkeys(name for found in shapes for name in found):
        found = [_times(_channels_last(s[tap])) if tap in s else "" for s in shapes]
        rows.append([f"{tap} [T, H, W, C]", *found])
    return rows


def adapters(trainee: Trainee, added: list[float]) -> Rows:
    """What each method compares, how it makes the two fit, and what that adds to training (and not to the student)."""
    rows = [["method", "student", "teacher", "joined by", "parameters", "GMACs a clip"]]
    for key, method, gmacs in zip(trainee.keys, trainee.each_method(), added, strict=True):
        for i, pair in enumerate(method.compares()):
            costs = ["", ""] if i else [f"{cost.parameters(method):,}", f"{gmacs:.3f}"]
            rows.append(["" if i else key, pair.student, pair.teacher, pair.by, *costs])
    return rows


def prospects(
    run: Run, part: Part, teacher: Frozen | None, trainee: Trainee, timed: Stopwatch, per_epoch: int
) -> list[str]:
    """Time, memory and cache, in sentences."""
    spent = {what: seconds * run.train.accumulate for what, seconds in timed.medians().items()}
    cache = run.teacher.cache if run.teacher is not None else None
    teaching = spent.pop("teacher")
    if teacher is not None and cache is None:
        spent["teacher"] = teaching
    step = sum(spent.values())
    shares = ", ".join(f"{what} {100 * s / step:.0f} %" for what, s in sorted(spent.items(), key=lambda x: -x[1]))
    hours = _duration(step * run.train.count())
    lines = [f"a step takes {step:.2f} s here ({shares}); {run.train.count()} steps: {hours}"]
    if torch.cuda.is_available():
        lines.append(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device")
    else:
        lines.append(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB, workers apart")
    if teacher is not None and cache is None:
        saved = teaching / (step or 1)
        lines.append(f"with teacher.cache a step would take {1 - saved:.2f} of that, once the cache is built")
    if teacher is not None and cache is not None:
        taps = {tap for method in trainee.each_method() for tap in method.teacher_taps()} | set(cache.taps)
        lines.append(teacher_cache.size(run, teacher, part, ["logits", *sorted(taps)]))
        build = _duration(teaching * per_epoch * cache.views)
        epochs = run.train.count() / per_epoch
        lines.append(
            f"building the cache takes {build}, as long as the live teacher in {cache.views} epochs; this run has "
            f"{epochs:.0f}: " + ("it pays in this run" if epochs > cache.views else "it pays from the next run on")
        )
    return lines


def table(rows: Rows) -> str:
    """Columns, aligned."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def _clip(tapped: Tapped) -> tuple[int, int]:
    assert tapped.clip is not None
    return tapped.clip


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
