"""Whether a cell has to run: what its folder holds against what the grid asks for now, like with like."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidkd import config_file, distiller, run_dir, trained
from vidkd.bench import grid
from vidkd.bench.grid import Cell
from vidkd.bench.sections import Bench, Row
from vidkd.config import Run
from vidkd.data import clips, index
from vidkd.errors import ConfigError, VidkdError


@dataclass(frozen=True, slots=True)
class State:
    """What is to be done with a cell."""

    kind: Literal["new", "begun", "finished", "changed"]
    reasons: tuple[str, ...] = ()  # of changed: what is not as it was


def examine(cell: Cell) -> State:
    """`changed` where the run that is there is of another configuration, or was given other data or another teacher.

    What a run saved has its lengths in steps, a grid may say epochs: the grid's is first said in steps, as the run did.
    ConfigError or DataError where that cannot be found out (no data set, no teacher).
    """
    if not (cell.out / run_dir.MARK).exists() or not run_dir.begun(cell.out):
        return State("new")
    run = cell.run()
    data_set = index.read(run.data.root)
    task = distiller.build_task(run, data_set.classes)
    wanted = trained.as_saved(run, clips.part_of(data_set, run, task, run.data.train, training=True))
    reasons = _differences(wanted, cell.out / "config.yaml")
    now = trained.inputs(run, data_set) | task.protocol()
    reasons += [f"{what} is not what it was" for what in run_dir.changed_inputs(cell.out, now)]
    if reasons:
        return State("changed", tuple(reasons))
    return State("finished" if run_dir.finished(cell.out) else "begun")


def finished_part(bench: Bench) -> Bench:
    """Of an expanded grid the rows that are finished on every seed, as is the baseline of each, and those of
    `first` that are. ConfigError where there are no such rows."""
    done = {row.name for row in (*bench.first, *bench.rows) if _finished(bench, row)}
    rows = {row.name for row in bench.rows if {row.name, bench.baseline_of(row).name} <= done}
    if not rows:
        raise ConfigError(f"{bench.out}: no row is finished on every seed, as is its baseline: there is no table yet")
    first = tuple(row for row in bench.first if row.name in done)
    return grid.part(bench, rows).model_copy(update={"first": first})


def _finished(bench: Bench, row: Row) -> bool:
    """Whether every cell of the row is; not where that cannot be found out (its teacher is not there)."""
    try:
        return all(examine(cell).kind == "finished" for cell in grid.cells(bench, (row,)))
    except VidkdError:
        return False


def _differences(wanted: Run, path: Path) -> list[str]:
    try:
        there = config_file.load(path)
    except ConfigError as error:  # of another version of vidkd
        return [str(error).splitlines()[0]]
    return run_dir.differences(wanted.model_dump(mode="json"), there.model_dump(mode="json"))
