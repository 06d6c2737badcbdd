"""python -m vidkd.plan CONFIG [KEY=VALUE ...] [--steps N]

What training CONFIG will be like, before any training: the taps on both sides with their sizes and what joins them,
what each method adds, how hard each loss term pulls at the student, where the time of a step goes (from a few real
steps on this machine), the memory, the hours, and after how many epochs a teacher cache has paid for itself.
"""

import argparse
import math
import resource
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidkd import cli, config_file, distiller, processes, pulls, teacher_cache, trained, trainer
from vidkd.config import Cache, Run
from vidkd.data import clips, index
from vidkd.data.index import Part
from vidkd.distiller import Trainee
from vidkd.errors import Mistakes
from vidkd.methods import feature_decoder
from vidkd.methods._maps import dead_share
from vidkd.models import cost
from vidkd.stopwatch import PARTS, Stopwatch
from vidkd.taps import Frozen, Tapped
from vidkd.tasks._base import BaseTask
from vidkd.types import ClipBatch, View

Rows = list[list[str]]
Answers = tuple[View, View | None]  # of the student and of the teacher, to one batch
WIDTH = 100  # columns of the text
FEW = 4  # numbers a map, below which its direction says next to nothing: of one number it is the sign
DEAD, SMALL = 0.05, 16  # share of maps without a direction, and numbers a map, from which on there is something to say


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
    accelerator = processes.make_accelerator(run)
    data_set = index.read(run.data.root)
    mistakes = Mistakes()
    with mistakes.noted():
        clips.check(data_set, run)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.train, training=True)
    per_epoch = len(part) // run.train.batch_size
    run = trained.as_saved(run, part)
    built = None
    with mistakes.noted():
        built = distiller.build(run, len(data_set.classes))
        distiller.check_weights(run, built[0], task)
        task.asks(built[0].student)
    if run.teacher is not None and run.teacher.cache is not None:
        with mistakes.noted():
            teacher_cache.check(run)
        with mistakes.noted():
            if built is not None and built[1] is not None:
                teacher_cache.stored(built[0].each_method(), run.teacher.cache, built[1])
    mistakes.raise_any()
    assert built is not None
    trainee, teacher, accounts = built
    if teacher is not None:
        teacher.to(accelerator.device)
    spent = take_steps(run, accelerator, trainee, teacher, task, part, steps, accounts.append)
    held = memory()  # before what is only done here
    sections = [
        f"{run.name}: {len(part)} clips, {per_epoch} steps of {run.train.batch_size} an epoch, "
        f"{run.train.count()} steps on {accelerator.device.type}",
        *accounts,
        "",
        table(networks(trainee.student, teacher)),
    ]
    if trainee.each_method():
        batch = next(iter(trainer.train_loader(run, part, 0, accelerator, teacher))).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            seen = teacher(batch.seen_by("teacher")) if teacher is not None else None
            answers: Answers = trainee.student(batch.seen_by("student")), seen
            added = methods_gmacs(trainee, batch, answers)
        careful = [*without_direction(run, trainee, teacher, answers), *dear(run, teacher, added)]
        felt = pulls.said(pulls.measure(run, trainee, teacher, task, batch, accelerator))
        sections += ["", adapters(trainee, added), *careful, "", *felt]
    sections += ["", *prospects(run, part, teacher, trainee, spent, per_epoch, held)]
    return "\n".join(line for section in sections for line in wrapped(section))


