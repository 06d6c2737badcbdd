"""The command that scores what was trained: what it is given wrong, and what it writes down."""

import json

import pytest

from vidkd import evaluate, evaluation, outcome, results, train
from vidkd.data import clips, index
from vidkd.errors import ConfigError, DataError


@pytest.fixture
def run(make):
    made = make("run", "methods=[]", "teacher=null", "data.augment.mixup_alpha=0", "train.steps=2")
    train.train(made)
    return made


def test_a_checkpoint_of_another_architecture_or_class_count_is_one_error(run, root, tmp_path):
    last = run.out_dir / "checkpoints" / "step00000002"
    out = tmp_path / "out"
    for wrong in (["student.name=tiny16"], ["student.name=small_r3d"]):
        with pytest.raises(
            DataError, match=r"step00000002: not the checkpoint of \w+ with these options and 4 classes"
        ):
            evaluate.main([str(last), *wrong, "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "no config.yaml beside it; give the CONFIG"),
        (["{run}", "a.yaml", "b.yaml"], "one CONFIG at most"),
        (["{run}", "student.name=tiny16"], "does not fit tiny16"),
        (["{run}", "--part", "holdout"], "no video in part 'holdout'"),
        (["{run}", "data.test_views.crops=4"], "crops: Input should be 1, 3 or 5"),
    ],
)
def test_what_cannot_be_scored_is_one_error(run, words, message):
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate.main([word.format(run=run.out_dir) for word in words])


def test_the_results_name_the_decoder_that_auto_came_to(run, root):
    said = json.loads((run.out_dir / "results.json").read_text())
    assert said["student"]["protocol"]["decoder"] == "auto"
    assert said["environment"]["decoded_by"] in ("pyav", "decord")
    part = index.read(root).part("split1", "test")
    assert evaluation.decoded_by(part, "pyav") == "pyav"


def test_an_evaluation_that_fails_leaves_nothing_and_keeps_what_was_there(run, root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    scored, opened = evaluate.evaluate(run, run.out_dir, "test", out, student_only=True), clips.open_video
    there = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(there) == {"config.yaml", "results.json", "student_predictions.csv"} and scored["student"]

    def harmed(path, decoder):
        if path.name == "test_007.mp4":
            raise DataError(f"{path}: cannot be decoded")
        return opened(path, decoder)

    monkeypatch.setattr(clips, "open_video", harmed)
    other = run.model_copy(update={"seed": 5})
    for folder in (out, tmp_path / "new" / "folder"):
        with pytest.raises(DataError, match=r"test_007\.mp4"):
            evaluate.evaluate(other, run.out_dir, "test", folder, student_only=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == there
    assert not (tmp_path / "new").exists()


def test_an_evaluation_that_is_cut_short_while_it_writes_is_none(run, tmp_path, monkeypatch):
    """The predictions of one and the figures of another in one folder would be believed."""
    out, write = tmp_path / "out", results.write_predictions
    evaluate.evaluate(run, run.out_dir, "test", out, student_only=True)

    def dying(*args):
        write(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_predictions", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(run, run.out_dir, "test", out, student_only=True)
    with pytest.raises(ConfigError, match=r"no results\.json"):
        outcome.read(out)


def test_where_nothing_can_be_written_is_said_before_anything_is_scored(run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "score", lambda *a, **k: pytest.fail("scored for nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/sub: cannot be written; choose another folder with --out"):
        evaluate.evaluate(run, run.out_dir, "test", tmp_path / "file" / "sub", student_only=True)
