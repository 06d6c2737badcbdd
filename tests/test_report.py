"""The page of a bench and of a run, from directories made here: no network is trained."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny_set
from fake_runs import fake_bench
from vidkd import cli, config_file, log
from vidkd.bench import grid
from vidkd.errors import ConfigError, DataError
from vidkd.report import __main__ as report
from vidkd.report import cards, gains, material, page, svg

ROWS = {"student alone": 0.9, "KD & <fmd>": 1.7, "weak": 0.8}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bench directory, data set): read only; a test that breaks something copies it."""
    base = tmp_path_factory.mktemp("report")
    root = tiny_set.make(base / "tiny", train=4, test=40)
    return fake_bench(base / "grid", root, ROWS), root


@pytest.fixture
def own(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "grid"))


PROBE = (
    "left out: Motion or appearance: python -m vidkd.probe {} finds it out, and how other resolutions and frames do."
)


class Checker(HTMLParser):
    """Every tag is closed, and nothing is fetched."""

    VOID = {"meta", "img", "br", "circle", "line", "rect", "polyline", "path"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.foreign += [v for k, v in attrs if k in ("src", "href") and not (v or "").startswith("data:")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID


def checked(text: str) -> str:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert not checker.foreign
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"data:image[^\"]*", "", text))
    return text


def written(folder: Path) -> str:
    assert cli.run_main(report.main, [str(folder)]) == 0
    return checked((folder / "report.html").read_text(encoding="utf-8"))


def test_a_bench_page_holds_every_section(own, capsys):
    for path in own.glob("*/seed*"):
        probed(path, {"as_is": 0.5, "shuffled": 0.4, "static": 0.3}, {24: 0.4})
    text = written(own)
    assert "left out" not in capsys.readouterr().out
    assert "Left out" not in text
    absent = {"Attention over time", "Feature maps"}  # its networks carry no attention, its methods compare logits
    for title in list(page.BENCH)[1:]:
        assert (f"<h2>{title}</h2>" in text) == (title not in absent), title
    assert len(text) < 3_000_000
    m = material.read(own)
    assert f"from {m.rows[0].line['top1']:.1%} to {m.rows[1].line['top1']:.1%} top-1" in text
    assert "best of 2 rows" in text
    assert "31 times as many parameters and needs 30 times as many GMACs as the student" in text
    assert text.count("data:image/webp;base64,") >= 8
    for row in m.lines:
        assert f"{row.line['top1']:.1%}" in text


def test_text_from_files_is_escaped(own):
    text = written(own)
    assert "KD &amp; &lt;fmd&gt;" in text
    assert "<fmd>" not in text
    assert "<grid>" not in text


def test_a_run_page_has_no_comparison(made, tmp_path, capsys):
    run = Path(shutil.copytree(made[0] / "kd_fmd" / "seed1", tmp_path / "run"))
    text = written(run)
    assert capsys.readouterr().out.splitlines()[:-1] == [PROBE.format(run)]
    assert "Learning curves" in text and "Some test videos" in text
    assert "gained" not in text and "Fixed" not in text
    assert f"python -m vidkd.train {run}/config.yaml" in text


def test_out_names_the_page(made, tmp_path):
    assert cli.run_main(report.main, [str(made[0]), "--out", str(tmp_path / "new" / "a.html")]) == 0
    assert (tmp_path / "new" / "a.html").is_file()
    assert not (made[0] / "report.html").exists()


def test_the_same_files_give_the_same_page(made):
    assert page.page(material.read(made[0])) == page.page(material.read(made[0]))


def test_without_the_data_set_the_videos_are_left_out(own, capsys):
    for path in own.rglob("config.yaml"):
        run = config_file.load(path)
        gone = run.model_copy(update={"data": run.data.model_copy(update={"root": own / "gone"})})
        path.write_text(config_file.dump(gone))
    text = written(own)
    assert "left out: Videos fixed and broken by distillation" in capsys.readouterr().out
    assert text.count("Left out") == 1
    assert "no such folder" in text


