"""The command that scores what was trained: what it is given wrong, and what it writes down."""

import json

import pytest

from vidkd import evaluate, evaluation, train
from vidkd.data import index
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
