"""Detectors on two processes, and in bf16: what is divided by the actions of a batch is divided by those of all."""

import json
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import tiny_set
from conftest import REPOSITORY
from small_run import lines, same, tensors
from vidkd import annotations, config_file, train
from vidkd.types import Segments

KD = REPOSITORY / "configs" / "motion_detection_kd.yaml"
CLIP = "frames: 16, levels: 3, width: 32"
SMALL = ("data.clip.frames=16", "data.windows={train_step: 8, test_step: 8}", "data.workers=0", "train.steps=4",
         "train.batch_size=4", "train.save_every={steps: 1}", "train.log_every_steps=1", "train.eval_batch_size=4",
         f"student.options={{backbone: tiny4, size_px: 16, {CLIP}}}", "student.view.size_px=16", "optim.warmup=null",
         f"teacher.options={{backbone: tiny16, size_px: 16, {CLIP}}}", "teacher.view.size_px=16",
         "teacher.weights=null", "teacher.allow_weak=true", "teacher.preflight_clips=2", "task.bootstrap=0",
         "task.contrast=true", "task.refined_from=0.05")  # fmt: skip
# Seconds of videos of 6.4 s. In two of them an action can be cut in two; one has four times the actions of another.
ACTIONS = {
    "train_000": [(0.2, 0.5), (0.9, 2.0), (2.1, 2.4), (3.4, 4.6)],
    "train_001": [(1.0, 1.6)],
    "train_002": [(0.1, 0.3), (1.5, 3.0)],
    "train_003": [(4.0, 6.0)],
    "test_000": [(1.0, 2.0), (3.0, 5.0)],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tiny_set.make(tmp_path_factory.mktemp("set") / "tiny", train=4, test=1, frames=160)
    rows = [(v, *own, tiny_set.CLASSES[i % 4]) for v, each in ACTIONS.items() for i, own in enumerate(each)]
    annotations.write(root / "segments.csv", Segments.of(rows))
    return root


@pytest.fixture
def words(root, tmp_path):
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return lambda name, *more: [*SMALL, f"data.root={root}", f"out={tmp_path / name}", *more]


def on_two(module, *arguments):
    """The real command on two processes; what it said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", module]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_are_one(words, tmp_path):
    """Every term of the detector, of the contrast and of distillation, and what they teach; then the evaluation."""
    one = config_file.load(KD, words("one"))
    train.train(one)
    on_two("vidkd.train", KD, *words("two", "train.processes=2"))
    alone, both = ([line for line in lines(tmp_path / name) if "loss/total" in line] for name in ("one", "two"))
    assert len(alone) == len(both) == 4
    assert {"loss/triplet", "loss/refined_class", "loss/localisation/reach"} <= alone[0].keys()
    assert all(any(line[f"loss/{name}"] > 0 for line in alone) for name in ("triplet", "refined_location"))
    for a, b in zip(alone, both, strict=True):
        for name in (key for key in a if key.startswith("loss/")):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (a["step"], name)
    same(tensors(tmp_path / "one", 4), tensors(tmp_path / "two", 4), rtol=1e-3, atol=1e-4)
    a, b = (json.loads((tmp_path / name / "results.json").read_text())["student"] for name in ("one", "two"))
    assert a["n_videos"] == b["n_videos"] == 1 and a["n_actions"] == b["n_actions"] == 2

    said = on_two("vidkd.evaluate", tmp_path / "one", "--student-only", "--out", tmp_path / "again")
    assert said.count("mAP@") == said.count("written to") == 1
    again = json.loads((tmp_path / "again" / "results.json").read_text())["student"]
    figures = ("map", "map_0.3", "ar_10", "n_detections", "per_class")
    assert {name: again[name] for name in figures} == {name: a[name] for name in figures}


@pytest.mark.parametrize("batch", [1, 3])
def test_bf16_trains_a_detector(words, tmp_path, batch):
    """With batches of one clip and of three; in bf16 numbers have 8 bits, so terms may be off by some percent."""
    terms = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        more = (f"train.mixed_precision={precision}", f"train.batch_size={batch}", "train.steps=2")
        train.train(config_file.load(KD, words(precision, *more)))
        terms[precision] = [line for line in lines(tmp_path / precision) if "loss/total" in line]
        found = tensors(tmp_path / precision, 2)
        assert all(torch.isfinite(t).all() and t.dtype in (torch.float32, torch.int64) for t in found.values())
    first, rough = terms["no"][0], terms["bf16"][0]
    assert first.keys() == rough.keys()
    for name in (key for key in first if key.startswith("loss/")):
        assert rough[name] == pytest.approx(first[name], rel=0.1, abs=0.02), name