def take_steps(
    run: Run,
    accelerator: trained.Accelerator,
    trainee: Trainee,
    teacher: Frozen | None,
    task: BaseTask,
    part: Part,
    steps: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Take one and then up to `steps` real training steps on this process; the median seconds of each part of one."""
    state = trained.prepare(run, accelerator, trainee)
    batches = iter(trainer.train_loader(run, part, 0, accelerator, teacher))
    trainee.watch = watch = Stopwatch(accelerator.device)
    trainee.train()
    laps: list[dict[str, float]] = []
    for _ in range(min(1 + steps, run.train.count())):
        _, figures = trainer.update(run, state, batches, teacher, task, accelerator, watch, say)
        state.step += 1
        laps.append({part: figures[f"time/{part}_s"] for part in PARTS if f"time/{part}_s" in figures})
    trainee.watch = lambda part: nullcontext()
    timed = laps[1:] or laps
    return {part: median(lap[part] for lap in timed) for part in timed[0]}


def methods_gmacs(trainee: Trainee, clip: ClipBatch, answers: Answers) -> list[float]:
    """The GMACs that each method adds for one clip: its forward, counted once and timed nowhere."""
    added = []
    for method in trainee.each_method():
        with FlopCounterMode(display=False) as counter:
            method(clip, *answers)
        added.append(counter.get_total_flops() / 2e9 / len(clip.label))
    return added


def without_direction(run: Run, trainee: Trainee, teacher: Frozen | None, answers: Answers) -> list[str]:
    """What to say of maps that are compared by direction where many have none, with the remedy."""
    said = []
    networks = {"student": trainee.student, "teacher": teacher and teacher.tapped}
    for i, method in enumerate(trainee.each_method()):
        for place in method.directions():
            network, view = networks[place.who], answers[place.who == "teacher"]
            if not isinstance(network, Tapped) or view is None:
                continue
            maps = view.taps[place.tap]
            share, size = dead_share(maps, place.form), maps.shape[3:] if place.form == "per_frame" else maps.shape[2:]
            if math.prod(size) < FEW:
                said.append(
                    f"careful: methods.{i} ({run.methods[i].kind}) compares directions, and a {place.tap} map of the "
                    f"{place.who} has {math.prod(size)} number(s) ({_times(tuple(size))}): take an earlier tap (see "
                    f"{place.who}.taps), whose maps are larger, or leave this method out"
                )
                continue
            if maps.min() < 0 or (share <= DEAD and math.prod(size) > SMALL):
                continue
            ready = f"{place.tap}_signed"
            remedy = f"methods.{i}.{place.key}={ready}"
            if ready not in network.taps:
                taps = "{signed: {path: <the block's last ReLU>, listen: input}}"
                remedy = f"{place.who}.taps={taps} methods.{i}.{place.key}=signed"
            said.append(
                f"careful: methods.{i} ({run.methods[i].kind}) compares directions, and no {place.tap} map of the "
                f"{place.who} is negative anywhere: one that is all zero has no direction, and of those of this batch "
                f"({_times(tuple(size))}) {share:.0%} are. Compare them as they are before the ReLU: {remedy}"
            )
    return said


def dear(run: Run, teacher: Frozen | None, added: list[float]) -> list[str]:
    """What to say of methods that cost more than the teacher, with the remedy for the one that has any."""
    if teacher is None:
        return []
    own, said = cost.gmacs(teacher.tapped, *_clip(teacher.tapped)), []
    for i, (section, gmacs) in enumerate(zip(run.methods, added, strict=True)):
        if gmacs > own:
            text = f"careful: methods.{i} ({section.kind}) adds {gmacs:.3g} GMACs a clip, the teacher takes {own:.3g}"
            if isinstance(section, feature_decoder.Config) and not section.faithful:
                text += f"; cheaper: methods.{i}.upsample=interp methods.{i}.width=3 methods.{i}.doublings=2"
            said.append(text)
    return said


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
        axes = next(tapped.taps[tap].axes for tapped in both if tap in tapped.taps)
        rows.append([f"{tap} [{', '.join(axes[2:])}, C]", *found])
    return rows


def adapters(trainee: Trainee, added: list[float]) -> str:
    """What each method compares, how it makes the two fit, and what that adds to training (and not to the student)."""
    rows, joined = [["method adds to training:", "parameters", "GMACs a clip", "student", "teacher"]], [""]
    for key, method, gmacs in zip(trainee.keys, trainee.each_method(), added, strict=True):
        for i, pair in enumerate(method.compares()):
            costs = ["", ""] if i else [f"{cost.parameters(method):,}", f"{gmacs:.3f}"]
            rows.append(["" if i else key, *costs, pair.student, pair.teacher])
            joined.append(f"  joined by {pair.by}")
    lines = zip(table(rows).splitlines(), joined, strict=True)
    return "\n".join(text for line in lines for text in line if text)


def prospects(
    run: Run, part: Part, teacher: Frozen | None, trainee: Trainee, spent: dict[str, float], per_epoch: int, held: str
) -> list[str]:
    """Time, memory (`held`) and cache, in sentences. `spent`: seconds of the parts of a step with the live teacher."""
    live, teaching = sum(spent.values()), spent.get("teacher", 0.0)
    building = teaching + spent.get("data", 0.0)  # of a batch: its clips are made for the cache as for a step
    cached = teacher is not None and run.teacher is not None and run.teacher.cache is not None
    shown = {what: s for what, s in spent.items() if not (cached and what == "teacher")}
    step = sum(shown.values())
    shares = ", ".join(f"{what} {100 * s / step:.0f} %" for what, s in sorted(shown.items(), key=lambda x: -x[1]))
    hours = _duration(step * run.train.count())
    lines = [f"a step takes {step:.2f} s here ({shares}); {run.train.count()} steps: {hours}", held]
    if teacher is not None and run.teacher is not None:
        cache = run.teacher.cache or Cache()
        if not cached:
            lines.append(
                f"with teacher.cache={{views: {cache.views}}} a step would take {1 - teaching / live:.2f} of that, "
                "once the cache is built"
            )
        names = teacher_cache.stored(trainee.each_method(), cache, teacher)
        lines.append(teacher_cache.size(cache, teacher, part, names))
        epochs = run.train.count() / per_epoch
        even = cache.views * building / teaching
        lines.append(
            f"building the cache takes {_duration(building * per_epoch * cache.views)} with the making of its clips, "
            f"as long as the live teacher in {even:.0f} epochs; after these it has paid for itself, and this run has "
            f"{epochs:.0f}: " + ("it pays in this run" if epochs > even else "it pays from the next run on")
        )
    return lines


def memory() -> str:
    """The most that was held at once up to now."""
    if torch.cuda.is_available():
        return f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device"
    return f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB, workers apart"


def wrapped(text: str) -> list[str]:
    """The lines of `text`, none wider than WIDTH where words allow it."""
    return [part for line in text.splitlines() or [""] for part in _folded(line)]


def _folded(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    fold = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return fold if len(line) > WIDTH else [line]


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
    return "x".join(map(str, shape))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
