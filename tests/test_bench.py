"""A grid runs, continues, compares like with like, and says its mistakes before its first hour."""

import json
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file

import tiny_set
from conftest import CONFIGS
from vidkd import config_file, run_dir
from vidkd.bench import __main__ as bench_main
from vidkd.bench import claims, grid, run, state, table
from vidkd.errors import ConfigError, DataError

BY_NAME = {path.stem: str(path) for path in CONFIGS}
PATIENCE_S = 1800  # of the slow tests, on a machine that has other things to do
SMALL = {"data.clip.frames": 4, "data.clip.stride": 1, "data.workers": 0, "train.epochs": 1, "train.batch_size": 4,
         "train.threads": 1, "optim.warmup": None, "student.name": "tiny4", "student.options": {},
         "student.view.size_px": 16}  # fmt: skip


def content(folder, **changes):
    """A bench of a teacher and two rows, lengths in epochs."""
    small = {**SMALL, "data.root": str(folder / "tiny")}
    weak = {"teacher.name": "tiny4", "teacher.options": {}, "teacher.view.size_px": 16, "teacher.allow_weak": True}
    teacher = {"teacher.weights": str(folder / "grid" / "teacher" / "seed0")}
    return {
        "name": "grid",
        "out": str(folder / "grid"),
        "jobs": 2,
        "first": [{"name": "teacher", "config": BY_NAME["motion_teacher"], "set": small}],
        "rows": [
            {"name": "alone", "config": BY_NAME["motion_student"], "set": small},
            {"name": "with KD", "config": BY_NAME["motion_kd"], "set": {**small, **weak, **teacher}},
        ],
        "seeds": [0],
        "baseline": "alone",
    } | changes


