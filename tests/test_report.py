"""The page of a bench and of a run, from directories made here: no network is trained."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import tiny_set
from vidkd import cli, config_file, log
from vidkd.bench import grid, table
from vidkd.config import Run
from vidkd.data import index
from vidkd.errors import ConfigError, DataError
from vidkd.report import __main__ as report
from vidkd.report import cards, charts, material, page, svg
from vidkd.results import write_predictions
from vidkd.tasks import recognition
from vidkd.tasks._base import Scored

TIMES = {"time/step_s": 0.1, "time/data_s": 0.02, "time/student_s": 0.03, "time/backward_s": 0.04}
COSTS = {"student": (11_000, 0.02, 900.0), "teacher": (340_000, 0.61, 41.0)}


def a_run(out: Path, root: Path, *, teacher: bool, seed: int = 0) -> Run:
    """A configuration; never trained."""
    network = "tiny16" if out.parent.name == "teacher" else "tiny4"
    said = {
        "name": out.parent.name,
        "out": str(out),
        "seed": seed,
        "task": {"kind": "recognition"},
        "data": {"root": str(root), "clip": {"frames": 8}},
        "student": {"name": network, "view": {"size_px": 16, "frames": 4}},
        "optim": {"kind": "sgd", "lr": 0.1},
        "train": {"steps": 200, "batch_size": 4},
    }
    if teacher:
        said["teacher"] = {"name": "tiny16", "view": {"size_px": 32}}
        said["methods"] = [{"kind": "logits"}]
    return config_file.parse(said, "test")


def scored(data_set: index.Index, skill: float, seed: int) -> Scored:
    """Answers that are the likelier right the more `skill`."""
    part = data_set.part("split1", "test")
    label = torch.tensor([part[i].label for i in range(len(part))])
    noise = torch.randn(len(part), 1, len(data_set.classes), generator=torch.Generator().manual_seed(seed))
    logits = noise + skill * torch.nn.functional.one_hot(label, len(data_set.classes))[:, None]
    return Scored(part.names(), label, {"logits": logits})


def fake_run(out: Path, root: Path, skill: float, seed: int, *, teacher: bool) -> None:
    """All that a finished run leaves, but for its weights."""
    out.mkdir(parents=True)
    run, data_set = a_run(out, root, teacher=teacher, seed=seed), index.read(root)
    task = recognition.Task(recognition.Config(kind="recognition"), data_set.classes)
    results = {"name": run.name, "seed": seed, "training_s": 100.0 + seed, "environment": environment()}
    for who, network in (("student", run.student), ("teacher", run.teacher)):
        if network is None:
            continue
        answers = scored(data_set, skill if who == "student" else 3.0, seed if who == "student" else 99)
        parameters, gmacs, clips_per_s = COSTS[who if out.parent.name != "teacher" else "teacher"]
        results[who] = task.results(answers) | {
            "protocol": protocol(run, data_set, network.name, network.view.size_px),
            "cost": {"parameters": parameters, "gmacs": gmacs, "clips_per_s": clips_per_s, "clips_per_s_is": "bare"},
        }
        write_predictions(out / f"{who}_predictions.csv", task, answers)
    (out / "results.json").write_text(json.dumps(results))
    (out / "config.yaml").write_text(config_file.dump(run))
    rng = torch.Generator().manual_seed(seed)
    lines = []
    for step in range(10, 201, 10):
        noise = torch.rand(2, generator=rng).tolist()
        terms = {"loss/label": 2 / (1 + step / 60) + noise[0] / 4}
        terms |= {"loss/logits/kd": 3 / (1 + step / 30) + noise[1] / 3} if teacher else {}
        lines.append({"step": step, **terms, "loss/total": sum(terms.values()), **TIMES})
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def protocol(run: Run, data_set: index.Index, network: str, size_px: int) -> dict:
    n = len(data_set.part("split1", "test"))
    return {
        "data_set": data_set.name, "index_sha256": data_set.checksum(), "split": "split1", "part": "test",
        "coverage": {"scored": n, "expected": n}, "network": network, "frames": 8, "stride": 1, "size_px": size_px,
        "degrade": run.student.view.degrade.model_dump(mode="json"), "clips": 1, "crops": 1, "mixed_precision": "no",
        "decoder": "auto",
    }  # fmt: skip


def environment() -> dict:
    return {"vidkd": "0.1", "python": "3.11", "packages": {"torch": "2.10"}, "git_commit": None, "cuda": None}


ROWS = {"student alone": 0.9, "KD & <fmd>": 1.7, "weak": 0.8}


def fake_bench(out: Path, root: Path, rows: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A finished bench: the first of the rows is the baseline; bench.json is written as vidkd.bench writes it."""
    bench = grid.Bench.model_validate(
        {
            "name": "fake <grid>",
            "out": out,
            "first": [{"name": "teacher", "config": "configs/t.yaml"}],
            "rows": [{"name": name, "config": "configs/k.yaml", "set": {"optim.lr": 0.1}} for name in rows],
            "seeds": seeds,
            "baseline": next(iter(rows)),
        }
    )
    for cell in grid.cells(bench, bench.first):
        fake_run(cell.out, root, 3.0, cell.seed, teacher=False)
    for cell in grid.cells(bench, bench.rows):
        fake_run(cell.out, root, rows[cell.row.name], cell.seed, teacher=cell.row.name != bench.baseline)
    with patch.object(table, "speed", said_cost):
        summary = {"bench": bench.model_dump(mode="json"), "rows": table.rows_of(bench)}
    (out / "bench.json").write_text(json.dumps(summary))
    return out