def test_a_data_set_that_changed_is_not_shown(own):
    path = own / "kd_fmd" / "seed0" / "results.json"
    results = json.loads(path.read_text())
    results["student"]["protocol"]["index_sha256"] = "0" * 64
    path.write_text(json.dumps(results))
    assert "is no longer the one that was scored" in written(own)


def test_an_unfinished_run_shows_its_curves(made, tmp_path):
    run = Path(shutil.copytree(made[0] / "kd_fmd" / "seed1", tmp_path / "run"))
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 210, "loss/la')
    text = written(run)
    assert text.count("polyline") >= 3
    assert "This run is not finished: 200 steps are logged" in text
    assert text.count("Left out") == 1


def test_a_run_without_teacher(made, tmp_path):
    run = Path(shutil.copytree(made[0] / "student_alone" / "seed0", tmp_path / "run"))
    text = written(run)
    assert f"<dl><dt>Motion or appearance</dt><dd>python -m vidkd.probe {run} finds it out" in text
    assert "The teacher" not in text


@pytest.mark.parametrize("damage", ["metrics.jsonl", "student_predictions.csv", "config.yaml", "results.json"])
def test_missing_files_never_stop_the_page(own, damage):
    for path in own.rglob(damage):
        path.unlink()
    assert "fake" in written(own)


@pytest.mark.parametrize("damage", ["student_predictions.csv", "config.yaml", "metrics.jsonl"])
def test_broken_files_cost_their_section_only(own, damage):
    for path in own.rglob(damage):
        path.write_text("{ no\n")
    assert "<h2>What is taken for what</h2>" in written(own)


def test_numbers_of_another_shape_cost_their_section_only(own):
    for path in own.rglob("results.json"):
        results = json.loads(path.read_text())
        results["student"]["per_class"] = 3
        path.write_text(json.dumps(results))
    assert "a file is not as vidkd writes it (TypeError" in written(own)


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


def test_commands_are_those_of_the_bench(made):
    m, text = material.read(made[0]), page.page(material.read(made[0]))[0]
    bench = grid.Bench.model_validate(json.loads((made[0] / "bench.json").read_text())["bench"])
    for cell in grid.cells(bench, bench.rows):
        assert " ".join(svg.esc(o) for o in cell.overrides()) in text
    assert all(row.config in text for row in m.rows)


def test_a_loss_of_a_teacher_wins_nothing(own):
    path = own / "bench.json"
    said = json.loads(path.read_text())
    for line in said["rows"]:
        if "gain" in line:
            line |= {"gain": -0.02, "gain_low": -0.05, "gain_high": 0.01}
    path.write_text(json.dumps(said))
    text = written(own)
    assert "a loss of 2.0 points" in text
    assert "may be chance" in text


def test_a_baseline_alone_has_nothing_to_compare(made, tmp_path, capsys):
    folder = fake_bench(tmp_path / "grid", made[1], {"student alone": 1.0}, seeds=(0,))
    text = written(folder)
    assert capsys.readouterr().out.splitlines()[1:-1] == [PROBE.format(folder)]
    assert "no row to compare" in text
    assert "gained" not in text


def test_read_is_what_log_reads(made):
    cell = material.read(made[0]).rows[0].cells[0]
    assert cell.metrics == log.read(cell.dir)


def test_where_the_time_went_adds_up(made):
    text = page.page(material.read(made[0]))[0]
    assert text.count('class="part data"') == 1 + 4  # its key, and a bar for the teacher and every row
    assert "data 0.02 s, student 0.03 s, backward 0.04 s, other 0.01 s" in text


def probed(folder: Path, values: dict[str, float], sizes: dict[int, float]) -> None:
    points = [{"time": t, "frames": 4, "size_px": 16, "primary": "top1", "top1": v, "own_size": True}
              for t, v in values.items()]  # fmt: skip
    points += [{"time": "as_is", "frames": 4, "size_px": px, "primary": "top1", "top1": v, "own_size": False}
               for px, v in sizes.items()]  # fmt: skip
    (folder / "probe.json").write_text(json.dumps({"weights_sha256": "0", "points": points}))


