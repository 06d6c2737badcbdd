"""Two results side by side, or the reason why not."""

import json

import pytest

import small_run
import tiny_set
from vidkd import cli, compare, config_file, evaluate, train
from vidkd.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folders of a small and of a larger run on the same videos."""
    base = tmp_path_factory.mktemp("compare")
    root = tiny_set.make(base / "tiny", train=8, test=9)
    folders = []
    for name, network in (("small", "tiny4"), ("large", "tiny16")):
        words = [f"data.root={root}", f"out={base / name}", f"student.name={network}", "teacher=null", "methods=[]",
                 "data.augment.mixup_alpha=0"]  # fmt: skip
        train.train(config_file.load(small_run.KD, [*small_run.SMALL, *words]))
        folders.append(base / name)
    return folders


@pytest.fixture(scope="module")
def three_views(two):
    """The larger one, scored on three clips of each video."""
    out = two[1] / "evaluate" / "three"
    run = config_file.load(two[1] / "config.yaml", ["data.test_views.clips=3"])
    evaluate.evaluate(run, two[1], "test", out, student_only=True)
    return out


def test_a_result_has_nothing_over_itself(two, capsys):
    assert compare.main([str(two[0]), str(two[0])]) == 0
    said = capsys.readouterr().out
    assert "B - A: +0.0 points [+0.0, +0.0] over 9 videos; may be chance" in said
    assert "better on 0 videos, worse on 0" in said


def test_the_gain_is_the_difference_of_the_figures(two, capsys):
    assert compare.main(list(map(str, two))) == 0
    said = capsys.readouterr().out
    small, large = (json.loads((f / "results.json").read_text())["student"]["top1"] for f in two)
    assert f"B - A: {100 * (large - small):+.1f} points" in said
    assert "tiny4" in said.splitlines()[0] and "tiny16" in said.splitlines()[1]


def test_two_protocols_are_not_compared(two, three_views, capsys):
    assert cli.run_main(compare.main, [str(two[0]), str(three_views)]) == 2
    said = capsys.readouterr().err
    assert "were not scored under one protocol (here is A):\n  clips: 3 there, 1 here\n" in said
    assert said.count(" there, ") == 1  # the networks differ too, which is what is compared
    assert compare.main([str(two[0]), str(three_views), "--allow", "clips"]) == 0


def test_the_cheaper_side_is_scored_again(two, three_views, capfd):
    assert compare.main([str(three_views), str(two[0]), "--reevaluate"]) == 0
    said = capfd.readouterr().out
    assert f"python -m vidkd.evaluate {two[0]}" in said
    assert '"clips": 3' in said
    assert "data.clip" not in said  # what is alike is left alone
    again = json.loads((two[0] / "evaluate" / "as_evaluate_three" / "results.json").read_text())["student"]
    assert again["protocol"]["clips"] == 3
    assert "B - A: " in said


def test_seeds_are_one_side(two, tmp_path, capsys):
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").symlink_to(two[seed])
    unlike = compare.read(tmp_path)
    unlike[1].figures["protocol"]["crops"] = 3
    with pytest.raises(DataError, match="not scored under one protocol"):
        compare.compare(unlike, unlike, [])
    assert compare.main([str(tmp_path), str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("2 seeds") == 2
    (tmp_path / "seed2").mkdir()
    (tmp_path / "seed1.aside1").mkdir()
    assert compare.main([str(tmp_path), str(two[0])]) == 0
    assert f"{tmp_path}: left out, not finished: seed2\n" in capsys.readouterr().out


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no results\.json; give the folder of a finished run"):
        compare.read(tmp_path)