def said_cost(cell: grid.Cell, _num_classes: int, _known: dict) -> dict:
    """The cost that the fake run said, in place of a measurement."""
    return json.loads((cell.out / "results.json").read_text())["student"]["cost"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bench directory, data set): read only; a test that breaks something copies it."""
    base = tmp_path_factory.mktemp("report")
    root = tiny_set.make(base / "tiny", train=4, test=40)
    return fake_bench(base / "grid", root, ROWS), root


@pytest.fixture
def own(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "grid"))


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
    assert "31 times the parameters" in text
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
    assert "left out" not in capsys.readouterr().out
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
    assert "Left out" not in text
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


def test_folders_are_named_as_the_bench_names_them():
    for name in ("student alone", "KD & <fmd>", "112 px, 16 frames"):
        assert material.slug(name) == grid.slug(name)


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


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (svg.Scale(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (svg.Scale(0.5, 0.75), [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]),
        (svg.Scale(0.2, 3, log=True), [0.2, 0.5, 1, 2]),
        (svg.Scale(0.5, 300, log=True), [1, 10, 100]),
    ],
)
def test_ticks_are_round(scale, ticks):
    assert scale.ticks() == pytest.approx(ticks)
    assert all(0 <= scale(v) <= 100 + 1e-6 for v in ticks)


def test_labels_keep_apart():
    places = charts._apart([10, 11, 12, 90], 15, 100)
    assert places == [10, 25, 40, 90]
    assert charts._apart([95, 97], 15, 100)[-1] <= 100


def test_curves_leave_out_what_is_not_a_number():
    drawn = charts.curves("loss", [[(1.0, float("nan")), (2.0, 1.0), (3.0, 0.5)]], "baseline")
    assert "nan" not in drawn
    assert charts.curves("loss", [[(1.0, float("inf"))]], "baseline") == ""


def test_one_step_is_a_curve_too():
    assert "nan" not in charts.curves("loss", [[(0.0, 2.0)]], "baseline")


def test_many_classes_stay_small():
    k = 101
    dense = [[1.0 + 50 * (i == j) for j in range(k)] for i in range(k)]
    assert len(charts.confusion(dense, [f"class {i}" for i in range(k)], "")) < 1_500_000
    rows = [charts.Dots(f"class {i}", [("baseline", 0.2), ("teacher", 0.9)]) for i in range(k)]
    assert len(charts.dot_rows(rows, "")) < 200_000


def test_a_baseline_alone_has_nothing_to_compare(made, tmp_path, capsys):
    folder = fake_bench(tmp_path / "grid", made[1], {"student alone": 1.0}, seeds=(0,))
    text = written(folder)
    assert capsys.readouterr().out.count("left out") == 1
    assert "no row to compare" in text
    assert "gained" not in text


def test_long_curves_are_thinned():
    drawn = charts.curves("loss", [[(float(i), 1 / (i + 1)) for i in range(5000)]], "baseline")
    points = re.findall(r'points="([^"]*)"', drawn)
    assert all(len(p.split()) <= charts.POINTS for p in points)


def test_read_is_what_log_reads(made):
    cell = material.read(made[0]).rows[0].cells[0]
    assert cell.metrics == log.read(cell.dir)


def test_the_front_is_what_no_other_beats():
    """By hand: b is dearer than a and worse; d is dearer than c and no better."""
    places = {"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.7), "d": (4, 0.7)}
    points = [charts.Point(name, "distilled", x, y) for name, (x, y) in places.items()]
    assert [p.name for p in charts.front(points, "less")] == ["a", "c"]
    assert [p.name for p in charts.front(points, "more")] == ["d"]
    drawn = charts.scatter(points, "", "GMACs", "less")
    assert drawn.count('class="front"') == 1


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
    assert "Motion or appearance" not in written(own)
    for seed in range(3):
        alone = {"as_is": 0.40, "shuffled": 0.35, "static": 0.30}
        probed(own / "student_alone" / f"seed{seed}", alone, {})
        probed(own / "kd_fmd" / f"seed{seed}", {"as_is": 0.60, "shuffled": 0.45, "static": 0.35}, {24: 0.55})
    text = written(own)
    assert "Of the +20.0 points that KD &amp; &lt;fmd&gt; has over student alone, +10.0 are left" in text
    assert "+5.0 when one stands still: about 75 % of the gain needs motion." in text
    assert "4 frames of 16 px: 60.0%; 4 frames of 24 px: 55.0%" in text


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
