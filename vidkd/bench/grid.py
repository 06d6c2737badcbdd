"""A grid: its rows, and the cells that they make with the seeds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from vidkd import config_file
from vidkd.config import Run
from vidkd.errors import ConfigError
from vidkd.section import Section


class Row(Section):
    """One line of the table."""

    name: str
    config: Path
    set: dict[str, Any] = Field(default_factory=dict)  # overrides, by dotted path
    seeds: tuple[int, ...] | None = None  # None: the bench's


class Bench(Section):
    """A grid."""

    name: str
    out: Path
    jobs: int = Field(default=1, gt=0)  # cells at a time
    first: tuple[Row, ...] = ()  # what the rows need (teachers): run before them, one seed each unless they say more
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str

    @model_validator(mode="after")
    def _baseline_is_a_row(self) -> "Bench":
        names = [row.name for row in self.rows]
        if self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is not a row; the rows are: {', '.join(names)}")
        if shared := [row.name for row in self.rows if "out" in row.set and len(row.seeds or self.seeds) > 1]:
            raise ValueError(f"row {shared[0]!r} sets one out for several seeds")
        if len({slug(row.name) for row in (*self.first, *self.rows)}) != len(self.first) + len(self.rows):
            raise ValueError("two rows have the same name")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a row with one seed."""

    row: Row
    seed: int
    out: Path
    log: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def claims(self) -> Path:
        """Beside the run, not in the bench: two grids may share a teacher, and must not train it twice."""
        return self.out.parent / ".claims" / self.out.name

    def overrides(self) -> list[str]:
        said = {"name": f"{slug(self.row.name)}_seed{self.seed}", "seed": self.seed, "out": self.out, **self.row.set}
        return [f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in said.items()]

    def run(self) -> Run:
        """What it is to run, as its file and the row say it. ConfigError lists every mistake."""
        return config_file.load(self.row.config, self.overrides())


def load(path: Path) -> Bench:
    """ConfigError for every mistake of the grid, and of any of its runs: before the first hour, not after it."""
    try:
        bench = Bench.model_validate(config_file.read_yaml(path))
    except ValidationError as error:
        raise ConfigError(config_file.explain(error, str(path), Bench)) from None
    for cell in cells(bench, bench.first) + cells(bench, bench.rows):
        cell.run()
    return bench


def cells(bench: Bench, rows: tuple[Row, ...]) -> list[Cell]:
    """Seeds outermost, so that an unfinished grid has whole seeds rather than whole rows."""
    made = []
    for i in range(max((len(row.seeds or bench.seeds) for row in rows), default=0)):
        for row in rows:
            seeds = row.seeds or ((bench.seeds[0],) if row in bench.first else bench.seeds)
            if i < len(seeds):
                name = f"{slug(row.name)}/seed{seeds[i]}"
                out = Path(row.set.get("out", bench.out / name))  # a teacher may have a folder that others share
                made.append(Cell(row, seeds[i], out, bench.out / "logs" / f"{name.replace('/', '_')}.log"))
    return made


def slug(name: str) -> str:
    """The folder of a row."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
