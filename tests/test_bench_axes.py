"""A grid with axes: which lines it makes, what each is compared with, and every mistake in how it is written."""

import json
from itertools import product

import pytest

import tiny_set
from conftest import CONFIGS, REPOSITORY
from fake_runs import fake_run, said_cost
from vidkd.bench import grid, table
from vidkd.bench.sections import Bench
from vidkd.errors import ConfigError
from vidkd.report import material, page

BY_NAME = {path.stem: str(path) for path in CONFIGS}
WITHOUT_AXES = [
    path for path in sorted((REPOSITORY / "configs" / "bench").glob("*.yaml")) if "\naxes:" not in path.read_text()
]


def content(**changes):
    """Two resolutions, two views, and a form that the student alone does not have."""
    return {
        "name": "grid",
        "out": "grid",
        "axes": {
            "px": {"16 px": {"student.view.size_px": 16}, "32 px": {"student.view.size_px": 32}},
            "noise": {"clean": {}, "noisy": {"student.view.degrade": {"noise_std": 0.1}}},
            "form": {"frames": {"methods.1.form": "per_frame"}, "volume": {"methods.1.form": "spatiotemporal"}},
        },
        "rows": [
            {"name": "alone", "config": BY_NAME["motion_student"], "over": ["px", "noise"]},
            {"name": "FMD", "config": BY_NAME["motion_fmd"], "over": ["noise", "form", "px"], "set": {"seed": 1}},
        ],
        "baseline": "alone",
    } | changes


def row(**changes):
    return {"name": "FMD", "config": BY_NAME["motion_fmd"], "over": ["px", "noise", "form"]} | changes


def expanded(**changes):
    return grid.expanded(Bench.model_validate(content(**changes)))


def loaded(tmp_path, **changes):
    path = tmp_path / "bench.yaml"
    path.write_text(json.dumps(content(**changes)))
    return grid.load(path)


def test_the_lines_are_those_combinations_that_a_row_is_over_grouped_by_what_they_are_compared_with():
    bench = expanded()
    assert [(r.name, r.baseline) for r in bench.rows] == [
        (name, f"alone, {px} px, {noise}")
        for px, noise in product((16, 32), ("clean", "noisy"))
        for name in (
            f"alone, {px} px, {noise}",
            f"FMD, frames, {px} px, {noise}",
            f"FMD, volume, {px} px, {noise}",
        )
    ]
    assert bench.baseline == "alone, 16 px, clean"
    assert (bench.axes, {r.over for r in bench.rows}) == ({}, {()})
    assert grid.expanded(bench) == bench
    by_name = {r.name: r.set for r in bench.rows}
    assert by_name["FMD, volume, 32 px, noisy"] == {
        "seed": 1,
        "student.view.degrade": {"noise_std": 0.1},
        "methods.1.form": "spatiotemporal",
        "student.view.size_px": 32,
    }
    assert by_name["alone, 16 px, clean"] == {"student.view.size_px": 16}


def test_a_cell_is_the_run_that_its_line_says(tmp_path):
    bench = loaded(tmp_path)
    cell = next(c for c in grid.cells(bench, bench.rows) if c.name == "FMD, volume, 32 px, noisy, seed 2")
    found = cell.run()
    assert str(found.out) == "grid/fmd_volume_32_px_noisy/seed2"
    assert (found.student.view.size_px, found.student.view.degrade.noise_std) == (32, 0.1)
    assert [getattr(m, "form", None) for m in found.methods][1] == "spatiotemporal"


