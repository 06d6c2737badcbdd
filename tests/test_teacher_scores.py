"""The teacher's answers to a test part, kept for other runs: the same results, not computed again, damage found."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from small_run import KD, TAUGHT
from vidkd import config_file, evaluation, results, teacher_scores, train
from vidkd.data import index
from vidkd.errors import DataError
from vidkd.tasks._base import Scored

ONE_STEP = ("train.epochs=null", "train.steps=1", "train.batch_size=8", "optim.warmup=null", "seed=3",
            "train.save_every={steps: 1}", "data.augment.mixup_alpha=0", "teacher.allow_weak=true")  # fmt: skip


@pytest.fixture
def trained(root, tmp_path, monkeypatch):
    """Trains one step under a name; what was written, and which networks were scored."""
    scored, score = [], evaluation.score

    def seen(networks, *args, **kwargs):
        scored.append(sorted(networks))
        return score(networks, *args, **kwargs)

    monkeypatch.setattr(evaluation, "score", seen)

    def trained(name, *more):
        words = [*TAUGHT, *ONE_STEP, f"data.root={root}", f"out={tmp_path / name}", f"name={name}"]
        words.append(f"teacher.cache={{views: 1, dir: {tmp_path / 'cache'}}}")
        run = config_file.load(KD, [*words, *more])
        return train.train(run), scored.pop(), run.out_dir

    return trained


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "scores").iterdir())


def test_a_second_student_of_the_teacher_has_its_answers(trained, root, tmp_path, capsys):
    first, scored, folder = trained("first")
    assert scored == ["student", "teacher"]
    assert "are kept for other runs" in capsys.readouterr().out
    second, scored, other = trained("second", "optim.lr=0.001", "task.weights={label: 0.5}")
    assert scored == ["student"]
    assert str(kept(tmp_path)[0]) in capsys.readouterr().out
    assert len(kept(tmp_path)) == 1
    for key in first["teacher"].keys() - {"cost", "protocol"}:
        assert second["teacher"][key] == first["teacher"][key], key
    without_weights = [{**r["teacher"]["protocol"], "task": None} for r in (first, second)]
    assert without_weights[0] == without_weights[1]
    name = "teacher_predictions.csv"
    assert (folder / name).read_bytes() == (other / name).read_bytes()
    videos = len(index.read(root).part("split1", "test"))
    assert second["teacher"]["protocol"]["coverage"] == {"expected": videos, "scored": videos}
    assert second["agreement"].keys() == first["agreement"].keys()


@pytest.mark.parametrize(
    "other",
    ["data.test_views.clips=2", "teacher.view.size_px=40", "teacher.mixed_precision=bf16", "seed=4",
     "data.seed=5", "teacher.view.degrade.noise_std=0.1", "task.aggregation=mean_logit"],
)  # fmt: skip
def test_another_protocol_is_scored_anew(trained, other):
    trained("first")
    assert trained("second", other)[1] == ["student", "teacher"]


def test_damage_is_found_and_named(trained, tmp_path):
    trained("first")
    (path,) = kept(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: .*checksum is wrong.*delete it"):
        trained("second")
    path.write_bytes(content[:50])
    shutil.rmtree(tmp_path / "second")
    with pytest.raises(DataError, match="cannot be read"):
        trained("second")


def test_without_a_cache_nothing_is_kept(trained, tmp_path):
    scored = trained("first", "teacher.cache=null")[1]
    assert scored == ["student", "teacher"]
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_costs_no_results(trained, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    keep = teacher_scores.keep

    def kept(path, scored):
        with monkeypatch.context() as there:
            there.setattr(teacher_scores.checkpoint, "write_atomic", full)
            keep(path, scored)

    monkeypatch.setattr(results.teacher_scores, "keep", kept)
    *_, folder = trained("first")
    assert json.loads((folder / "results.json").read_text())["teacher"]
    assert "could not be kept for other runs (No space left on device)" in capsys.readouterr().out


def test_views_that_differ_by_video_come_back(tmp_path):
    rows = {"scores": [torch.rand(n, 4) for n in (1, 3, 0, 2)], "times": [torch.rand(n, 2, 5) for n in (2, 2, 1, 1)]}
    scored = Scored(["a", 'b "c"', "d\u00e9", "e"], torch.tensor([0, 1, 2, -1]), rows)
    path = tmp_path / "deeper" / "a.safetensors"
    assert teacher_scores.read(path) is None
    teacher_scores.keep(path, scored)
    found = teacher_scores.read(path)
    assert found is not None and found.ids == scored.ids and torch.equal(found.label, scored.label)
    for name, expected in rows.items():
        assert all(torch.equal(a, b) for a, b in zip(found.kept[name], expected, strict=True)), name
