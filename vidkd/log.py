"""Where a run's figures go: metrics.jsonl always; TensorBoard and Weights & Biases if asked; a bar on the terminal."""

import importlib.util
import json
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidkd import checkpoint
from vidkd.config import Run
from vidkd.errors import ConfigError, DataError

BEHIND = 1000  # lines that may wait for a tracker before new ones are left out
CLOSE_S = 10.0  # what a tracker gets to send the rest


@dataclass(frozen=True, slots=True)
class Tracker:
    """How to start one, send it the figures of a step, and end it."""

    name: str
    start: Callable[[], Any]
    send: Callable[[Any, int, dict[str, Any]], object]
    finish: Callable[[Any], object]


class Tracking:
    """A tracker in a thread of its own: slow, broken or silent, no run waits for it or fails with it."""

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._tracker, self._say = tracker, say
        self._waiting: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue(BEHIND)
        self._over = False
        self._thread = threading.Thread(target=self._work, name=tracker.name, daemon=True)
        self._thread.start()

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """Hand it the figures of a step, unless it is too far behind."""
        if self._over:
            return
        try:
            self._waiting.put_nowait((step, numbers))
        except queue.Full:
            self._over = True
            self._say(f"{self._tracker.name} is {BEHIND} lines behind and gets no more")

    def close(self) -> None:
        """Let it send what waits, for CLOSE_S at most."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._say(f"{self._tracker.name} did not end and is left alone")

    def _work(self) -> None:
        try:
            tracker = self._tracker.start()
            while (line := self._waiting.get()) is not None:
                self._tracker.send(tracker, *line)
            self._tracker.finish(tracker)
        except Exception as error:  # noqa: BLE001 - a tracker's failure of any kind is not the run's
            self._over = True
            self._say(f"{self._tracker.name} failed and is ignored from now on: {error}")


class Log:
    """Writes on the first process, and is silent on the others. ConfigError where a tracker is not installed."""

    def __init__(self, run: Run, out: Path, main: bool) -> None:
        if run.log.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("log.tensorboard needs the tensorboard package: pip install 'vidkd[tensorboard]'")
        self.run, self.out, self.main = run, out, main
        self._file = self._bar = None
        self._trackers: list[Tracking] = []

    def start(self, first_step: int, scored: int) -> None:
        """Open everything, and drop what a run that was killed later logged after `first_step`, or, of the val part,
        after `scored`."""
        if not self.main:
            return
        path = self.out / "metrics.jsonl"
        kept, unreadable = _truncate(path, first_step, scored)
        if unreadable:
            self.say(f"{path}: {unreadable} lines cannot be read any more and are left out")
        if not kept and first_step >= self.run.train.log_every_steps:
            self.say(f"{path}: the figures of the steps up to {first_step} are not in it")
        self._file = open(path, "a", encoding="utf-8", opener=checkpoint.opener)  # noqa: SIM115
        if self.run.log.tensorboard:
            self._trackers.append(Tracking(_tensorboard(self.out, first_step), self.say))
        if self.run.log.wandb != "off":
            self._trackers.append(Tracking(_wandb(self.run, self.out), self.say))
        steps = self.run.train.count()
        self._bar = tqdm(
            total=steps, initial=first_step, desc=self.run.name, unit="step", dynamic_ncols=True, mininterval=0.5
        )

    def step(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same to every tracker. Trackers never stop a run.

        DataError where the line cannot be written.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritten(self._file.name, error) from error
        numbers = {name: v for name, v in values.items() if isinstance(v, int | float)}
        for tracker in self._trackers:
            tracker.write(step, numbers)
        if self._bar is not None and "loss/total" in values:
            self._bar.set_postfix_str(
                f"loss {values['loss/total']:.3f}, {values['time/clips_per_s']:.1f} clips/s, "
                f"waiting for data {values['time/data_share']:.0%}",
                refresh=False,
            )

    def sync(self) -> None:
        """Have every line on the disk: a checkpoint must not outlive, in a power cut, what was logged before it."""
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _unwritten(self._file.name, error) from error

    def say(self, text: str) -> None:
        """A line for the person at the terminal, that does not break the bar."""
        if self.main:
            tqdm.write(text)

    def close(self) -> None:
        if self._file is None or self._bar is None:
            return
        with suppress(OSError):  # a full disk was said when the line was written
            self._file.close()
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()


def read(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _unwritten(name: str, error: OSError) -> DataError:
    return DataError(f"{name}: cannot be written ({error.strerror}); mend that, then run the same command again")


def _truncate(path: Path, first_step: int, scored: int) -> tuple[int, int]:
    """Drop what a killed run logged after the checkpoint that is resumed, and a half-written last line; how many lines
    are left, and how many others cannot be read."""
    if not path.exists():
        return 0, 0
    kept, unreadable = [], 0
    if not path.is_file():
        raise DataError(f"{path}: is no file; remove it")  # who opens a pipe waits for ever
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for place, line in enumerate(lines, start=1):
        try:
            said = json.loads(line)
            if said["step"] <= (scored if any(name.startswith("val/") for name in said) else first_step):
                kept.append(line + "\n")
        except (ValueError, LookupError, TypeError, RecursionError):
            unreadable += place < len(lines)
    checkpoint.write_atomic(path, "".join(kept).encode())
    return len(kept), unreadable


def _tensorboard(out: Path, first_step: int) -> Tracker:
    def start() -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(out / "tensorboard"), purge_step=first_step)

    def send(writer: Any, step: int, numbers: dict[str, Any]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return Tracker("TensorBoard", start, send, lambda writer: writer.close())


def _wandb(run: Run, out: Path) -> Tracker:
    def start() -> Any:
        import wandb  # noqa: TID251 - the one place

        os.environ.setdefault("WANDB_SILENT", "true")
        mode = "online" if run.log.wandb == "online" else "offline"
        settings = wandb.Settings(console="off", x_disable_meta=True)
        return wandb.init(
            project=run.log.wandb_project, name=run.name, dir=str(out), mode=mode, settings=settings,
            config=run.model_dump(mode="json"),
        )  # fmt: skip

    return Tracker(
        "Weights & Biases",
        start,
        lambda tracker, step, numbers: tracker.log(numbers, step=step),
        lambda tracker: tracker.finish(),
    )