@pytest.mark.parametrize("path", WITHOUT_AXES, ids=lambda p: p.stem)
def test_a_grid_without_axes_keeps_its_rows_and_folders(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    written = Bench.model_validate(grid.config_file.read_yaml(path))
    assert not written.axes
    before, after = (
        [(c.name, c.out, c.log, c.overrides()) for c in grid.cells(b, b.first) + grid.cells(b, b.rows)]
        for b in (written, grid.expanded(written))
    )
    assert before == after


def test_seeds_of_a_line_of_a_row_and_of_the_bench():
    rows = content()["rows"]
    rows[0]["seeds"] = [7]
    seeds = {"FMD, *": [0, 1, 2, 3, 4], "*, volume, 16 px, *": [5]}
    found = {r.name: r.seeds for r in expanded(rows=rows, seeds_of=seeds).rows}
    assert found["alone, 16 px, clean"] == (7,)
    assert found["FMD, frames, 16 px, clean"] == (0, 1, 2, 3, 4)
    assert found["FMD, volume, 16 px, noisy"] == (5,)  # the last pattern


def test_a_row_may_have_a_baseline_of_its_own():
    other = {"name": "other", "config": BY_NAME["motion_student"], "over": ["px"]}
    rows = [*content()["rows"], other | {"baseline": "other"}, row(name="more", over=["px", "form"], baseline="other")]
    names = [(r.name, r.baseline) for r in expanded(rows=rows).rows if r.name.endswith("32 px")]
    assert names == [(f"{name}, 32 px", "other, 32 px") for name in ("other", "more, frames", "more, volume")]


def test_only_takes_the_baselines_along():
    bench = expanded()
    names = [r.name for r in grid.only(bench, ["FMD, volume, 32 px, *", "FMD, frames, 16 px, clean"]).rows]
    assert names == [
        "alone, 16 px, clean", "FMD, frames, 16 px, clean", "alone, 32 px, clean", "FMD, volume, 32 px, clean",
        "alone, 32 px, noisy", "FMD, volume, 32 px, noisy",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"--only 'KD\*': no row has such a name; as in 'alone, 16 px, clean'"):
        grid.only(bench, ["FMD*", "KD*"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [*content()["rows"], row(name="b", over=["px", "noise", "frm"])]}, "row 'b': no axis 'frm'; did"),
        ({"rows": [*content()["rows"], row(name="b", over=["px", "noise", "px"])]}, "row 'b' is over an axis twice"),
        ({"rows": [*content()["rows"], row(name="b", over=["form"])]},
         "row 'b' is not over px, noise, as its baseline 'alone' is"),
        ({"rows": [*content()["rows"], row(name="b", baseline="alon")]}, "row 'b': no row 'alon'; did you"),
        ({"rows": [*content()["rows"], row(name="fmd")]}, "two rows have the same name, .*: 'FMD', 'fmd'"),
        ({"rows": [*content()["rows"], row(name="b", set={"student.view.size_px": 8})]},
         "row 'b': axis 'px' overrides 'student.view.size_px', and would undo 'student.view.size_px' of its set"),
        ({"axes": content()["axes"] | {"form": {"all": {"student.view": {}}}}},
         "axis 'form' overrides 'student.view', and would undo 'student.view.degrade' of axis 'noise'"),
        ({"axes": content()["axes"] | {"lr": {"low": {"optim.lr": 0.1}}}}, "axis 'lr': no row is over it"),
        ({"axes": content()["axes"] | {"form": {}}}, "axis 'form' has no values"),
        ({"axes": content()["axes"] | {"form": {"a": {}, "A": {}}}}, "two rows have the same name, .*'FMD, a, 16 px"),
        ({"axes": content()["axes"] | {"px": {"16": 16}}}, r"axes\.px\.16: Input should be a valid dictionary"),
        ({"axes": content()["axes"] | {"px": {"16": {"student.view.size": 16}}}},
         r"row 'alone, 16, clean' and 1 more: .*(?s:.)*student\.view\.size: no such key; did you mean 'size_px'"),
        ({"seeds_of": {"KD*": [0]}}, r"seeds_of 'KD\*': no row has such a name"),
        ({"first": [row(name="t", baseline="alone")]}, "row 't': of what comes first no gain is computed"),
        ({"first": [row(name="t", set={"out": "x"})]}, "row 't' sets one out for all values of its axes"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, **changes)


def test_all_mistakes_are_said_at_once(tmp_path):
    rows = [*content()["rows"], row(name="b", over=["pxx"]), row(name="c", baseline="d")]
    with pytest.raises(ConfigError, match=r"no axis 'pxx'.*'b' is not over px, noise.*row 'c': no row 'd'"):
        loaded(tmp_path, rows=rows)


def test_a_gain_is_over_the_line_of_the_same_values(tmp_path, monkeypatch):
    """Alone at 16 px is right where alone at 32 px is wrong, and so on: each line has a gain over its own alone."""
    monkeypatch.setattr(table, "speed", said_cost)
    monkeypatch.setattr("vidkd.intervals.RESAMPLES", 20)
    drop = {"axes": {"px": content()["axes"]["px"]}, "out": str(tmp_path / "grid"), "seeds": [0]}
    rows = [content()["rows"][0] | {"over": ["px"]}, row(over=["px"])]
    bench = expanded(rows=rows, **drop)
    skill = {"alone, 16 px": 0.2, "FMD, 16 px": 3.0, "alone, 32 px": 3.0, "FMD, 32 px": 0.2}
    root = tiny_set.make(tmp_path / "tiny", train=4, test=40)
    for cell in grid.cells(bench, bench.rows):
        fake_run(cell.out, root, skill[cell.row.name], cell.seed, teacher=cell.row.name.startswith("FMD"))
    lines = {line["row"]: line for line in table.rows_of(bench)}
    for px in (16, 32):
        own, base = lines[f"FMD, {px} px"], lines[f"alone, {px} px"]
        assert own["baseline"] == base["baseline"] == f"alone, {px} px"
        assert own["gain"] == pytest.approx(own["top1"] - base["top1"])
        assert "gain" not in base
    assert lines["FMD, 16 px"]["gain"] > 0 > lines["FMD, 32 px"]["gain"]
    text = table.write(bench)
    assert [x for x in text.splitlines() if x.startswith("#")] == [
        f"### Compared with alone, {px} px" for px in (16, 32)
    ]
    assert (tmp_path / "grid" / "table.html").read_text().count("<h2>") == 2
    m = material.read(tmp_path / "grid")
    assert m.baseline is not None
    assert (m.best.name, m.baseline.name) == ("FMD, 16 px", "alone, 16 px")
    assert [r.role for r in m.rows] == ["baseline", "distilled"] * 2


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """A grid with two teachers, whose runs were never trained."""
    monkeypatch.setattr(table, "speed", said_cost)
    monkeypatch.setattr("vidkd.intervals.RESAMPLES", 20)
    rows = [row(name=name, over=[]) for name in ("alone", "KD", "FMD")]
    first = [row(name=name, over=[]) for name in ("teacher", "other")]
    bench = expanded(axes={}, rows=rows, first=first, out=str(tmp_path / "grid"), seeds=[0])
    root = tiny_set.make(tmp_path / "tiny", train=4, test=40)
    for cell in [*grid.cells(bench, bench.first), *grid.cells(bench, bench.rows)]:
        skill = {"alone": 0.2, "KD": 1.0, "FMD": 1.0}.get(cell.row.name, 3.0)
        fake_run(cell.out, root, skill, cell.seed, teacher=cell.row.name in ("KD", "FMD"))
    for name, who, weights in (("teacher", "student", "a"), ("other", "student", "b"), ("KD", "teacher", "a"),
                               ("FMD", "teacher", "b")):  # fmt: skip
        path = tmp_path / "grid" / name.lower() / "seed0" / "results.json"
        results = json.loads(path.read_text())
        results[who]["protocol"] |= {"weights_sha256": weights, "network": "tiny16"}
        path.write_text(json.dumps(results))
    return bench


def test_a_share_of_the_gap_says_to_which_teacher(faked):
    lines = {line["row"]: line for line in table.rows_of(faked)}
    assert {name: line.get("teacher") for name, line in lines.items()} == {
        "teacher": None, "other": None, "alone": None, "KD": "teacher", "FMD": "other",
    }  # fmt: skip
    said = {line.split(" |")[0]: line for line in table.as_markdown([*lines.values()]).splitlines()}
    assert "] of teacher |" in said["| KD"] and "] of other |" in said["| FMD"]
    one = [line for name, line in lines.items() if name not in ("other", "FMD")]
    assert "of teacher |" not in table.as_markdown(one) and "The gap is" not in table.as_markdown(one)
    two = table.as_markdown([line for name, line in lines.items() if name != "FMD"])
    assert "of teacher |" not in two and two.endswith("The gap is that to 'teacher', which taught the others.")
    assert "] of " not in table.as_csv([*lines.values()])


def test_rows_of_unequal_budgets_are_named(faked, tmp_path):
    assert not any("unequal" in line for line in table.rows_of(faked))
    config = tmp_path / "grid" / "kd" / "seed0" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 200", "steps: 400"))
    text = table.write(faked)
    assert text.splitlines()[-1] == (
        "careful: 'KD' was not trained as 'alone', which it is compared with: train.steps: 200 there, 400 here"
    )
    assert text.count("careful") == 1
    assert "train.steps: 200 there, 400 here" in (tmp_path / "grid" / "table.html").read_text()
    assert "“KD” was not trained as &#x27;alone&#x27;" in page.page(material.read(tmp_path / "grid"))[0]
