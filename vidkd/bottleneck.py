"""What a run waits for, from its own measured times, and the one thing to change that would help most.

`verdict` is arithmetic on seconds; `Adviser` collects what it needs from a run: `Setting`.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from vidkd.config import Cache, Run
from vidkd.data import clips, order
from vidkd.data.container import inspect
from vidkd.data.index import Part
from vidkd.errors import DataError

Kind = Literal["decode", "teacher", "student"]
WORTH = 1.05  # times as fast: less is not worth a person's time
TIMED_CLIPS = 4  # whose decoding is timed beside the rest of their making
MOST_WORKERS = 16


@dataclass(frozen=True, slots=True)
class Setting:
    """What of a run decides which advice it can be given."""

    workers: int = 0
    free_cores: int = 0  # that this process may use, beside the threads that train
    threads: int = 1  # of torch
    idle_gpus: int = 0
    processes: int = 1
    on_gpu: bool = False
    teacher: Literal["none", "live", "cached"] = "none"
    cacheable: bool = True  # mixed clips are not
    decode_share: float = 0.0  # of the making of a clip
    stored_px: int = 0  # short side of the prepared videos
    needed_px: int = 0  # short side at which the smallest crop is still as large as the largest view
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Advice:
    """A change, and how long a step would take with it."""

    change: str
    step_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    text: str


def verdict(spent: dict[str, float], setting: Setting) -> Verdict:
    """`spent`: mean seconds a step of "data", "teacher", "student", "methods", "backward", "optimiser"."""
    step = sum(spent.values())
    parts: dict[Kind, float] = {"decode": spent.get("data", 0.0), "teacher": spent.get("teacher", 0.0)}
    parts["student"] = step - sum(parts.values())
    kind = max(parts, key=lambda k: parts[k])
    what = {"decode": "waiting for clips", "teacher": "the teacher", "student": "training the student"}[kind]
    text = f"{kind}-bound: {what} takes {parts[kind] / step:.0%} of a step ({_s(parts[kind])} of {_s(step)}); "
    best = min(advices(parts, step, setting), key=lambda advice: advice.step_s, default=None)
    if best is None or step / best.step_s < WORTH:
        rest = step / parts["student"] if parts["student"] > 0 else math.inf
        return Verdict(
            kind, text + f"no setting would help: without waiting and teacher a step is {rest:.2f} x as fast"
        )
    gain = f"{step / best.step_s:.1f} x as fast ({_s(best.step_s)})"
    return Verdict(kind, text + f"{best.change} would help most: a step {gain}{best.note}")


def advices(parts: dict[Kind, float], step: float, setting: Setting) -> list[Advice]:
    """All that can be done about it, with what it would make of a step of `step` seconds."""
    wait, teacher = parts["decode"], parts["teacher"]
    made = []
    if setting.teacher == "live" and setting.cacheable:
        views = Cache().views
        made.append(
            Advice(
                f"teacher.cache={{views: {views}}}",
                step - teacher,
                f", once the cache is built, which takes as long as the teacher in {views} epochs",
            )
        )
    more = min(setting.workers + setting.free_cores, MOST_WORKERS)
    if more > setting.workers:
        making = wait if setting.workers == 0 else setting.workers * step  # of a step's clips, on one core
        without = step - wait
        # With workers the clips are made beside the step: it is as long as the slower of the two.
        made.append(Advice(f"data.workers={more}", max(without, making / more) if wait else step))
    made += _smaller(wait, step, setting)
    if setting.idle_gpus:
        n = setting.processes + setting.idle_gpus
        made.append(Advice(f"accelerate launch --num_processes {n}", step * setting.processes / n, " at best"))
    elif not setting.on_gpu and setting.free_cores and setting.processes == 1:
        n = setting.threads + setting.free_cores
        made.append(Advice(f"train.threads={n}", wait + (step - wait) * setting.threads / n, " at best"))
    return made


def _smaller(wait: float, step: float, setting: Setting) -> list[Advice]:
    """Videos that are smaller, or that need no decoding. Decoding is taken to cost as its pixels."""
    if not wait or setting.packed or not setting.decode_share:
        return []
    if setting.needed_px and setting.stored_px > 1.25 * setting.needed_px:
        left = 1 - setting.decode_share * (1 - (setting.needed_px / setting.stored_px) ** 2)
        change = f"python -m data_prep ... --short-side {setting.needed_px} (the videos are {setting.stored_px} px)"
    else:
        left, change = 1 - setting.decode_share, "python -m data_prep ... --frames raw"
    during = wait * left if setting.workers == 0 else max(0.0, step * left - (step - wait))
    return [Advice(change, step - wait + during, " at best")]


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


class Adviser:
    """Hears the means of a run's times as it goes, says it when what holds it up becomes another thing, and knows at
    its end what to say."""

    def __init__(self, run: Run, device: torch.device, processes: int, part: Part, say: Callable[[str], None]) -> None:
        self.run, self.device, self.processes, self.part, self.say = run, device, processes, part, say
        self.said: Kind | None = None
        self.heard = 0
        self._share: float | None = None

    def hear(self, means: dict[str, float]) -> str:
        """The verdict on these mean seconds a step; "" while nothing is known. It is said aloud rarely: the first,
        second, fourth, eighth... time it is asked, and then only if it is a new one."""
        if not means:
            return ""
        self.heard += 1
        found = verdict(means, self.setting(means))
        if self.heard & (self.heard - 1) == 0 and found.kind != self.said:
            self.said = found.kind
            self.say(found.text)
        return found.text

    def setting(self, means: dict[str, float]) -> Setting:
        run, threads = self.run, torch.get_num_threads()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        waits = means["data"] > 0.05 * sum(means.values())
        sides = [min(pair) for pair in zip(self.part.column("width"), self.part.column("height"), strict=True)]
        scale = run.data.augment.crop_scale
        largest = max(view.size_px for view in run.views().values())
        mixed = bool(run.data.augment.mixup_alpha or run.data.augment.cutmix_alpha)
        on_gpu = self.device.type == "cuda"
        return Setting(
            workers=run.data.workers,
            free_cores=max(0, cores - threads * self.processes - run.data.workers * self.processes) // self.processes,
            threads=threads,
            idle_gpus=max(0, torch.cuda.device_count() - self.processes) if on_gpu else 0,
            processes=self.processes,
            on_gpu=on_gpu,
            teacher="none" if run.teacher is None else "cached" if run.teacher.cache else "live",
            cacheable=not mixed,
            decode_share=self._decode_share() if waits else 0.0,
            stored_px=sorted(sides)[len(sides) // 2],
            needed_px=math.ceil(largest / math.sqrt(scale[0] if scale else 1.0) / 2) * 2,
            packed=inspect(self.part[0].path).kind == "packed",
        )

    def _decode_share(self) -> float:
        """Of the seconds in which clips are made, those that go into reading their frames; timed once, on a few."""
        if self._share is None:
            made = clips.TrainClips(self.part, self.run.data, self.run.views(), self.run.seed)
            spread = [i * len(self.part) // TIMED_CLIPS for i in range(min(TIMED_CLIPS, len(self.part)))]
            self._share = share_of([_timed(made, i) for i in spread])
        return self._share


def _timed(made: clips.TrainClips, i: int) -> tuple[float, float]:
    """Seconds of reading the frames of a clip of video `i`, and of the whole making of it; (0, 0) if unreadable."""
    video, taken = made.part[i], [0.0, 0.0]
    indices, _ = made.span(video, order.generator(made.data.seed, 0, i))
    try:
        clips.read(video, indices, made.data)  # from the disk once: what is timed is what comes again every epoch
        for k, work in enumerate((lambda: clips.read(video, indices, made.data), lambda: made.clip(0, i))):
            started = time.perf_counter()
            work()
            taken[k] = time.perf_counter() - started
    except DataError:
        return 0.0, 0.0
    return taken[0], taken[1]


def share_of(pairs: Sequence[tuple[float, float]]) -> float:
    """Of (part, whole) pairs: the sum of the parts over that of the wholes, in 0..1; 0 of none."""
    whole = sum(b for _, b in pairs)
    return min(sum(a for a, _ in pairs) / whole, 1.0) if whole else 0.0
