"""What happens when: windows, their places in time, the pictures of it, and every video that is none."""

import json
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tiny_set
from students import run_of
from vidkd import cli, export, models, predict, sliding
from vidkd.data import clips, index
from vidkd.data.decode import open_video
from vidkd.errors import ConfigError, DataError

CLASSES = ("dark", "red", "green", "$blue_{x")


class Colors(nn.Module):
    """[B, 3, T, H, W], standardised -> logits: dark, or the colour there is most of."""

    def forward(self, video):
        rgb = video.mean((2, 3, 4))
        return 8 * torch.cat([torch.full_like(rgb[:, :1], -1.5), rgb], dim=1)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run directory with an untrained student: 8 frames, 2 apart, 32 px."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    export.save_student(folder, models.build("tiny16", 4), run_of(view={"size_px": 32}), CLASSES, None)
    return folder


@pytest.fixture
def student(run):
    """A student that tells colours."""
    student = export.load_student(run)
    student.tapped.net = Colors()
    return student


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """4 s at 25 frames/s: red, green, dark, blue, a second each; wider than high."""
    path = tmp_path_factory.mktemp("video") / "a clip.mp4"
    frames = np.zeros((100, 48, 96, 3), dtype=np.uint8)
    frames[:25, ..., 0] = frames[25:50, ..., 1] = frames[75:, ..., 2] = 230
    tiny_set.encode(path, frames)
    return path


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


class TestWindows:
    def test_they_cover_the_video(self, student, video):
        with open_video(video) as opened:
            starts, span = sliding.windows(student, opened, None)
        assert span == 15
        assert starts[0] == 0
        assert starts[-1] + span == 100
        assert starts[:-1] == list(range(0, 85, 7))

    @pytest.mark.parametrize(
        ("stride_s", "expected"), [(0.2, [0, 5, 10]), (1.0, [0, 25, 50, 75]), (99.0, [0]), (1e-9, [0, 1, 2])]
    )
    def test_the_stride_in_seconds(self, student, video, stride_s, expected):
        with open_video(video) as opened:
            starts, _ = sliding.windows(student, opened, stride_s)
        assert starts[: len(expected)] == expected

    def test_each_sees_its_own_frames(self, student, video):
        with open_video(video) as opened:
            found = sliding.probabilities(student, opened, [0, 30, 55, 80], batch=3)
        assert found.argmax(dim=1).tolist() == [1, 2, 0, 3]
        assert torch.allclose(found.sum(dim=1), torch.ones(4, dtype=torch.float64))

    def test_how_many_at_a_time_does_not_matter(self, run, video):
        student = export.load_student(run)
        with open_video(video) as opened:
            starts, _ = sliding.windows(student, opened, None)
            one, many = (sliding.probabilities(student, opened, starts, batch) for batch in (1, 64))
        assert torch.allclose(one, many, atol=1e-6)

    @pytest.mark.parametrize("short", ["loop", "hold"])
    def test_it_sees_what_evaluation_sees(self, tmp_path, short):
        """The middle window of a prepared video gives the very logits of its one test view, short videos included."""
        root = tiny_set.make(tmp_path / "set", train=1, test=2, frames=6 if short == "loop" else 40, size=80)
        data = run_of().data.model_copy(update={"root": root, "short": short})
        described = run_of(view={"size_px": 32}).model_copy(update={"data": data})
        export.save_student(tmp_path / "run", models.build("tiny16", 4), described, CLASSES, None)
        student = export.load_student(tmp_path / "run")
        part = index.read(root).part("split1", "test")
        view = clips.TestClips(part, data, {"student": student.view}).load((0, 1)).views["student"]
        with open_video(part[1].path) as opened, torch.no_grad():
            start = max(opened.frames - 15, 0) // 2
            found = sliding.probabilities(student, opened, [start], batch=1)
            assert torch.allclose(found, student(view).double().softmax(1), atol=1e-7)

    def test_a_degraded_view_is_degraded_here_too(self, student, video):
        noisy = student.view.model_copy(update={"degrade": student.view.degrade.model_copy(update={"noise_std": 0.5})})
        with open_video(video) as opened:
            plain = sliding.probabilities(student, opened, [0], batch=1)
            student.view = noisy
            once, again = (sliding.probabilities(student, opened, [0], batch=1) for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once, plain)

    def test_few_frames_are_held_at_a_time(self, student, video, monkeypatch):
        alive, held, small = weakref.WeakSet(), [], sliding._small

        def watching(frame, size_px):
            made = small(frame, size_px)
            alive.add(made)
            held.append(len(alive))
            return made

        monkeypatch.setattr(sliding, "_small", watching)
        with open_video(video) as opened:
            sliding.probabilities(student, opened, list(range(0, 85, 5)), batch=2)
        assert len(held) > 60
        assert max(held) <= 15 + 5 + 5

    def test_answers_that_are_not_numbers(self, student, video):
        class Broken(nn.Module):
            def forward(self, video):
                return torch.full((len(video), 4), float("nan"))

        student.tapped.net = Broken()
        with open_video(video) as opened, pytest.raises(DataError, match="not a number; its weights are bad"):
            sliding.probabilities(student, opened, [0], batch=1)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_walk_gives_the_frames_that_get_gives(video, decoder):
    indices = [0, 3, 4, 20, 21, 60, 99]
    with open_video(video, decoder) as opened:
        assert torch.equal(torch.stack(list(opened.walk(indices))), opened.get(indices))
        with pytest.raises(DataError, match="it has no frame 100"):
            list(opened.walk([98, 99, 100, 101]))