def test_probes_say_how_much_of_the_gain_is_motion(own):
    assert "<h2>Motion or appearance</h2>" not in written(own)
    for seed in range(3):
        alone = {"as_is": 0.40, "shuffled": 0.35, "static": 0.30}
        probed(own / "student_alone" / f"seed{seed}", alone, {})
        probed(own / "kd_fmd" / f"seed{seed}", {"as_is": 0.60, "shuffled": 0.45, "static": 0.35}, {24: 0.55})
    text = written(own)
    assert "Of the +20.0 points that KD &amp; &lt;fmd&gt; has over student alone, +10.0 are left" in text
    assert "+5.0 when one stands still: about 75 % of the gain needs motion." in text
    assert "4 frames of 16 px: 60.0%; 4 frames of 24 px: 55.0%" in text


def test_a_teacher_of_the_same_network_has_as_many_parameters():
    teacher, student = {"parameters": 12_308_789, "gmacs": 6.98}, {"parameters": 12_308_789, "gmacs": 0.92}
    assert gains.cheaper(teacher, student) == "has as many parameters and needs 7.6 times as many GMACs as the student."


def changed(folder: Path, change) -> None:
    """Rewrite bench.json by `change`, and every results.json by it too where that has a teacher."""
    path = folder / "bench.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_of_two_teachers_the_one_that_taught_a_row_is_named(own):
    """Both are of one network, and only their weights tell which is which."""

    def two(said):
        said["bench"]["first"].append(said["bench"]["first"][0] | {"name": "second"})
        plain = next(line for line in said["rows"] if line["row"] == "teacher")
        plain["protocol"]["weights_sha256"] = "a"
        other = {"row": "second", "top1": 0.99, "parameters": 99 * 11_000}
        said["rows"].append(plain | other | {"protocol": plain["protocol"] | {"weights_sha256": "b"}})
        for line in said["rows"]:
            line |= {"recovered": 0.5, "recovered_low": 0.4, "recovered_high": 0.6} if "gain" in line else {}

    changed(own, two)
    for row, weights in (("kd_fmd", "b"), ("weak", "a")):
        for path in own.glob(f"{row}/seed*/results.json"):
            results = json.loads(path.read_text())
            results["teacher"]["protocol"]["weights_sha256"] = weights
            path.write_text(json.dumps(results))
    m, text = material.read(own), written(own)
    assert {row: teacher.name for row, teacher in m.teachers.items()} == {"KD & <fmd>": "second", "weak": "teacher"}
    assert "Its teacher, “second”, 99.0%, has 99 times as many parameters" in text
    assert "second, top-1</span>" in text
    section = text[text.index("<h2>Accuracy by class</h2>") : text.index("<h2>What is taken for what</h2>")]
    assert "</svg> second</span>" in section and "</svg> teacher</span>" not in section
    assert "40.0 to 60.0</small><small>of second</small>" in text
    assert "40.0 to 60.0</small><small>of teacher</small>" in text
    for path in own.glob("weak/seed*/results.json"):
        path.write_text(path.read_text().replace('"weights_sha256": "a"', '"weights_sha256": "b"'))
    text = written(own)
    assert "<small>of " not in text
    assert "The gap is that to “second”, which taught every distilled row." in text


def test_with_one_teacher_none_is_named(own):
    share = {"recovered": 0.5, "recovered_low": 0.4, "recovered_high": 0.6}
    changed(own, lambda said: [line.update(share) for line in said["rows"] if "gain" in line])
    text = written(own)
    assert "40.0 to 60.0</small>" in text and "<small>of " not in text
    assert "The teacher, " in text and "Its teacher" not in text


def test_the_interval_is_said_to_be_of_its_kind(own):
    text = written(own)
    assert "Intervals of rows: bootstrap over seeds and videos." in text and "Wilson" not in text
    changed(own, lambda said: said["bench"].update(first=[]))  # its teacher is then a single network's figures
    assert "Intervals of a single network: Wilson." in written(own)
    assert "bootstrap over" not in written(own / "weak" / "seed0")


