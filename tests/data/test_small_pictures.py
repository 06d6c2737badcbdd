"""decord cannot copy the frames of some narrow videos: `auto` reads them with another decoder."""

import numpy as np
import pytest

import tiny_set
from vidkd.data.decode import open_video


@pytest.mark.parametrize("width", [16, 24, 40, 48, 72, 80, 96])
def test_every_width_is_read(width, tmp_path):
    clip = np.full((4, 32, width, 3), 100, np.uint8)
    clip[2] = 200
    tiny_set.encode(tmp_path / "x.mp4", clip)
    with open_video(tmp_path / "x.mp4") as video:
        frames = video.get([1, 2])
    assert frames.shape == (2, 3, 32, width)
    assert frames.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([100, 200], abs=4)


@pytest.mark.parametrize(("width", "decoder"), [(72, "pyav"), (80, "decord")])
def test_a_file_that_decord_would_read_if_it_were_wider(width, decoder, tmp_path):
    """WebM, which is read by decord where it can be; at 72 px its rows are padded."""
    clip = np.full((4, 32, width, 3), 100, np.uint8)
    clip[2] = 200
    tiny_set.encode(tmp_path / "x.webm", clip, "-c:v", "libvpx", "-b:v", "1M", "-pix_fmt", "yuv420p")
    with open_video(tmp_path / "x.webm") as video:
        assert video.decoder == decoder
        assert video.get([1, 2]).float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([100, 200], abs=6)
