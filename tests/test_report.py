"""The page of a bench and of a run, from directories made here: no network is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_runs import fake_bench, probed
from report_pages import written
from vidkd import cli, config_file, log
from vidkd.bench import grid
from vidkd.errors import ConfigError, DataError
from vidkd.report import __main__ as report
from vidkd.report import cards, material, page, svg

PROBE = (
    "left out: Motion or appearance: python -m vidkd.probe {} finds it out, and how other resolutions and frames do."
)


def test_a_bench_page_holds_every_section(own_grid, capsys):
    for path in own_grid.glob("*/seed*"):
        probed(path, {"as_is": 0.5, "shuffled": 0.4, "static": 0.3}, {24: 0.4})
    text = written(own_grid)
    assert "left out" not in capsys.readouterr().out
    assert "Left out" not in text
    absent = {"Attention over time", "Feature maps"}  # its networks carry no attention, its methods compare logits
    for title in list(page.BENCH)[1:]:
        assert (f"<h2>{title}</h2>" in text) == (title not in absent), title
    assert len(text) < 3_000_000
    m = material.read(own_grid)
    assert f"from {m.rows[0].line['top1']:.1%} to {m.rows[1].line['top1']:.1%} top-1" in text
    assert "best of 2 rows" in text
    assert "31 times as many parameters and needs 30 times as many GMACs as the student" in text
    assert text.count("data:image/webp;base64,") >= 8
    for row in m.lines:
        assert f"{row.line['top1']:.1%}" in text


def test_text_from_files_is_escaped(own_grid):
    text = written(own_grid)
    assert "KD &amp; &lt;fmd&gt;" in text
    assert "<fmd>" not in text
    assert "<grid>" not in text


def test_a_run_page_has_no_comparison(grid_and_set, tmp_path, capsys):
    run = Path(shutil.copytree(grid_and_set[0] / "kd_fmd" / "seed1", tmp_path / "run"))
    text = written(run)
    assert capsys.readouterr().out.splitlines()[:-1] == [PROBE.format(run)]
    assert "Learning curves" in text and "Some test videos" in text
    assert "gained" not in text and "Fixed" not in text
    assert f"python -m vidkd.train {run}/config.yaml" in text


def test_out_names_the_page(grid_and_set, tmp_path):
    assert cli.run_main(report.main, [str(grid_and_set[0]), "--out", str(tmp_path / "new" / "a.html")]) == 0
    assert (tmp_path / "new" / "a.html").is_file()
    assert not (grid_and_set[0] / "report.html").exists()


def test_the_same_files_give_the_same_page(grid_and_set):
    assert page.page(material.read(grid_and_set[0])) == page.page(material.read(grid_and_set[0]))


def test_without_the_data_set_the_videos_are_left_out(own_grid, capsys):
    for path in own_grid.rglob("config.yaml"):
        run = config_file.load(path)
        gone = run.model_copy(update={"data": run.data.model_copy(update={"root": own_grid / "gone"})})
        path.write_text(config_file.dump(gone))
    text = written(own_grid)
    assert "left out: Videos fixed and broken by distillation" in capsys.readouterr().out
    assert text.count("Left out") == 1
    assert "no such folder" in text


def test_a_data_set_that_changed_is_not_shown(own_grid):
    path = own_grid / "kd_fmd" / "seed0" / "results.json"
    results = json.loads(path.read_text())
    results["student"]["protocol"]["index_sha256"] = "0" * 64
    path.write_text(json.dumps(results))
    assert "is no longer the one that was scored" in written(own_grid)


def test_an_unfinished_run_shows_its_curves(grid_and_set, tmp_path):
    run = Path(shutil.copytree(grid_and_set[0] / "kd_fmd" / "seed1", tmp_path / "run"))
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 210, "loss/la')
    text = written(run)
    assert text.count("polyline") >= 3
    assert "This run is not finished: 200 steps are logged" in text
    assert text.count("Left out") == 1


def test_a_run_without_teacher(grid_and_set, tmp_path):
    run = Path(shutil.copytree(grid_and_set[0] / "student_alone" / "seed0", tmp_path / "run"))
    text = written(run)
    assert f"<dl><dt>Motion or appearance</dt><dd>python -m vidkd.probe {run} finds it out" in text
    assert "The teacher" not in text


@pytest.mark.parametrize("damage", ["metrics.jsonl", "student_predictions.csv", "config.yaml", "results.json"])
def test_missing_files_never_stop_the_page(own_grid, damage):
    for path in own_grid.rglob(damage):
        path.unlink()
    assert "fake" in written(own_grid)


@pytest.mark.parametrize("damage", ["student_predictions.csv", "config.yaml", "metrics.jsonl"])
def test_broken_files_cost_their_section_only(own_grid, damage):
    for path in own_grid.rglob(damage):
        path.write_text("{ no\n")
    assert "<h2>What is taken for what</h2>" in written(own_grid)


def test_numbers_of_another_shape_cost_their_section_only(own_grid):
    for path in own_grid.rglob("results.json"):
        results = json.loads(path.read_text())
        results["student"]["per_class"] = 3
        path.write_text(json.dumps(results))
    assert "a file is not as vidkd writes it (TypeError" in written(own_grid)


def test_neither_run_nor_bench(tmp_path, capsys):
    with pytest.raises(ConfigError, match="neither a bench"):
        material.read(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        material.read(tmp_path / "gone")
    assert cli.run_main(report.main, [str(tmp_path)]) == 2
    assert "neither a bench" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["{", "[]", "{}", '{"bench": {"rows": 3}, "rows": []}'])
def test_a_broken_bench_is_named(tmp_path, said):
    (tmp_path / "bench.json").write_text(said)
    with pytest.raises(DataError, match=r"bench\.json"):
        material.read(tmp_path)


def test_commands_are_those_of_the_bench(grid_and_set):
    m, text = material.read(grid_and_set[0]), page.page(material.read(grid_and_set[0]))[0]
    bench = grid.Bench.model_validate(json.loads((grid_and_set[0] / "bench.json").read_text())["bench"])
    for cell in grid.cells(bench, bench.rows):
        assert " ".join(svg.esc(o) for o in cell.overrides()) in text
    assert all(row.config in text for row in m.rows)


def test_a_loss_of_a_teacher_wins_nothing(own_grid):
    path = own_grid / "bench.json"
    said = json.loads(path.read_text())
    for line in said["rows"]:
        if "gain" in line:
            line |= {"gain": -0.02, "gain_low": -0.05, "gain_high": 0.01}
    path.write_text(json.dumps(said))
    text = written(own_grid)
    assert "a loss of 2.0 points" in text
    assert "may be chance" in text


def test_a_baseline_alone_has_nothing_to_compare(grid_and_set, tmp_path, capsys):
    folder = fake_bench(tmp_path / "grid", grid_and_set[1], {"student alone": 1.0}, seeds=(0,))
    text = written(folder)
    assert capsys.readouterr().out.splitlines()[1:-1] == [PROBE.format(folder)]
    assert "no row to compare" in text
    assert "gained" not in text


def test_read_is_what_log_reads(grid_and_set):
    cell = material.read(grid_and_set[0]).rows[0].cells[0]
    assert cell.metrics == log.read(cell.dir)


def test_where_the_time_went_adds_up(grid_and_set):
    text = page.page(material.read(grid_and_set[0]))[0]
    assert text.count('class="part data"') == 1 + 4  # its key, and a bar for the teacher and every row
    assert "data 0.02 s, student 0.03 s, backward 0.04 s, other 0.01 s" in text


def test_a_video_without_a_class_is_given_none(own_grid):
    shown = cards.shown(material.read(own_grid))
    assert shown.label(0) == "right"
    several = replace(shown, part=[SimpleNamespace(label=-1)])
    assert several.label(0) == ""
    assert "<h4>" not in cards.card("", "name", "body")


def test_runs_that_have_gone_since_are_said(own_grid):
    assert "no longer here" not in written(own_grid)
    (own_grid / "weak" / "seed1" / "results.json").unlink()
    shutil.rmtree(own_grid / "weak" / "seed2")
    assert "“weak”: the line is of 3 runs, of which 2 are no longer here or not finished" in written(own_grid)


def test_every_section_of_single_clips_shows_one_seed(own_grid):
    (own_grid / "kd_fmd" / "seed0" / "results.json").unlink()
    m = material.read(own_grid)
    assert cards.shown(m).cell.seed == 1
    assert cards.shown(m).said() == "Seed 1."


def test_a_section_shows_the_best_row_that_has_what_it_shows(own_grid):
    m = material.read(own_grid)
    assert cards.best_with(m, lambda run: True) is m.best
    assert cards.best_with(m, lambda run: run.teacher is not None) is m.best
    assert cards.best_with(m, lambda run: run.name == "weak") is next(row for row in m.rows if row.name == "weak")
    alone = cards.best_with(m, lambda run: run.teacher is None)
    assert alone is not None and alone.name == "student alone"
    assert cards.shown(m, alone).said() == "student alone, seed 0."
    assert cards.shown(m, m.best).said() == "Seed 0."
    assert cards.best_with(m, lambda run: False) is None
