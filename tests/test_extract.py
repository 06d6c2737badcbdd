"""Features of videos, and a detector that learns from them as it would from pictures."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import tiny_set
from conftest import CONFIGS, REPOSITORY
from vidkd import cli, config_file, export, extract, models, train
from vidkd.data import index
from vidkd.data.decode import open_video
from vidkd.data.transforms import Drawn, centre, crop, view
from vidkd.errors import DataError

TOLD = ["--network", "tiny4", "--size-px", "16", "--window", "6", "--stride", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set.make(tmp_path_factory.mktemp("set") / "tiny", train=3, test=2, frames=18)


def run(*arguments):
    return cli.run_main(extract.main, [str(a) for a in arguments])


def test_a_row_is_the_mean_of_the_tap_over_its_window(data, tmp_path):
    """18 frames, a row for every 4: centres 2, 6, 10, 14, 18; the first window begins a frame before the video."""
    assert run(data, "--out", tmp_path, *TOLD, "--tap", "middle") == 0
    rows = np.load(tmp_path / "test_000.npy")
    assert (rows.shape, rows.dtype) == ((5, 4), np.float32)
    torch.manual_seed(0)
    network = models.build("tiny4", 1).eval()
    with open_video(data / "test_000.mp4") as video:
        frames = view(crop(video.get(range(18)), centre(32, 32)), Drawn(centre(32, 32)), 16)
    for row, wanted in ((0, [0, 0, 1, 2, 3, 4]), (1, range(3, 9)), (4, [15, 16, 17, 17, 17, 17])):
        with torch.no_grad():
            tap = network(frames[list(wanted)].transpose(0, 1)[None]).taps["middle"]
        np.testing.assert_allclose(rows[row], tap.mean((0, 2, 3, 4)).numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_made_is_a_data_set_that_says_what_it_is(data, tmp_path):
    assert run(data, "--out", tmp_path, *TOLD, "--fps", "12.5") == 0
    said = json.loads((tmp_path / "features.json").read_text())
    assert (said["video_fps"], said["stride_frames"], said["offset_frames"], said["window_frames"]) == (12.5, 4, 2, 6)
    assert (said["network"], said["tap"], said["channels"], said["weights_sha256"]) == ("tiny4", "late", 8, None)
    made, source = index.read(tmp_path), index.read(data)
    assert made.card["features"] == said
    assert made.classes == source.classes
    assert made.table["split1"] == source.table["split1"]
    assert (tmp_path / "segments.csv").read_bytes() == (data / "segments.csv").read_bytes()
    clip = made.part("split1", "test")[1]
    assert (clip.name, clip.frames, clip.fps) == ("test_001", 3, 12.5 / 4)  # 9 frames at 12.5 a second
    with open_video(clip.path) as video:
        assert (video.decoder, video.frames, video.fps, video.width) == ("features", 3, 3.125, 1)
        assert video.get([2, 0, 2]).shape == (3, 8, 1, 1)
        with pytest.raises(DataError, match="it has no frame 3"):
            video.get([1, 3])


def test_it_goes_on_where_it_was_stopped_and_never_mixes(data, tmp_path, monkeypatch, capsys):
    opened, of_video = [], extract.of_video

    def stopping(path, recipe):
        opened.append(path.name)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return of_video(path, recipe)

    monkeypatch.setattr(extract, "of_video", stopping)
    assert run(data, "--out", tmp_path, *TOLD) == cli.INTERRUPTED
    assert not (tmp_path / "index.csv").exists()
    assert run(data, "--out", tmp_path, *TOLD) == 0
    assert len(opened) == 3 + (13 - 2) == len(set(opened)) + 1  # the one that was broken off came twice
    assert run(data, "--out", tmp_path, *TOLD) == 0
    assert len(opened) == 14
    assert "0 of 13 videos extracted" in capsys.readouterr().out
    assert run(data, "--out", tmp_path, *TOLD[:-1], "8") == 2
    assert "stride_frames: 4 there, 8 here" in capsys.readouterr().err


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(data, tmp_path):
    """SIGKILL while a file is being written: what has its name is whole, and the rest comes with the same command."""
    assert run(data, "--out", tmp_path / "whole", *TOLD) == 0
    words = [sys.executable, "-m", "vidkd.extract", data, "--out", tmp_path / "killed", *TOLD]
    started = subprocess.Popen(list(map(str, words)), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while started.poll() is None and len(list(tmp_path.glob("killed/*.npy"))) < 2:
        time.sleep(0.001)
    started.kill()
    assert started.wait() == -signal.SIGKILL
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.npy")}
    assert 2 <= len(there) < 13 and not (tmp_path / "killed" / "index.csv").exists()
    (tmp_path / "killed" / ".tmp-test_012.npy-1").write_bytes(b"half")  # as a kill within a write leaves it
    assert run(data, "--out", tmp_path / "killed", *TOLD) == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes(), path.name
    assert {n: (tmp_path / "killed" / n).stat().st_mtime_ns for n in there} == there  # they were not made again


def test_a_detector_learns_from_features_of_a_trained_run(data, tmp_path):
    """The same trainer, task and evaluation; what it says is of the video's own seconds."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    config = next(path for path in CONFIGS if path.stem == "thumos14_features")
    told = ["--network", "tiny4", "--size-px", 16, "--window", 2, "--stride", 1]
    assert run(data, "--out", tmp_path / "features", *told) == 0
    options = "frames: 16, size_px: 1, width: 32, levels: 3, backbone_options: {channels: 8, width: 32}"
    made = config_file.load(
        config,
        [f"data.root={tmp_path / 'features'}", f"out={tmp_path / 'run'}", "data.workers=0", "data.fps=null",
         f"student.options={{backbone: sequence, {options}}}", "data.clip.frames=16", "optim.warmup=null",
         "data.windows={train_step: 2, test_step: 8}", "train.epochs=null", "train.steps=30", "train.batch_size=2",
         "train.save_every={steps: 30}", "train.threads=1", "optim.lr=3e-3", "task.bootstrap=0"],
    )  # fmt: skip
    figures = train.train(made)["student"]
    assert figures["n_videos"] == 2
    assert figures["ar_10"] > 0.5  # every action is 0.1 to 0.62 s of 0.72: the places are learned at once
    assert export.load_student(tmp_path / "run").tapped.input.mean == (0.0,) * 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what extracts"),
        (["--network", "tiny4"], "--network needs --size-px"),
        (["--network", "tiny5", "--size-px", "16"], "did you mean 'tiny4'"),
        ([*TOLD, "--tap", "lat"], "no map 'lat'; did you mean 'late'"),
        ([*TOLD, "--stride", "0"], "--stride 0: must be positive"),
        (["--network", "tiny4", "--size-px", "2"], "at least 4 px"),
        (["--model", "/nowhere"], "no such file"),
    ],
)
def test_mistakes(data, tmp_path, capsys, words, message):
    assert run(data, "--out", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err


def test_pictures_and_features_are_not_taken_for_each_other(data, tmp_path, capsys):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY and nothing")
    with pytest.raises(DataError, match="cannot be read as features"):
        open_video(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 5), np.float32))
    with pytest.raises(DataError, match=r"not float32 \[3, 4, 5\]"):
        open_video(tmp_path / "b.npy")
    assert run(data, "--out", tmp_path / "features", *TOLD) == 0
    config = next(path for path in CONFIGS if path.stem == "motion_detection")
    told = [f"data.root={tmp_path / 'features'}", f"out={tmp_path / 'run'}", "student.view.size_px=32"]
    from vidkd.train import main

    assert cli.run_main(main, [str(config), *told]) == 2
    assert "holds features, not pictures: set size_px to 1" in capsys.readouterr().err
