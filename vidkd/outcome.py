"""What a run or an evaluation left behind, read again: figures, the protocol they were got under, every answer."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidkd import config_file, distiller, predictions_file, run_dir, tasks
from vidkd.data import index
from vidkd.errors import ConfigError
from vidkd.tasks._base import Answers, BaseTask

Who = Literal["student", "teacher"]
# of a protocol: whose figures, not how they were got
NETWORK = ("network", "options", "attention", "weights_sha256", "streams")
VIEW = ("frames", "span_frames", "stride", "size_px", "degrade")  # what the network is shown of the same videos


@dataclass(frozen=True)
class Outcome:
    """The student's or the teacher's side of a results.json."""

    folder: Path
    who: Who
    figures: dict[str, Any]  # what results.json says of it
    task: BaseTask
    answers: Answers

    @property
    def protocol(self) -> dict[str, Any]:
        return self.figures["protocol"]

    @property
    def value(self) -> float:
        """The figure that heads a table."""
        return float(self.figures[self.task.primary])


def read(folder: Path, who: Who = "student") -> Outcome:
    """ConfigError if `folder` is no finished run or evaluation; DataError if a file in it is not what it should be."""
    results = results_of(folder)
    if who not in results:
        raise ConfigError(f"{folder}: its results.json has no figures of a {who}")
    run = config_file.load(folder / "config.yaml")
    data_set = index.read(run.data.root)
    task = distiller.build_task(run, data_set.classes)
    protocol = results[who]["protocol"]
    columns = predictions_file.read(folder / f"{who}_predictions.csv", task.text)
    answers = task.answers(columns, data_set.part(protocol["split"], protocol["part"]).names())
    return Outcome(folder, who, results[who], task, answers)


def results_of(folder: Path) -> dict[str, Any]:
    """results.json. ConfigError where there is none; DataError where it is damaged."""
    path = folder / "results.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: no results.json; give the folder of a finished run, or of an evaluation of one")
    return run_dir.read_json(path)


def unlike(a: dict[str, Any], b: dict[str, Any], free: Collection[str]) -> list[str]:
    """`key: this there, that here` for everything in which two protocols differ, but for the keys in `free`.

    A key that one of them lacks (an older vidkd wrote it) counts as None. What of the task only teaches (the weights of
    its losses) is no part of how it is scored.
    """
    a, b = ({**protocol, "task": scoring(protocol.get("task"))} for protocol in (a, b))
    keys = (a.keys() | b.keys()) - set(free)
    return [d for key in sorted(keys) for d in run_dir.differences(a.get(key), b.get(key), f"protocol.{key}")]


def same_network(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two protocols are of one network: the same weights, or, where one of them (an older vidkd wrote it) does
    not say its weights, the same name, options and attention."""
    keys = ("weights_sha256",) if a.get("weights_sha256") and b.get("weights_sha256") else NETWORK[:3]
    return all(a.get(key) == b.get(key) for key in keys)


def scoring(task: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of a task section, what decides how its answers are scored: not what only teaches."""
    if task is None:
        return None
    teaches = tasks.load(task["kind"]).Config.only_teaches
    return {key: value for key, value in task.items() if key not in teaches}
