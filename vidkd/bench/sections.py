"""How a grid is written: rows, the axes that multiply them, what they are compared with; and the mistakes in that."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vidkd import run_dir
from vidkd.errors import one_of
from vidkd.section import Section


class Row(Section):
    """One line of the table; with `over`, a line for every combination of the values of those axes."""

    name: str
    config: Path
    set: dict[str, Any] = Field(default_factory=dict)  # overrides, by dotted path
    over: tuple[str, ...] = ()  # axes, whose overrides come after those of `set`, in this order
    seeds: tuple[int, ...] | None = None  # None: the bench's
    baseline: str | None = None  # the row that its gain is over; None: the bench's


class Bench(Section):
    """A grid. Where a baseline is over axes, every line is compared with that of its own values of them."""

    name: str
    out: Path
    jobs: int = Field(default=1, gt=0)  # cells at a time
    axes: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)  # axis -> value -> overrides
    first: tuple[Row, ...] = ()  # what the rows need (teachers): run before them, one seed each unless they say more
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    seeds_of: dict[str, tuple[int, ...]] = Field(
        default_factory=dict
    )  # pattern of lines' names -> seeds; the last wins
    baseline: str

    @model_validator(mode="after")
    def _belongs_together(self) -> "Bench":
        if mistakes := [*self._of_axes(), *self._of_baselines(), *self._of_folders()]:
            raise ValueError("; ".join(dict.fromkeys(mistakes)))
        return self

    def baseline_of(self, row: Row) -> Row:
        """The row that `row` is compared with; for a baseline, itself."""
        name = row.baseline or self.baseline
        return next(other for other in self.rows if other.name == name)

    def _of_axes(self) -> Iterator[str]:
        every = (*self.first, *self.rows)
        for axis, values in self.axes.items():
            if not values:
                yield f"axis {axis!r} has no values"
            if not any(axis in row.over for row in every):
                yield f"axis {axis!r}: no row is over it"
        for row in every:
            yield from (f"row {row.name!r}: {one_of(a, [*self.axes], 'axis')}" for a in row.over if a not in self.axes)
            if len(set(row.over)) < len(row.over):
                yield f"row {row.name!r} is over an axis twice"
                continue
            before = {key: "its set" for key in row.set}
            for axis in row.over:
                own = {key: f"axis {axis!r}" for value in self.axes.get(axis, {}).values() for key in value}
                for (key, who), (other, whose) in itertools.product(own.items(), before.items()):
                    if f"{other}.".startswith(f"{key}."):
                        yield f"row {row.name!r}: {who} overrides {key!r}, and would undo {other!r} of {whose}"
                before |= own

    def _of_baselines(self) -> Iterator[str]:
        rows = {row.name: row for row in self.rows}
        if self.baseline not in rows:
            yield f"baseline {self.baseline!r} is not a row; the rows are: {', '.join(rows)}"
        for row in self.first:
            if row.baseline is not None:
                yield f"row {row.name!r}: of what comes first no gain is computed, leave out its baseline"
        for row in self.rows:
            if row.baseline is not None and row.baseline not in rows:
                yield f"row {row.name!r}: {one_of(row.baseline, [*rows], 'row')}"
                continue
            baseline = rows.get(row.baseline or self.baseline, row)
            if lacks := [axis for axis in baseline.over if axis not in row.over]:
                yield (
                    f"row {row.name!r} is not over {', '.join(lacks)}, as its baseline {baseline.name!r} is: "
                    "there would be several to compare it with"
                )

    def _of_folders(self) -> Iterator[str]:
        every = (*self.first, *self.rows)
        if shared := [row.name for row in self.rows if "out" in row.set and len(row.seeds or self.seeds) > 1]:
            yield f"row {shared[0]!r} sets one out for several seeds"
        if shared := [row.name for row in every if "out" in row.set and row.over]:
            yield f"row {shared[0]!r} sets one out for all values of its axes"
        folders = Counter(run_dir.slug(row.name) for row in every)
        if twice := [row.name for row in every if folders[run_dir.slug(row.name)] > 1]:
            yield f"two rows have the same name, but for signs and capitals: {', '.join(map(repr, twice))}"
