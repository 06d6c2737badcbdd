"""Students on what they were not trained for."""

import json

import pytest
import torch

from vidkd import config_file, evaluate, probe, train
from vidkd.config import Degrade, ViewSpec
from vidkd.data import order
from vidkd.data.degrade import degrade
from vidkd.errors import ConfigError

FRAMES = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 4, 4)


def seen(time, *address):
    made = degrade(FRAMES, Degrade(time=time), order.generator(*address))
    assert made.shape == FRAMES.shape
    return made[:, 0, 0, 0].tolist()


def test_time_is_taken_from_a_clip():
    assert seen("as_is", 0) == list(range(8))
    assert seen("static", 0) == [4] * 8
    assert sorted(seen("shuffled", 0)) == list(range(8))
    assert seen("shuffled", 0) != list(range(8))
    assert seen("shuffled", 0) == seen("shuffled", 0)  # addressed
    assert seen("shuffled", 0) != seen("shuffled", 1)


def test_what_was_keyed_before_there_was_such_a_thing_is_the_same():
    assert "time" not in Degrade().model_dump(mode="json")
    assert "time" not in ViewSpec(size_px=8).model_dump(mode="json")["degrade"]
    said = ViewSpec(size_px=8, degrade=Degrade(time="static")).model_dump(mode="json")
    assert said["degrade"]["time"] == "static"
    assert ViewSpec.model_validate(said).degrade.time == "static"


def test_a_run_is_probed_once(make, capsys, monkeypatch):
    run = make("run", "teacher=null", "methods=[]", "data.augment.mixup_alpha=0")
    train.train(run)
    assert probe.main([str(run.out_dir), "--sizes", "16", "24", "--frames", "4", "8"]) == 0
    points = json.loads((run.out_dir / "probe.json").read_text())["points"]
    own = [(p["time"], p["frames"], p["size_px"]) for p in points if p["own_size"]]
    assert own == [("as_is", 4, 16), ("shuffled", 4, 16), ("static", 4, 16)]
    assert len(points) == 3 + 3  # three more sizes: its own is one of the four
    scored = json.loads((run.out_dir / "results.json").read_text())["student"]["top1"]
    assert points[0]["top1"] == scored
    words = ["student.view.degrade.time=static"]
    again = config_file.load(run.out_dir / "config.yaml", words)
    outcome = evaluate.evaluate(again, run.out_dir, "test", run.out_dir / "evaluate" / "static")["student"]
    assert outcome["top1"] == points[2]["top1"]
    assert outcome["protocol"]["degrade"]["time"] == "static"

    monkeypatch.setattr(probe, "_score", None)
    assert probe.main([str(run.out_dir), "--sizes", "16", "--frames", "4"]) == 0  # nothing is scored again
    assert "4x16 static" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--frames 9: the clips have 8 frames"):
        probe.probe(run.out_dir, None, [9])
