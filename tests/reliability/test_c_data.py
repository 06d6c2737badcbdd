"""C3 to C5: what cannot be read is counted or an error that names it; nothing hangs, nothing ends with fewer clips."""

import ctypes
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

import tiny_set
from reliability import runs
from small_run import SMALL, lines
from vidkd.data import clips

VICTIM = "train_005.mp4"
PLAIN = (*SMALL, "data.workers=2", "train.save_every={steps: 1}")
SKIP = ("data.on_error=skip", "data.max_bad_fraction=0.1")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The data set with one training video that has its size and cannot be decoded."""
    root = tiny_set.make(tmp_path / "broken")
    spoil(root / VICTIM)
    return root


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600] + bytes(path.stat().st_size - 600))


def trouble(kind: str, mark: Path | None = None, victim: str = VICTIM) -> None:
    """Have whoever opens the victim hang with the interpreter held, or die; `mark` appears as it does."""
    opened = clips.open_video

    def troubled(path: Path, decoder: str):
        if path.name == victim and mark is not None:
            mark.touch()
        if path.name == victim and kind == "hangs":
            ctypes.PyDLL(None).sleep(120)
        if path.name == victim and kind in ("SIGSEGV", "SIGKILL"):
            os.kill(os.getpid(), signal.Signals[kind])
        return opened(path, decoder)

    clips.open_video = troubled


def test_c3_a_video_that_cannot_be_read_is_one_error(broken, tmp_path):
    run = runs.run(broken, tmp_path / "run", base=PLAIN)
    assert run.process.exitcode == 2
    assert VICTIM in run.said() and "Traceback" not in run.said()


def test_c3_skipped_videos_are_replaced_alike_and_counted_through_a_kill(broken, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    done = runs.run(broken, whole, *SKIP, base=PLAIN)
    assert done.process.exitcode == 0, done.said()
    replaced = [line["data/replaced"] for line in lines(whole)]
    assert replaced[-1] == 2  # six steps of eight are two epochs of twenty-four
    assert replaced == sorted(replaced)
    assert done.said().count(f"{VICTIM}: ") == 2
    run = runs.start(broken, out, *SKIP, base=PLAIN)
    run.wait_for((out / "checkpoints" / "step00000004").exists)
    run.signal(signal.SIGKILL)
    run.end()
    assert runs.run(broken, out, *SKIP, base=PLAIN).process.exitcode == 0
    assert runs.left(out) == runs.left(whole)


@pytest.mark.slow
def test_c3_they_are_counted_over_all_processes(broken, tmp_path):
    spoil(broken / "train_011.mp4")
    both = runs.ranks(broken, tmp_path / "two", 2, *SKIP, "train.steps=3", base=PLAIN)
    assert [rank.end() for rank in both] == [0, 0], both[0].said()
    assert lines(tmp_path / "two")[-1]["data/replaced"] == 2  # one epoch
    many = runs.ranks(broken, tmp_path / "many", 2, "data.on_error=skip", "data.max_bad_fraction=0.05", base=PLAIN)
    assert [rank.end() for rank in many] == [2, 2]
    assert "2 videos of epoch 0 could not be read, more than data.max_bad_fraction allows (1.2)" in many[0].said()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"), [("test_003", ()), ("val_003", ("data.val=val", "train.eval_every={steps: 3}"))]
)
def test_c3_a_video_that_is_scored_is_never_replaced(tmp_path, name, how):
    root = tiny_set.make(tmp_path / "set")
    spoil(root / f"{name}.mp4")
    run = runs.run(root, tmp_path / "run", *SKIP, *how, base=PLAIN)
    assert run.process.exitcode == 2
    assert f"{name}.mp4" in run.said() and not (tmp_path / "run" / "results.json").exists()


def test_c4_a_clip_that_hangs_is_named(root, tmp_path):
    mark = tmp_path / "hangs"
    run = runs.start(root, tmp_path / "run", "data.timeout_s=3", base=PLAIN, before=partial(trouble, "hangs", mark))
    run.wait_for(mark.exists)
    hung = time.monotonic()
    assert run.end(60) == 2, run.said()
    assert time.monotonic() - hung < 3 + 15
    assert "silent for 3" in run.said() and f"it was reading: {Path(VICTIM).stem}" in run.said()


@pytest.mark.parametrize("how", ["SIGSEGV", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_c5_a_worker_that_dies_is_an_error_that_names_its_clip(root, tmp_path, how):
    run = runs.run(root, tmp_path / "run", base=PLAIN, before=partial(trouble, how))
    assert run.process.exitcode == 2
    assert f"it was reading: {Path(VICTIM).stem}" in run.said() and "a loader worker died" in run.said()
    assert "Traceback" not in run.said()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["val_003", "test_003"])
def test_c5_a_worker_that_dies_while_it_scores_leaves_no_figure_of_fewer_videos(root, tmp_path, victim):
    how = ("data.val=val", "train.eval_every={steps: 3}", "train.steps=3")
    before = partial(trouble, "SIGKILL", victim=f"{victim}.mp4")
    run = runs.run(root, tmp_path / "run", *how, base=PLAIN, before=before)
    assert run.process.exitcode == 2
    assert f"it was reading: {victim}" in run.said() and "Traceback" not in run.said()
    scored = [line for line in lines(tmp_path / "run") if "val/top1" in line]
    assert len(scored) == (victim == "test_003") and not (tmp_path / "run" / "results.json").exists()
