"""What a report is made of: the files of one run, or of every cell of a bench, read and put in order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv

from vidkd import config_file, outcome, run_dir
from vidkd.config import Run
from vidkd.errors import ConfigError, DataError

Role = Literal["baseline", "distilled", "alone", "teacher"]
PREDICTED = {"video": pa.string(), "label": pa.string(), "prediction": pa.string()}


class LeftOut(Exception):
    """A section cannot be made: the message is one sentence that says why, for the reader of the page."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    dir: Path
    seed: int
    results: dict[str, Any]  # {} while the run is not finished

    def figures(self, who: str) -> dict[str, Any]:
        """What results.json says of the student or the teacher."""
        if who not in self.results:
            raise LeftOut(f"{self.dir} has no figures of a {who}" + ("." if self.results else ": it is not finished."))
        return self.results[who]

    def predictions(self, who: str) -> dict[str, list[str]]:
        """video, label and prediction, in the order of the file."""
        path = self.dir / f"{who}_predictions.csv"
        if not path.is_file():
            raise LeftOut(f"{path} is not there.")
        with path.open(encoding="utf-8", errors="replace") as file:
            if "start_s" in file.readline():
                raise LeftOut("a detector answers with stretches of time, not with one class a video.")
        options = pyarrow.csv.ConvertOptions(include_columns=list(PREDICTED), column_types=PREDICTED)
        return pyarrow.csv.read_csv(path, convert_options=options).to_pydict()

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl but for one that a kill cut short."""
        path = self.dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [line for text in lines if isinstance(line := _line(text), dict) and "step" in line]

    @cached_property
    def probe(self) -> list[dict[str, Any]]:
        """What vidkd.probe found; [] before it was run."""
        path = self.dir / "probe.json"
        return run_dir.read_json(path)["points"] if path.is_file() else []

    @cached_property
    def run(self) -> Run:
        return config_file.load(self.dir / "config.yaml")


@dataclass(frozen=True, eq=False)
class Row:
    """The runs of one line of the table, which differ in their seed alone."""

    name: str
    role: Role
    line: dict[str, Any]  # the primary figure, its _low and _high, gain..., parameters, gmacs, clips_per_s, protocol
    cells: tuple[Cell, ...]
    config: str  # the path of its configuration
    set: dict[str, Any]  # overrides of it
    out: str = ""  # where its cells were written; the folder may have been moved since

    @property
    def primary(self) -> str:
        """The key of the figure that heads the table."""
        return self.line.get("primary", "top1")

    @property
    def title(self) -> str:
        return self.line.get("title", "top-1")

    @property
    def value(self) -> Any:
        """The figure itself, in 0..1; None where the row is not finished."""
        return self.line.get(self.primary)

    @property
    def figures(self) -> dict[str, Any]:
        """What the first finished run says of its student; {} where none is."""
        return next((cell.results["student"] for cell in self.cells if "student" in cell.results), {})

    @property
    def unfinished(self) -> int:
        """How many of the runs that its line was made of are not there any more, or are being run again."""
        return self.line.get("seeds", 0) - sum("student" in cell.results for cell in self.cells)

    @property
    def taught_by(self) -> dict[str, Any] | None:
        """The figures of its teacher, as it was scored beside it; None where it had none."""
        return next((cell.results["teacher"] for cell in self.cells if "teacher" in cell.results), None)

    @property
    def interval(self) -> tuple[Any, Any]:
        return self.line.get(f"{self.primary}_low"), self.line.get(f"{self.primary}_high")


@dataclass(frozen=True)
class Material:
    """`first` are the runs that the rows needed (teachers). `compared` names, for each row of a bench, the one that its
    gain is over; a single run is one row without such."""

    dir: Path
    name: str
    first: tuple[Row, ...]
    rows: tuple[Row, ...]
    compared: dict[str, str]

    @property
    def is_bench(self) -> bool:
        return bool(self.compared)

    @cached_property
    def baseline(self) -> Row | None:
        """What the best row is compared with; None for a run."""
        name = self.compared.get(self.best.name)
        return next((row for row in self.rows if row.name == name), None)

    @cached_property
    def best(self) -> Row:
        """The row with the highest figure, distilled ones before others; a baseline where there is no other row."""
        others = [row for row in self.rows if row.role != "baseline"]
        distilled = [row for row in others if row.role == "distilled"]
        return max(distilled or others or self.rows, key=lambda row: row.value or 0.0)

    @cached_property
    def lines(self) -> tuple[Row, ...]:
        """Every line of the table: what came first, teachers that were not trained here, the rows."""
        there = list(self.first)
        for row in self.rows:
            if row.taught_by is not None and _of_network(there, row.taught_by) is None:
                there.append(Row(self._untrained(there), "teacher", _line_of(row.taught_by), (), "", {}))
        return (*there, *self.rows)

    @cached_property
    def teachers(self) -> dict[str, Row]:
        """The line of the table that is the teacher of a row, by the name of the row; without those that had none."""
        there = [row for row in self.lines if row.role == "teacher"]
        found = {row.name: _of_network(there, row.taught_by) for row in self.rows if row.taught_by is not None}
        return {name: teacher for name, teacher in found.items() if teacher is not None}

    @property
    def several_teachers(self) -> bool:
        """Whether a reader has to be told which one is meant."""
        return sum(row.role == "teacher" for row in self.lines) > 1

    @staticmethod
    def _untrained(there: Sequence[Row]) -> str:
        """A name for a teacher that was not trained here, which no other line has."""
        names, number = {row.name for row in there}, 1
        while (name := "teacher" if number == 1 else f"teacher {number}") in names:
            number += 1
        return name


def _of_network(rows: Iterable[Row], figures: dict[str, Any]) -> Row | None:
    """The row of the network that those figures are of."""
    wanted = figures["protocol"]
    return next((r for r in rows if "protocol" in r.line and outcome.same_network(r.line["protocol"], wanted)), None)


def read(folder: Path) -> Material:
    """ConfigError if `folder` is neither a bench nor a run; DataError if its main file is broken."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give that of a run or of a bench, as in runs/demo")
    if (folder / "bench.json").is_file():
        return _bench(folder)
    if (folder / "config.yaml").is_file() or (folder / "results.json").is_file():
        return _run(folder)
    raise ConfigError(
        f"{folder}: neither a bench (bench.json, written when its last run is done, or before by "
        "python -m vidkd.bench BENCH.yaml --table) nor a run (config.yaml)"
    )


