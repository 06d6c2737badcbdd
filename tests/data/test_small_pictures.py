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
