"""A grid, read: the lines of its table, which its rows make with the axes, and the cells, which these make with the
seeds."""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from vidkd import config_file, run_dir
from vidkd.bench.sections import Bench, Row
from vidkd.config import Run
from vidkd.errors import ConfigError


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
        said = {
            "name": f"{run_dir.slug(self.row.name)}_seed{self.seed}",
            "seed": self.seed,
            "out": self.out,
            **self.row.set,
        }
        return [f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in said.items()]

    def run(self) -> Run:
        """What it is to run, as its file and the row say it. ConfigError lists every mistake."""
        return config_file.load(self.row.config, self.overrides())


def load(path: Path) -> Bench:
    """The expanded grid. ConfigError for every mistake of it, and of its runs: before the first hour, not after it."""
    try:
        bench = expanded(Bench.model_validate(config_file.read_yaml(path)))
    except ValidationError as error:
        raise ConfigError(config_file.explain(error, str(path), Bench)) from None
    wrong: dict[str, list[str]] = {}  # what is said of which rows
    for row in (*bench.first, *bench.rows):
        try:
            cells(bench, (row,))[0].run()  # the row's other seeds differ in nothing that can be wrong
        except ConfigError as error:
            wrong.setdefault(str(error), []).append(row.name)
    if wrong:
        more = {said: f" and {len(names) - 1} more" if len(names) > 1 else "" for said, names in wrong.items()}
        raise ConfigError("\n".join(f"row {names[0]!r}{more[said]}: {said}" for said, names in wrong.items()))
    return bench


def expanded(bench: Bench) -> Bench:
    """The same grid without axes: every line of its table is a row of its own, with the line that it is compared with.

    Lines that share their values of their baselines' axes stand together, those of one baseline first.
    ConfigError for a pattern of `seeds_of` that no line has.
    """
    lines: list[Row] = []
    groups: list[tuple[tuple[str, ...], str]] = []
    for row in bench.rows:
        baseline = bench.baseline_of(row)
        for values in _combinations(bench, row):
            update = {"baseline": _name(bench, baseline, values)}
            lines.append(_line(bench, row, _name(bench, row, values), values).model_copy(update=update))
            groups.append((tuple(values[axis] for axis in baseline.over), baseline.name))
    seeds = {name: seeds for pattern, seeds in bench.seeds_of.items() for name in matching(lines, pattern, "seeds_of")}
    lines = [line.model_copy(update={"seeds": seeds.get(line.name, line.seeds)}) for line in lines]
    values_met, groups_met = list(dict.fromkeys(values for values, _ in groups)), list(dict.fromkeys(groups))
    order = sorted(range(len(lines)), key=lambda i: (values_met.index(groups[i][0]), groups_met.index(groups[i])))
    first = [
        _line(bench, row, ", ".join([row.name, *values.values()]), values)
        for row in bench.first
        for values in _combinations(bench, row)
    ]
    said = bench.model_dump(exclude={"axes", "seeds_of"})
    default = next(line.baseline for line, (_, name) in zip(lines, groups, strict=True) if name == bench.baseline)
    return Bench.model_validate(said | {"first": first, "rows": [lines[i] for i in order], "baseline": default})


def only(bench: Bench, patterns: Sequence[str]) -> Bench:
    """Of an expanded grid the rows whose names match any of the patterns, and what these are compared with."""
    chosen = {name for pattern in patterns for name in matching(bench.rows, pattern, "--only")}
    return part(bench, {other for row in bench.rows if row.name in chosen for other in (row.name, row.baseline)})


def part(bench: Bench, names: Collection[str | None]) -> Bench:
    """Of an expanded grid the rows of these names, with their baselines among them."""
    rows = tuple(row for row in bench.rows if row.name in names)
    return bench.model_copy(update={"rows": rows, "baseline": bench.baseline_of(rows[0]).name})


def matching(rows: Sequence[Row], pattern: str, source: str) -> list[str]:
    """The names that `pattern` stands for, in which * is anything, ? any letter and [ab] one of these. ConfigError if
    there is none."""
    if found := [row.name for row in rows if fnmatchcase(row.name, pattern)]:
        return found
    raise ConfigError(
        f"{source} {pattern!r}: no row has such a name; as in {rows[0].name!r}, where * stands for anything"
    )


def _combinations(bench: Bench, row: Row) -> Iterator[dict[str, str]]:
    """The value of each axis that `row` is over, the last axis fastest."""
    for values in itertools.product(*(bench.axes[axis] for axis in row.over)):
        yield dict(zip(row.over, values, strict=True))


def _name(bench: Bench, row: Row, values: dict[str, str]) -> str:
    """The row's, then its values of the axes that it alone is over, then of those that its baseline is over too."""
    shared = bench.baseline_of(row).over
    own = [axis for axis in row.over if axis not in shared]
    return ", ".join([row.name, *(values[axis] for axis in (*own, *shared))])


def _line(bench: Bench, row: Row, name: str, values: dict[str, str]) -> Row:
    overrides = dict(row.set)
    for axis, value in values.items():
        overrides |= bench.axes[axis][value]
    return row.model_copy(update={"name": name, "set": overrides, "over": ()})


def cells(bench: Bench, rows: tuple[Row, ...]) -> list[Cell]:
    """Seeds outermost, so that an unfinished grid has whole seeds rather than whole rows."""
    made = []
    for i in range(max((len(row.seeds or bench.seeds) for row in rows), default=0)):
        for row in rows:
            seeds = row.seeds or ((bench.seeds[0],) if row in bench.first else bench.seeds)
            if i < len(seeds):
                name = f"{run_dir.slug(row.name)}/seed{seeds[i]}"
                out = Path(row.set.get("out", bench.out / name))  # a teacher may have a folder that others share
                made.append(Cell(row, seeds[i], out, bench.out / "logs" / f"{name.replace('/', '_')}.log"))
    return made
