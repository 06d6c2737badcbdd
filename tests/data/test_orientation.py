"""A picture that is meant to be seen turned or mirrored is, whoever reads it; of several videos, the first is read."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from data import films, numbered
from vidkd.data import decode
from vidkd.errors import DataError

TURNS = {
    "quarter": "-display_rotation 90",
    "half": "-display_rotation 180",
    "three_quarters": "-display_rotation 270",
    "mirrored": "-display_hflip",
    "upside_down": "-display_vflip",
    "quarter_mirrored": "-display_rotation 90 -display_hflip",
}


def turned(path: Path, source: Path, options: str) -> Path:
    numbered.ffmpeg([*options.split(), "-i", str(source), "-map", "0", "-c", "copy", str(path)])
    return path


def as_ffmpeg_shows(path: Path) -> torch.Tensor:
    """[N, 3, H, W]: what the ffmpeg program, which prepares videos, makes of it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:V:0"]
    command += ["-fps_mode", "passthrough", "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "-"]
    content, at, frames = subprocess.run(command, capture_output=True, check=True).stdout, 0, []
    while at < len(content):
        kind, size, most = content[at : at + 30].split(b"\n", 3)[:3]
        width, height = map(int, size.split())
        at += len(kind) + len(size) + len(most) + 3
        frames.append(np.frombuffer(content, np.uint8, height * width * 3, at).reshape(height, width, 3))
        at += height * width * 3
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored_as_ffmpeg_does_or_refused(tmp_path: Path, turn: str, suffix: str, decoder: decode.Decoder):
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    source = films.film(tmp_path / f"source{suffix}", films.PREPARED, frames=20)
    path = turned(tmp_path / f"turned{suffix}", source, TURNS[turn])
    truth = as_ffmpeg_shows(path)
    found = films.frames_or_error(path, [0, 7, 19], decoder)
    if isinstance(found, str):
        assert decoder in ("decord", "torchcodec")
        assert "returns other frames" in found
        return
    assert torch.equal(found, truth[[0, 7, 19]])
    with decode.open_video(path, decoder) as video:
        assert (video.width, video.height) == (truth.shape[3], truth.shape[2])


def test_by_less_than_a_right_angle_is_left_to_data_prep(tmp_path: Path):
    path = turned(tmp_path / "t.mp4", films.film(tmp_path / "s.mp4", films.PREPARED), "-display_rotation 30")
    with decode.open_video(path) as video, pytest.raises(DataError, match=r"t\.mp4: .* prepare the data set"):
        video.get([3])


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", ["two.mp4", "two.mkv", "fragments.mp4"])
def test_of_two_videos_in_one_file_the_first_is_read(tmp_path: Path, name: str, decoder: decode.Decoder):
    """decord and torchcodec would take the larger one, or the one that is marked as the default."""
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    first = films.film(tmp_path / "first.mp4", films.PREPARED, "96x96", 20)
    second = films.film(tmp_path / "second.mp4", films.PREPARED, "256x192", 15)
    path = tmp_path / name
    both = ["-i", str(first), "-i", str(second), "-map", "0:v", "-map", "1:v", "-c", "copy"]
    more = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    more += ["-movflags", "frag_keyframe+empty_moov"] if name == "fragments.mp4" else []
    numbered.ffmpeg([*both, *more, str(path)])
    if decoder in ("decord", "torchcodec"):
        with pytest.raises(DataError, match="returns other frames"):
            decode.open_video(path, decoder)
        return
    with decode.open_video(path, decoder) as video:
        assert video.frames == 20
        assert torch.equal(video.get([0, 19]), as_ffmpeg_shows(first)[[0, 19]])
