"""Where a run's figures go: metrics.jsonl always; TensorBoard and Weights & Biases if asked; a bar on the terminal."""

import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidkd.config import Run
from vidkd.errors import ConfigError


class Log:
    """Writes on the first process, and is silent on the others."""

    def __init__(self, run: Run, out: Path, main: bool) -> None:
        self.run, self.out, self.main = run, out, main
        self._file = self._bar = self._tensorboard = self._wandb = None

    def start(self, first_step: int, scored: int) -> None:
        """Open everything, and drop what a run that was killed later logged after `first_step`, or, of the val part,
        after `scored`."""
        if not self.main:
            return
        path = self.out / "metrics.jsonl"
        _truncate(path, first_step, scored)
        self._file = path.open("a", encoding="utf-8")
        if self.run.log.tensorboard:
            self._tensorboard = _tensorboard(self.out, first_step)
        if self.run.log.wandb != "off":
            try:
                self._wandb = _wandb(self.run, self.out)
            except Exception as error:  # noqa: BLE001 - as below
                self.say(f"Weights & Biases did not start and is not used: {error}")
        steps = self.run.train.count()
        self._bar = tqdm(
            total=steps, initial=first_step, desc=self.run.name, unit="step", dynamic_ncols=True, mininterval=0.5
        )

    def step(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same to every tracker. Trackers never stop a run."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        numbers = {name: v for name, v in values.items() if isinstance(v, int | float)}
        for tracker, send in ((self._tensorboard, _to_tensorboard), (self._wandb, _to_wandb)):
            if tracker is not None:
                try:
                    send(tracker, step, numbers)
                except Exception as error:  # noqa: BLE001 - a tracker's failure of any kind is not the run's
                    self.say(f"a tracker failed and is ignored from now on: {error}")
                    self._tensorboard = None if tracker is self._tensorboard else self._tensorboard
                    self._wandb = None if tracker is self._wandb else self._wandb
        if self._bar is not None and "loss/total" in values:
            self._bar.set_postfix_str(
                f"loss {values['loss/total']:.3f}, {values['time/clips_per_s']:.1f} clips/s, "
                f"waiting for data {values['time/data_share']:.0%}",
                refresh=False,
            )

    def sync(self) -> None:
        """Have every line on the disk: a checkpoint must not outlive, in a power cut, what was logged before it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def say(self, text: str) -> None:
        """A line for the person at the terminal, that does not break the bar."""
        if self.main:
            tqdm.write(text)

    def close(self) -> None:
        if self._file is None or self._bar is None:
            return
        self._file.close()
        self._bar.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def read(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _truncate(path: Path, first_step: int, scored: int) -> None:
    """Drop what a killed run logged after the checkpoint that is resumed, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
            if said["step"] <= (scored if any(name.startswith("val/") for name in said) else first_step):
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    partial = path.with_name(".tmp-metrics.jsonl")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _tensorboard(out: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("log.tensorboard needs the tensorboard package: pip install 'vidkd[tensorboard]'") from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=first_step)


def _wandb(run: Run, out: Path) -> Any:
    import wandb  # noqa: TID251 - the one place

    os.environ.setdefault("WANDB_SILENT", "true")
    mode = "online" if run.log.wandb == "online" else "offline"
    settings = wandb.Settings(console="off", x_disable_meta=True)
    return wandb.init(project=run.log.wandb_project, name=run.name, dir=str(out), mode=mode, settings=settings)


def _to_tensorboard(writer: Any, step: int, numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)


def _to_wandb(tracker: Any, step: int, numbers: dict[str, Any]) -> None:
    tracker.log(numbers, step=step)
