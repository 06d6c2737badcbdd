"""python -m vidkd.bench BENCH.yaml [--jobs N]

Run a grid of ordinary configurations over several seeds, each cell in a process of its own, and print one table. A
finished cell is not run again, a killed one goes on: the same command continues.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from tqdm import tqdm

from vidkd import checkpoint, cli, compare, config_file, distiller, predictions_file, results
from vidkd.data import index
from vidkd.errors import ConfigError, DataError, VidkdError
from vidkd.section import Section
from vidkd.tasks._base import Answers, BaseTask


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
    row: Row
    seed: int
    out: Path
    log: Path

    def overrides(self) -> list[str]:
        said = {"name": f"{slug(self.row.name)}_seed{self.seed}", "seed": self.seed, "out": self.out, **self.row.set}
        return [f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in said.items()]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bench", type=Path)
    parser.add_argument("--jobs", type=int, help="cells at a time (default: the bench's)")
    args = parser.parse_args(argv)
    bench = load(args.bench)
    print(run(bench, args.jobs or bench.jobs))
    return 0


def load(path: Path) -> Bench:
    try:
        bench = Bench.model_validate(config_file.read_yaml(path))
    except ValidationError as error:
        raise ConfigError(config_file.explain(error, str(path), Bench)) from None
    for cell in cells(bench, bench.first) + cells(bench, bench.rows):
        config_file.load(cell.row.config, cell.overrides())  # every mistake before the first hour, not after it
    return bench


def run(bench: Bench, jobs: int) -> str:
    """Run what is not finished; write table.md, table.csv and bench.json; the table as text."""
    first, rest = cells(bench, bench.first), cells(bench, bench.rows)
    bar = tqdm(total=len(first) + len(rest), desc=bench.name, unit="run", dynamic_ncols=True)
    for wave in (first, rest):
        with ThreadPoolExecutor(jobs) as pool:
            failures = [f for f in pool.map(lambda cell: _run_cell(cell, bar), wave) if f]
        if failures:
            bar.close()
            raise VidkdError("\n".join(failures))
    bar.close()
    table = rows_of(bench)
    markdown = as_markdown(table)
    checkpoint.write_atomic(bench.out / "table.md", (markdown + "\n").encode())
    checkpoint.write_atomic(bench.out / "table.csv", as_csv(table).encode())
    summary = {"bench": bench.model_dump(mode="json"), "rows": table}
    checkpoint.write_atomic(bench.out / "bench.json", (json.dumps(summary, indent=1) + "\n").encode())
    return markdown


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
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def rows_of(bench: Bench) -> list[dict[str, Any]]:
    """The table: one dict a row. DataError if two rows were not scored on the same videos."""
    read = {row.name: [answers_of(cell) for cell in cells(bench, (row,))] for row in (*bench.first, *bench.rows)}
    task, reference = read[bench.baseline][0]
    for name, seeds in read.items():
        if any(own.primary != task.primary or answers.videos != reference.videos for own, answers in seeds):
            raise DataError(f"{name!r} was not scored on the videos of {bench.baseline!r}: they cannot be compared")
    figures = {name: [answers.figure for _, answers in seeds] for name, seeds in read.items()}
    n, key = len(reference.videos), task.primary
    table = []
    for row in (*bench.first, *bench.rows):
        own = cells(bench, (row,))
        outcomes = [json.loads((cell.out / "results.json").read_text(encoding="utf-8")) for cell in own]
        value = compare.mean_interval(figures[row.name], n)
        line: dict[str, Any] = {"row": row.name, "seeds": len(own), key: value.mean}
        line |= {f"{key}_low": value.low, f"{key}_high": value.high, "primary": key, "title": task.title}
        if row in bench.rows and row.name != bench.baseline:
            gain = compare.gain_interval(figures[row.name], figures[bench.baseline], n)
            line |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        line |= _speed(own[0], len(task.classes))
        line["training_s"] = sum(r["training_s"] for r in outcomes) / len(outcomes)
        line["protocol"] = outcomes[0]["student"]["protocol"]
        table.append(line)
    return table


def as_markdown(table: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [
        f"| | {table[0]['title']}, mean and 95 % interval | gain over the baseline, points | seeds | input "
        "| parameters | GMACs | clips/s | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in table:
        gain = (
            f"{100 * r['gain']:+.1f} [{100 * r['gain_low']:+.1f}, {100 * r['gain_high']:+.1f}]" if "gain" in r else ""
        )
        p, value = r["protocol"], (r[r["primary"]], r[f"{r['primary']}_low"], r[f"{r['primary']}_high"])
        lines.append(
            f"| {r['row']} | {compare.Interval(*value)} | {gain} | {r['seeds']} "
            f"| {p['frames']}x{p['size_px']}x{p['size_px']} | {r['parameters']:,} | {r['gmacs']:.3f} "
            f"| {r['clips_per_s']:.0f} | {r['training_s']:.0f} s |"
        )
    return "\n".join(lines)


def as_csv(table: list[dict[str, Any]]) -> str:
    """For programs: every number of the table."""
    keys = [k for k in dict.fromkeys(key for row in table for key in row) if k != "protocol"]
    lines = [",".join(keys)] + [",".join(f'"{row[k]}"' if k in row else "" for k in keys) for row in table]
    return "\n".join(lines) + "\n"


def answers_of(cell: Cell) -> tuple[BaseTask, Answers]:
    """What a cell's student answered, from its predictions file, and the task that understands it."""
    run = config_file.load(cell.out / "config.yaml")
    data_set = index.read(run.data.root)
    task = distiller.build_task(run, data_set.classes)
    columns = predictions_file.read(cell.out / "student_predictions.csv", task.text)
    return task, task.answers(columns, data_set.part(run.data.split, run.data.test).names())


def _speed(cell: Cell, num_classes: int) -> dict[str, Any]:
    """Cost of the row's network, measured here, where no other cell runs beside it."""
    run = config_file.load(cell.out / "config.yaml")
    network, _ = distiller.build_network(
        run.student.model_copy(update={"weights": None}), num_classes, run.data.clip.frames
    )
    return results.measure(network, run.student.view.frames or run.data.clip.frames, run.student.view.size_px)


def _run_cell(cell: Cell, bar: tqdm) -> str:
    """Run one cell to its end; "" or, where it failed, what it said last."""
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vidkd.train", str(cell.row.config), *cell.overrides()]
    with cell.log.open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    bar.update()
    if done.returncode:
        tail = " / ".join(cell.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        return f"{cell.row.name}, seed {cell.seed} failed with {done.returncode} (see {cell.log}): {tail}"
    tqdm.write(cell.log.read_text(encoding="utf-8").strip().splitlines()[-1].strip())
    return ""


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