def _bench(folder: Path) -> Material:
    path = folder / "bench.json"
    said = run_dir.read_json(path)
    try:
        bench, lines = said["bench"], {line["row"]: line for line in said["rows"]}
        first = tuple(_row(folder, bench, raw, lines[raw["name"]], first=True) for raw in bench["first"])
        rows = tuple(_row(folder, bench, raw, lines[raw["name"]], first=False) for raw in bench["rows"])
        compared = {raw["name"]: _baseline(bench, raw) for raw in bench["rows"]}
        if lacking := set(compared.values()) - set(compared):
            raise LookupError(f"no row {min(lacking)!r}")
        return Material(folder, bench["name"], first, rows, compared)
    except (LookupError, TypeError) as error:
        raise DataError(f"{path}: not what vidkd.bench writes ({type(error).__name__}: {error})") from None


def _row(folder: Path, bench: dict[str, Any], raw: dict[str, Any], line: dict[str, Any], *, first: bool) -> Row:
    seeds = raw["seeds"] or (bench["seeds"][:1] if first else bench["seeds"])
    own = folder / run_dir.slug(raw["name"])
    apart = raw["set"].get("out")  # a teacher may have a folder that others share
    folders = [(k, Path(apart) if apart else own / f"seed{k}") for k in seeds]
    cells = tuple(Cell(d, k, _results(d)) for k, d in folders if d.is_dir())
    role: Role = "distilled" if any("teacher" in cell.results for cell in cells) else "alone"
    if first:
        role = "teacher"
    elif raw["name"] in {_baseline(bench, other) for other in bench["rows"]}:
        role = "baseline"
    return Row(raw["name"], role, line, cells, raw["config"], raw["set"], f"{bench['out']}/{run_dir.slug(raw['name'])}")


def _baseline(bench: dict[str, Any], raw: dict[str, Any]) -> str:
    """The name of the row that one is compared with."""
    return raw.get("baseline") or bench["baseline"]


def _run(folder: Path) -> Material:
    results = _results(folder)
    name = str(results.get("name", folder.name))
    cell = Cell(folder, int(results.get("seed", 0)), results)
    line = _line_of(results["student"]) | {"training_s": results.get("training_s")} if "student" in results else {}
    role: Role = "distilled" if "teacher" in results else "alone"
    return Material(folder, name, (), (Row(name, role, line, (cell,), str(folder / "config.yaml"), {}),), {})


def _line_of(figures: dict[str, Any]) -> dict[str, Any]:
    """One network's figures as a line of the table."""
    key, title = figures.get("primary", "top1"), figures.get("title", "top-1")
    low, high = figures.get(f"{key}_interval", (None, None))
    line = {"seeds": 1, key: figures.get(key), f"{key}_low": low, f"{key}_high": high, "primary": key, "title": title}
    return line | figures.get("cost", {}) | {"protocol": figures.get("protocol", {})}


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    return run_dir.read_json(path) if path.is_file() else {}


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