def written(folder, **changes):
    path = folder / "bench.yaml"
    path.write_text(json.dumps(content(folder, **changes)))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a grid that was run to its end."""
    folder = tmp_path_factory.mktemp("bench")
    tiny_set.make(folder / "tiny", train=8, test=5)
    run.run(grid.load(written(folder)), jobs=2)
    return folder


@pytest.fixture
def make(tmp_path):
    """Write a bench; its path."""
    tiny_set.make(tmp_path / "tiny", train=8, test=5)
    return lambda **changes: written(tmp_path, **changes)


def every_cell(folder, **changes):
    bench = grid.load(written(folder, **changes))
    return {cell.row.name: cell for cell in grid.cells(bench, bench.first) + grid.cells(bench, bench.rows)}


def test_a_grid_makes_a_table(ran):
    bench = grid.load(written(ran))
    text = table.write(bench)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["teacher", "alone", "with KD"]
    rows = json.loads((ran / "grid" / "bench.json").read_text())["rows"]
    assert [row["protocol"]["coverage"] for row in rows] == [{"scored": 5, "expected": 5}] * 3
    assert all(row["training_s"] > 0 and row["parameters"] > 0 and row["clips_per_s"] > 0 for row in rows)
    assert len({row["clips_per_s"] for row in rows}) == 1  # one network at one size: measured once
    assert "gain" in rows[2]
    assert "gain" not in rows[1]
    assert len((ran / "grid" / "table.csv").read_text().splitlines()) == 4
    page = (ran / "grid" / "table.html").read_text()
    assert page.count("<tr>") == 4
    assert "% of the teacher gap recovered" in page


def test_a_finished_grid_is_not_run_again(ran):
    weights = ran / "grid" / "with_kd" / "seed0" / "student.safetensors"
    before = weights.stat().st_mtime_ns
    run.run(grid.load(written(ran)), jobs=1)
    assert weights.stat().st_mtime_ns == before
    cells = every_cell(ran)
    assert [len(claims.history(cell.claims)) for cell in cells.values()] == [1, 1, 1]


def test_after_a_part_of_a_grid_the_table_shows_what_is_finished(ran, capsys):
    rows = [*content(ran)["rows"], {"name": "later", "config": BY_NAME["motion_student"], "set": {"data.root": "none"}}]
    assert bench_main.main([str(written(ran, rows=rows)), "--only", "with*"]) == 0
    said = capsys.readouterr().out
    assert "| with KD |" in said
    assert "| later |" not in said
    assert said.endswith("2 of 3 rows are finished\n")


def test_the_table_of_what_is_finished_can_be_had_at_any_time(ran, make, capsys, monkeypatch):
    monkeypatch.setattr(run, "run", None)  # nothing is run
    later = {"name": "later", "config": BY_NAME["motion_student"], "set": {"data.root": str(ran / "tiny")}}
    teacher = {"name": "not yet", "config": BY_NAME["motion_teacher"], "set": {"data.root": str(ran / "tiny")}}
    changes = {"rows": [*content(ran)["rows"], later], "first": [*content(ran)["first"], teacher]}
    assert bench_main.main([str(written(ran, **changes)), "--table"]) == 0
    said = capsys.readouterr().out
    assert "| with KD |" in said and "| teacher |" in said
    assert "| later |" not in said and "| not yet |" not in said
    assert said.endswith("2 of 3 rows are finished\n")
    with pytest.raises(ConfigError, match="no row is finished on every seed"):
        bench_main.main([str(make()), "--table"])


def test_epochs_are_compared_with_the_steps_that_they_became(ran):
    """What a run saved says 2 steps where the grid says 1 epoch of 8 clips in batches of 4."""
    cells = every_cell(ran)
    saved = config_file.load(cells["with KD"].out / "config.yaml")
    assert (saved.train.steps, saved.train.epochs, cells["with KD"].run().train.epochs) == (2, None, 1)
    assert {state.examine(cell).kind for cell in cells.values()} == {"finished"}
    rows = content(ran)["rows"]
    rows[1]["set"]["train.epochs"] = 2
    changed = state.examine(every_cell(ran, rows=rows)["with KD"])
    assert changed.kind == "changed"
    assert any(reason.startswith("train.steps: 2 there, 4 here") for reason in changed.reasons)
    assert state.examine(every_cell(ran, rows=rows)["alone"]).kind == "finished"


def test_a_setting_that_changes_no_result_changes_no_cell(ran):
    rows = content(ran)["rows"]
    rows[1]["set"] |= {"data.timeout_s": 60, "log.gradients": True}
    assert state.examine(every_cell(ran, rows=rows)["with KD"]).kind == "finished"


def test_a_retrained_teacher_changes_who_learned_from_it(ran):
    cells = every_cell(ran)
    weights = cells["teacher"].out / "student.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, weights)
    try:
        assert state.examine(cells["with KD"]) == state.State("changed", ("teacher.weights is not what it was",))
        assert state.examine(cells["alone"]).kind == "finished"
    finally:
        weights.write_bytes(before)


@pytest.mark.parametrize("jobs", [0, -1])
def test_a_number_of_jobs_that_cannot_be(make, jobs):
    with pytest.raises(ConfigError, match=rf"--jobs {jobs}: must be 1 or more"):
        bench_main.main([str(make()), f"--jobs={jobs}"])


def test_the_dry_run_touches_nothing(ran, capsys):
    rows = content(ran)["rows"]
    rows[1]["set"]["optim.lr"] = 0.5
    there = sorted(ran.rglob("*"))
    said = run.plan(grid.load(written(ran, rows=rows, seeds=[0, 1])))
    assert sorted(ran.rglob("*")) == there
    assert [line.split("; ")[0] for line in said] == [
        "teacher, seed 0: finished", "alone, seed 0: finished", "with KD, seed 0: to run again",
        "alone, seed 1: to run", "with KD, seed 1: to run",
    ]  # fmt: skip
    assert "optim.lr" in said[2]


def test_rows_that_were_scored_differently_are_refused(ran):
    bench = grid.load(written(ran))
    results = ran / "grid" / "with_kd" / "seed0" / "results.json"
    before = results.read_text()
    try:
        results.write_text(before.replace('"crops": 1', '"crops": 3'))
        with pytest.raises(
            DataError, match=r"'with KD' and 'alone' cannot be compared: protocol.crops: 1 there, 3 here"
        ):
            table.rows_of(bench)
    finally:
        results.write_text(before)
    predictions = results.with_name("student_predictions.csv")
    before = predictions.read_text()
    try:
        predictions.write_text(before.replace("test_000", "other"))
        with pytest.raises(DataError, match="'with KD' was not scored on the videos of 'alone'"):
            table.rows_of(bench)
    finally:
        predictions.write_text(before)


@pytest.mark.slow
def test_what_changed_is_run_again_and_nothing_is_lost(make, tmp_path, capfd):
    run.run(grid.load(make()), jobs=2)
    first = content(tmp_path)["first"]
    first[0]["set"]["optim.lr"] = 0.5
    cells = every_cell(tmp_path, first=first)
    before = {name: cell.out.joinpath("results.json").read_bytes() for name, cell in cells.items()}
    capfd.readouterr()
    run.run(grid.load(make(first=first)), jobs=2)
    said = capfd.readouterr().out
    assert {state.examine(cell).kind for cell in cells.values()} == {"finished"}
    for name in ("teacher", "with KD"):
        aside = cells[name].out.with_name("seed0.aside1")
        assert (aside / "results.json").read_bytes() == before[name]
        assert "run again" in (aside / "why_aside.txt").read_text()
        assert len(claims.history(cells[name].claims)) == 2
    assert cells["alone"].out.joinpath("results.json").read_bytes() == before["alone"]
    assert not cells["alone"].out.with_name("seed0.aside1").exists()
    assert "optim.lr" in (cells["teacher"].out.with_name("seed0.aside1") / "why_aside.txt").read_text()
    assert (
        "teacher.weights is not what it was"
        in (cells["with KD"].out.with_name("seed0.aside1") / "why_aside.txt").read_text()
    )
    assert "with KD, seed 0: run again: teacher.weights is not what it was" in said


@pytest.mark.slow
def test_many_launches_killed_half_way_run_every_cell_once(make, tmp_path):
    """Two benches share the folder; one is killed with its run in the middle, then a third comes."""
    path = make(seeds=[0, 1, 2])
    bench = grid.load(path)
    everything = grid.cells(bench, bench.first) + grid.cells(bench, bench.rows)
    command = [sys.executable, "-m", "vidkd.bench", str(path), "--jobs", "1"]
    logs = [(tmp_path / f"bench{i}.log").open("w") for i in range(3)]
    launched = [subprocess.Popen(command, stdout=log, stderr=log) for log in logs[:2]]
    first = launched[0].pid

    def in_the_middle(cell):
        """Whether the first bench has a run under way there."""
        claim = (claims.history(cell.claims) or [{}])[-1]
        mine = claim.get("pid") == first and claim["state"] == "running"
        return mine and run_dir.in_use(cell.out) and not (cell.out / "results.json").exists()

    def half_way():
        done = sum((cell.out / "results.json").exists() for cell in everything)
        return done >= 2 and any(in_the_middle(cell) for cell in everything)

    try:
        until = time.monotonic() + PATIENCE_S
        while not half_way():
            assert time.monotonic() < until
            time.sleep(0.05)
        launched[0].send_signal(signal.SIGKILL)
        launched[0].wait()
        launched.append(subprocess.Popen(command, stdout=logs[2], stderr=logs[2]))
        assert [process.wait(PATIENCE_S) for process in launched[1:]] == [0, 0], [log.name for log in logs]
    finally:
        for process in launched:
            process.kill()
    killed = 0
    for cell in everything:
        history = claims.history(cell.claims)
        states = [claim["state"] for claim in history]
        if states[0] == "running":  # what the killed one had: it alone was taken up by another
            assert history[0]["pid"] == first
            killed += 1
            states.pop(0)
        assert states in (["finished"], ["was finished"]), (cell.name, history)  # one ran it to its end; never again
        assert (cell.out / "student.safetensors").exists()
        assert not list(cell.out.parent.glob("*.aside*"))
    assert killed == 1
    owners = {claims.history(cell.claims)[-1]["pid"] for cell in everything}
    assert len(owners) >= 2  # the work was shared
    assert len(table.rows_of(bench)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, "baseline 'none' is not a row; the rows are: alone, with KD"),
        ({"row": []}, "row: no such key; did you mean 'rows'"),
        ({"seeds": "all"}, "seeds"),
        ({"first": [{"name": "alone", "config": BY_NAME["motion_teacher"]}]}, "two rows have the same name"),
    ],
)
def test_mistakes_are_named(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        grid.load(make(**changes))


def test_a_cells_mistake_is_found_before_anything_runs(make, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.lrr: no such key"):
        grid.load(make(rows=[{"name": "alone", "config": BY_NAME["motion_student"], "set": {"optim.lrr": 1}}]))
    assert not (tmp_path / "grid").exists()
