"""What the seconds of a training step were spent on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "teacher", "student", "methods", "backward", "optimiser")  # of a step, as vidkd.trainer times them
WARM_UP = 1  # steps that count in no mean: they allocate, compile and fill the loader's queue


class Stopwatch:
    """Seconds by part, step by step: `with watch("teacher"): ...`, then `lap()` at the end of the step.

    On a GPU a part is timed by events on its stream, so that no part waits for the one before; `lap` waits for all.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu, self.device = device.type == "cuda", device
        self.laps, self.totals = 0, dict[str, float]()
        self._parts: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time what is inside as `part`; a part may come several times a step."""
        started = self._now()
        yield
        self._parts.append((part, started, self._now()))

    def lap(self) -> dict[str, float]:
        """End the step: the seconds of each of its parts."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        spent: dict[str, float] = {}
        for part, a, b in self._parts:
            spent[part] = spent.get(part, 0.0) + _between(a, b)
        self._parts.clear()
        self.laps += 1
        if self.laps > WARM_UP:
            for part, seconds in spent.items():
                self.totals[part] = self.totals.get(part, 0.0) + seconds
        return spent

    def means(self) -> dict[str, float]:
        """Seconds a step of each part, over all steps but the first; {} before the second one."""
        return {part: total / (self.laps - WARM_UP) for part, total in self.totals.items()}

    def _now(self) -> float | torch.cuda.Event:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(a: float | torch.cuda.Event, b: float | torch.cuda.Event) -> float:
    if isinstance(a, torch.cuda.Event) and isinstance(b, torch.cuda.Event):
        return a.elapsed_time(b) / 1000
    assert not isinstance(a, torch.cuda.Event) and not isinstance(b, torch.cuda.Event)
    return b - a