class TestCommand:
    def test_all_of_it(self, run, video, tmp_path, capsys):
        words = [video, "--model", run, "--top", 2, "--stride-s", 0.4, "--json", tmp_path / "o.json"]
        assert predict.main([*map(str, words), "--png", str(tmp_path / "o.png"), "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        assert "a clip.mp4: 4.00 s, 100 frames at 25/s" in out
        assert "tiny16, 4 classes: 10 window(s) of 0.60 s" in out
        assert "\n0.40 - 1.00 s  " in out
        assert "\nall in all: " in out
        said = json.loads((tmp_path / "o.json").read_text())
        assert (len(said["windows"]), said["duration_s"], said["fps"]) == (10, 4.0, 25.0)
        assert [len(w["top"]) for w in said["windows"]] == [2] * 10
        assert said["windows"][-1]["end_s"] == 4.0
        with Image.open(tmp_path / "o.png") as png:
            assert png.size == (1800, 960)
            assert len(png.convert("RGB").getcolors(1 << 24)) > 100

    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm", ".ts", ".mov"])
    def test_other_containers(self, run, video, tmp_path, suffix, capsys):
        path = tmp_path / f"v{suffix}"
        ffmpeg("-i", video, *(["-c:v", "libvpx", "-deadline", "realtime"] if suffix == ".webm" else []), path)
        assert predict.main([str(path), "--model", str(run)]) == 0
        assert "4.00 s, 100 frames at 25/s" in capsys.readouterr().out

    def test_one_frame(self, run, video, tmp_path, capsys):
        ffmpeg("-i", video, "-frames:v", 1, tmp_path / "one.mp4")
        words = [tmp_path / "one.mp4", "--model", run, "--png", tmp_path / "o.png"]
        assert predict.main([str(w) for w in words]) == 0
        assert "1 window(s) of 0.04 s" in capsys.readouterr().out

    def test_as_a_program(self, run, video, tmp_path):
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-m", "vidkd.predict", video, "--model", run]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert "all in all" in done.stdout


class TestRefused:
    """Exit 2, one line that names the file, and no traceback."""

    def refuses(self, capsys, message, *words):
        assert cli.run_main(predict.main, [str(word) for word in words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert message in err

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "it is empty"),
            (b"this is not a video\n" * 99, "not a video"),
            (b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "not a video"),
            (b"<html>404</html>", "not a video"),
            (b"\x00\x00\x00\x18ftypisom" + b"\x00" * 500, "mp4"),
            (None, "No such file"),
        ],
        ids=["empty", "text", "playlist", "html", "header", "missing"],
    )
    def test_no_video(self, run, tmp_path, capsys, content, message):
        path = tmp_path / "a.mp4"
        if content is not None:
            path.write_bytes(content)
        self.refuses(capsys, message, path, "--model", run)
        self.refuses(capsys, str(path), path, "--model", run)

    def test_sound_alone(self, run, tmp_path, capsys):
        ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "s.mp4")
        self.refuses(capsys, "s.mp4: holds no", tmp_path / "s.mp4", "--model", run)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", "faststart.mp4"])
    def test_cut_short(self, run, tmp_path, capsys, suffix, share):
        path = tmp_path / f"v{suffix}"
        faststart = ["-movflags", "+faststart"] if suffix == "faststart.mp4" else []
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:d=4", *faststart, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        self.refuses(capsys, "cut short", path, "--model", run)

    def test_no_frames(self):
        with pytest.raises(DataError, match="it has no frames"):
            sliding.timing(type("V", (), {"frames": 0, "fps": 25.0, "path": "a.mp4"})())

    def test_a_folder(self, run, tmp_path, capsys):
        self.refuses(capsys, f"{tmp_path}: not a regular file", tmp_path, "--model", run)

    @pytest.mark.parametrize("fps", [0.0, math.nan, math.inf])
    def test_a_rate_that_is_none(self, fps):
        assert sliding.timing(type("V", (), {"frames": 50, "fps": fps, "path": ""})()) == (25.0, 2.0)

    def test_models(self, run, video, tmp_path, capsys):
        self.refuses(capsys, "no such file or directory", video, "--model", tmp_path / "no")
        self.refuses(capsys, "holds no student.safetensors", video, "--model", tmp_path)
        self.refuses(capsys, "not a safetensors file", video, "--model", video)

    def test_nothing_that_was_given_is_passed_over(self, run, video, capsys):
        """A second network of recognition, and flow for networks of none: neither would have changed an answer."""
        self.refuses(capsys, "several --model are for detectors", video, "--model", run, "--model", run)
        self.refuses(capsys, "--flow: no --model sees optical flow", video, "--model", run, "--flow", video)
        self.refuses(capsys, "--flow-side: no --model sees", video, "--model", run, "--flow-side", 64)

    @pytest.mark.parametrize("option", ["--json", "--png", "--html"])
    def test_the_video_is_never_written_over(self, run, video, capsys, option):
        before = video.read_bytes()
        same = video.parent / ".." / video.parent.name / video.name
        self.refuses(capsys, "is read; what is written needs another name", video, "--model", run, option, same)
        assert video.read_bytes() == before

    @pytest.mark.parametrize(
        "words",
        [("--top", 0), ("--batch", 0), ("--stride-s", -1), ("--stride-s", "nan"), ("--threshold", "nan"),
         ("--json", "/nowhere/a.json"), ("--png", "/tmp")],
        ids=lambda w: f"{w[0]}={w[1]}",
    )  # fmt: skip
    def test_command_lines(self, run, video, words):
        with pytest.raises(ConfigError):
            predict.main([str(w) for w in (video, "--model", run, *words)])
