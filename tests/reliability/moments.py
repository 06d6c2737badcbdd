"""Moments at which to interrupt a run: drawn over its whole life, or inside one part of it.

A run under test writes down when it enters and leaves each part of its life. Of a run that nothing happens to this is
a timetable. A moment is drawn from it as an event and a time after that event, so that it is hit also where the
machine is slower or faster than it was when the timetable was made. A thread of the run itself sends the signal: a
process that waits for the event from outside is late, most of all on a machine with much to do.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from reliability import runs
from vidkd import checkpoint, results, teacher_cache, trainer

START, STEP, SAVE, VALIDATION, EVALUATION = "start", "step", "save", "validation", "final evaluation"
CACHE = "teacher cache"  # filled at the start
PLACES = (START, CACHE, STEP, SAVE, VALIDATION, EVALUATION)
LAST = 10**9  # the step of what comes after the last one
SENT = "signal"
BETWEEN = "between"  # after one of them and before the next


@dataclass(frozen=True, slots=True)
class Event:
    """A run enters or leaves a part of its life; `step` is the one it makes, saves or has made."""

    place: str
    step: int
    entered: bool
    at_s: float

    def is_of(self, other: "Event") -> bool:
        return (self.place, self.step, self.entered) == (other.place, other.step, other.entered)


@dataclass(frozen=True, slots=True)
class Moment:
    """`after_s` seconds after the event `after`."""

    after: Event
    after_s: float


@dataclass(frozen=True, slots=True)
class Hit:
    """What an interruption met, and how the run took it."""

    place: str
    status: int  # as runs.Started.end says it
    ended_s: float  # from the signal to the end of the process


def telling(path: Path, moment: Moment | None = None, number: int = 0) -> None:
    """Have this process write its life to `path`, and its group be sent the signal `number` at `moment`: called in a
    new process (`before` of runs.start)."""
    step = 0

    def tell(place: str, entered: bool) -> None:
        event = Event(place, step, entered, time.monotonic())
        with path.open("a") as file:  # whole and at once: the process may be killed at any moment
            file.write(json.dumps([event.place, event.step, event.entered, event.at_s]) + "\n")
        if moment is not None and event.is_of(moment.after):
            threading.Thread(target=send, args=(moment.after_s,), daemon=True).start()

    def send(after_s: float) -> None:
        time.sleep(after_s)
        tell(SENT, True)
        os.killpg(os.getpid(), number)

    @contextmanager
    def inside(place: str) -> Iterator[None]:
        tell(place, True)
        yield
        tell(place, False)

    update, validate, save = trainer.update, trainer.validate, checkpoint.save
    evaluate, fill = results.evaluate, teacher_cache.open_cache

    def updating(run, trained, *args):
        nonlocal step
        step = trained.step + 1
        with inside(STEP):
            return update(run, trained, *args)

    def validating(run, trained, *args):
        nonlocal step
        step = trained.step
        with inside(VALIDATION):
            return validate(run, trained, *args)

    def saving(folder, of_step, *args, **how):
        nonlocal step
        step = of_step
        with inside(SAVE):
            return save(folder, of_step, *args, **how)

    def scoring(*args, **how):
        nonlocal step
        step = LAST
        with inside(EVALUATION):
            return evaluate(*args, **how)

    def filling(*args):
        with inside(CACHE):
            return fill(*args)

    trainer.update, trainer.validate, checkpoint.save = updating, validating, saving
    results.evaluate, teacher_cache.open_cache = scoring, filling
    tell(START, True)


def told(path: Path) -> list[Event]:
    """The life that a run has written to `path` up to now."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [Event(*json.loads(line)) for line in whole.splitlines()]


def timetable(root: Path, out: Path, *overrides: str) -> list[Event]:
    """The life of an undisturbed run in `out`, with its end as the last event.

    Made by the second of two: the first one also imports what all others will find imported.
    """
    for name in ("first", ""):
        folder = out.with_name(out.name + name)
        path = folder.with_suffix(".life")
        run = runs.run(root, folder, *overrides, before=partial(telling, path))
        assert run.process.exitcode == 0, run.said()
    assert runs.left(folder) == runs.left(out.with_name(out.name + "first"))
    return [*told(path), Event(EVALUATION, LAST, False, time.monotonic())]


def draw(table: list[Event], step: int, rng: random.Random, place: str | None = None) -> Moment:
    """A moment in what is left of the life of a run that goes on from the checkpoint of `step`: evenly over all of it,
    or over what of it is inside `place`, if anything is."""
    first = next(i for i, event in enumerate(table) if event.place not in (START, CACHE))
    spans = [(event, after.at_s - event.at_s) for event, after in pairwise(table)]
    ahead = [span for i, span in enumerate(spans) if i < first or span[0].step > step]
    if place is not None:
        ahead = [(event, length) for event, length in ahead if where(event) == place] or ahead
    event, length = rng.choices(ahead, [length for _, length in ahead])[0]
    return Moment(event, rng.uniform(0, length))


def where(event: Event) -> str:
    """The part of its life that a run is in after `event`."""
    if event.entered:
        return event.place
    return START if event.place == CACHE else BETWEEN


def interrupt(root: Path, out: Path, moment: Moment, number: int, *overrides: str) -> tuple[runs.Started, Hit | None]:
    """Start the run in `out`, or go on with it, signal its group with `number` at `moment`, and wait for its end.

    No Hit where it had ended, or ends as if nothing had been sent: that is no interruption.
    """
    path = out.with_suffix(".life")
    path.unlink(missing_ok=True)
    run = runs.start(root, out, *overrides, before=partial(telling, path, moment, number))
    status, life = run.end(600), told(path)
    ended_at = time.monotonic()
    sent = next((i for i, event in enumerate(life) if event.place == SENT), None)
    if sent is None or status not in (-number, 128 + number):
        return run, None
    return run, Hit(where(life[sent - 1]), status, ended_at - life[sent].at_s)


def reached(out: Path) -> tuple[int, int]:
    """The last step that the run in `out` logged, and the step of its newest checkpoint; 0 where there is none."""
    lines = out / "metrics.jsonl"
    text = lines.read_text().splitlines() if lines.exists() else []
    found = checkpoint.newest(out / "checkpoints")
    logged = [said["step"] for said in map(json.loads, text) if "loss/total" in said]
    return max(logged, default=0), found[0].step if found else 0
