"""A grid runs, continues, compares like with like, and says its mistakes before its first hour."""

import json

import pytest

import tiny_set
from conftest import CONFIGS
from vidkd import bench
from vidkd.errors import ConfigError, DataError

BY_NAME = {path.stem: str(path) for path in CONFIGS}
SMALL = {"data.clip.frames": 4, "data.clip.stride": 1, "data.workers": 0, "train.epochs": None, "train.steps": 2,
         "train.batch_size": 4, "train.threads": 1, "optim.warmup": None, "student.name": "tiny4",
         "student.options": {}, "student.view.size_px": 16}  # fmt: skip


@pytest.fixture
def make(tmp_path):
    """Write a bench of a teacher and two rows; its path."""

    def made(**changes):
        root = tmp_path / "tiny"
        if not root.exists():
            tiny_set.make(root, train=8, test=5)
        small = {**SMALL, "data.root": str(root)}
        weak = {"teacher.name": "tiny4", "teacher.options": {}, "teacher.view.size_px": 16, "teacher.allow_weak": True}
        teacher = str(tmp_path / "grid" / "teacher" / "seed0")
        content = {
            "name": "grid",
            "out": str(tmp_path / "grid"),
            "jobs": 2,
            "first": [{"name": "teacher", "config": BY_NAME["motion_teacher"], "set": small}],
            "rows": [
                {"name": "alone", "config": BY_NAME["motion_student"], "set": small},
                {
                    "name": "with KD",
                    "config": BY_NAME["motion_kd"],
                    "set": {**small, **weak, "teacher.weights": teacher},
                },
            ],
            "seeds": [0],
            "baseline": "alone",
        } | changes
        path = tmp_path / "bench.yaml"
        path.write_text(json.dumps(content))  # JSON is YAML
        return path

    return made


def test_a_grid_runs_once_and_makes_a_table(make, tmp_path):
    grid = bench.load(make())
    text = bench.run(grid, jobs=2)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["teacher", "alone", "with KD"]
    rows = json.loads((tmp_path / "grid" / "bench.json").read_text())["rows"]
    assert [row["protocol"]["coverage"] for row in rows] == [{"scored": 5, "expected": 5}] * 3
    assert all(row["training_s"] > 0 and row["parameters"] > 0 and row["clips_per_s"] > 0 for row in rows)
    assert "gain" in rows[2]
    assert "gain" not in rows[1]
    assert len((tmp_path / "grid" / "table.csv").read_text().splitlines()) == 4
    weights = tmp_path / "grid" / "with_kd" / "seed0" / "student.safetensors"
    before = weights.stat().st_mtime_ns
    bench.run(grid, jobs=1)
    assert weights.stat().st_mtime_ns == before

    predictions = tmp_path / "grid" / "with_kd" / "seed0" / "student_predictions.csv"
    predictions.write_text(predictions.read_text().replace("test_000", "other"))
    with pytest.raises(DataError, match="'with KD' was not scored on the videos of 'alone'"):
        bench.rows_of(grid)


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
        bench.load(make(**changes))


def test_a_cells_mistake_is_found_before_anything_runs(make, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.lrr: no such key"):
        bench.load(make(rows=[{"name": "alone", "config": BY_NAME["motion_student"], "set": {"optim.lrr": 1}}]))
    assert not (tmp_path / "grid").exists()
