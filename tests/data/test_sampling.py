"""Which frames, by hand."""

import pytest
import torch

from vidkd.config import ClipSpec
from vidkd.data import sampling

FOUR_BY_3 = ClipSpec(frames=4, stride=3)


def test_span_counts_both_ends():
    assert sampling.span(FOUR_BY_3) == 10  # frames 0, 3, 6, 9
    assert sampling.span(ClipSpec(frames=1, stride=8)) == 1


@pytest.mark.parametrize(
    ("frames", "fps", "rate", "expected"),
    [
        (9, 30.0, 10.0, [2, 5, 8]),  # of each tenth of a second the last frame
        (10, 30.0, 10.0, [2, 5, 8]),
        (6, 25.0, 10.0, [2, 4]),
        (8, 25.0, 10.0, [2, 4, 7]),
        (4, 5.0, 10.0, [0, 0, 1, 1, 2, 2, 3, 3]),  # slower than the rate: frames come twice
        (1, 30.0, 10.0, [0]),
        (3, 30.0, None, [0, 1, 2]),
    ],
)
def test_reading_at_a_rate(frames, fps, rate, expected):
    assert list(sampling.at_rate(frames, fps, rate)) == expected


def test_train_starts_are_uniform_and_inside():
    rng = torch.Generator().manual_seed(0)
    starts = [sampling.train_start(14, 10, rng) for _ in range(2000)]
    assert set(starts) == {0, 1, 2, 3, 4}
    assert all(330 < starts.count(s) < 470 for s in range(5))
    assert {sampling.train_start(10, 10, rng) for _ in range(9)} == {0}
    assert {sampling.train_start(3, 10, rng) for _ in range(9)} == {0}


@pytest.mark.parametrize(
    ("frames", "span", "clips", "starts"),
    [
        (100, 10, 1, [45]),
        (100, 10, 2, [0, 90]),
        (100, 10, 4, [0, 30, 60, 90]),
        (13, 10, 3, [0, 2, 3]),  # 1.5 rounds up
        (10, 10, 3, [0, 0, 0]),
        (4, 10, 2, [0, 0]),
        (1, 10, 1, [0]),
    ],
)
def test_test_clips_spread_over_the_whole_video(frames: int, span: int, clips: int, starts: list[int]):
    assert sampling.test_starts(frames, span, clips) == starts


def test_indices_of_a_clip_that_fits():
    assert sampling.indices(5, FOUR_BY_3, 15, "loop") == [5, 8, 11, 14]
    assert sampling.indices(5, FOUR_BY_3, 15, "hold") == [5, 8, 11, 14]


def test_indices_of_short_videos():
    assert sampling.indices(0, FOUR_BY_3, 5, "loop") == [0, 3, 1, 4]
    assert sampling.indices(0, FOUR_BY_3, 5, "hold") == [0, 3, 4, 4]
    for short in ("loop", "hold"):
        assert sampling.indices(0, FOUR_BY_3, 1, short) == [0, 0, 0, 0]


def test_subsampling_is_even_and_keeps_the_first():
    sixteen = list(range(100, 116))
    assert sampling.subsample(sixteen, 16) == sixteen
    assert sampling.subsample(sixteen, 4) == [100, 104, 108, 112]
    assert sampling.subsample(sixteen, 6) == [100, 102, 105, 108, 110, 113]  # floor(i * 16 / 6)
    assert sampling.subsample(sixteen, 1) == [100]
    with pytest.raises(ValueError, match="cannot take 17 of 16"):
        sampling.subsample(sixteen, 17)


@pytest.mark.parametrize("frames", [1, 5, 9, 10, 11, 23, 100])
@pytest.mark.parametrize("step", [1, 4, 10])
def test_windows_cover_every_frame(frames: int, step: int):
    starts = sampling.window_starts(frames, 10, step)
    assert starts == sorted(set(starts))
    assert set().union(*(range(s, s + 10) for s in starts)) >= set(range(frames))
    assert starts[-1] == max(frames - 10, 0)


def test_windows_may_not_leave_gaps():
    with pytest.raises(ValueError, match=r"in 1\.\.10"):
        sampling.window_starts(50, 10, 11)