def test_a_video_without_a_class_is_given_none(own):
    shown = cards.shown(material.read(own))
    assert shown.label(0) == "right"
    several = replace(shown, part=[SimpleNamespace(label=-1)])
    assert several.label(0) == ""
    assert "<h4>" not in cards.card("", "name", "body")


def test_a_teacher_that_was_not_trained_here_has_a_line_of_its_own(own):
    changed(own, lambda said: said["bench"].update(first=[]))
    m = material.read(own)
    assert [row.name for row in m.lines if row.role == "teacher"] == ["teacher"]
    assert m.teachers["weak"] is m.teachers["KD & <fmd>"] is m.lines[0]
    for path in own.glob("weak/seed*/results.json"):
        results = json.loads(path.read_text())
        results["teacher"]["protocol"]["network"] = "another"
        path.write_text(json.dumps(results))
    m = material.read(own)
    assert [row.name for row in m.lines if row.role == "teacher"] == ["teacher", "teacher 2"]


def test_sizes_of_different_networks_are_no_surface(own):
    title = "Trained and scored at each size: alone, tiny4"

    def sized(network):
        def change(said):
            for line in said["rows"]:
                if line["row"] in ("student alone", "weak"):
                    line["protocol"] |= {"options": {}, "size_px": 16 if line["row"] == "weak" else 32}
                    line["protocol"]["network"] = network if line["row"] == "weak" else "tiny4"
            for raw in said["bench"]["rows"]:
                raw["baseline"] = raw["name"] if raw["name"] == "weak" else "student alone"

        changed(own, change)
        return page.page(material.read(own))[0]

    assert title in sized("tiny4")
    assert "Trained and scored at each size" not in sized("tiny16")


def test_runs_that_have_gone_since_are_said(own):
    assert "no longer here" not in written(own)
    (own / "weak" / "seed1" / "results.json").unlink()
    shutil.rmtree(own / "weak" / "seed2")
    assert "“weak”: the line is of 3 runs, of which 2 are no longer here or not finished" in written(own)


def test_what_a_detector_has_by_class_is_average_precision(own, capsys):
    for path in own.rglob("results.json"):
        results = json.loads(path.read_text())
        for who in {"student", "teacher"} & results.keys():
            del results[who]["confusion"]
            results[who]["per_class"] = [{"class": "jump", "n": 3, "ap": 0.625}, {"class": "run", "n": 0, "ap": None}]
        path.write_text(json.dumps(results))
    for path in own.rglob("*_predictions.csv"):
        path.write_text('"video","start_s","end_s","label","score"\n"a",0.1,1.0,"jump",0.5\n')
    text = written(own)
    assert "Average precision. Mean over seeds" in text
    assert "jump: 62.5%" in text
    said = capsys.readouterr().out
    assert "not as vidkd writes it" not in said
    for title in ("Gain by class", "Videos fixed and broken by distillation"):
        assert f"left out: {title}: a detector answers with stretches of time" in said


def test_gains_by_class_have_intervals(made):
    text = page.page(material.read(made[0]))[0]
    section = text[text.index("<h2>Gain by class</h2>") : text.index("<h2>Accuracy by class</h2>")]
    assert section.count('<line class="whisker distilled"') == 3 * 4  # a line and two ends, for each of four classes
    assert "right (10)" in section


def test_every_section_of_single_clips_shows_one_seed(own):
    (own / "kd_fmd" / "seed0" / "results.json").unlink()
    m = material.read(own)
    assert cards.shown(m).cell.seed == 1
    assert cards.shown(m).said() == "Seed 1."


def test_a_section_shows_the_best_row_that_has_what_it_shows(own):
    m = material.read(own)
    assert cards.best_with(m, lambda run: True) is m.best
    assert cards.best_with(m, lambda run: run.teacher is not None) is m.best
    assert cards.best_with(m, lambda run: run.name == "weak") is next(row for row in m.rows if row.name == "weak")
    alone = cards.best_with(m, lambda run: run.teacher is None)
    assert alone is not None and alone.name == "student alone"
    assert cards.shown(m, alone).said() == "student alone, seed 0."
    assert cards.shown(m, m.best).said() == "Seed 0."
    assert cards.best_with(m, lambda run: False) is None
