"""Intervals over seeds and videos."""

import numpy as np
import pytest

from vidkd import compare
from vidkd.errors import DataError


def write(path, predictions, label="a"):
    path.write_text("video,label,prediction\n" + "".join(f"v{i},{label},{p}\n" for i, p in enumerate(predictions)))
    return path


def test_reading_what_was_right(tmp_path):
    paths = [write(tmp_path / "0.csv", "ab"), write(tmp_path / "1.csv", "aa")]
    names, right = compare.read_right(paths)
    assert names == ["v0", "v1"]
    assert right.tolist() == [[1, 0], [1, 1]]


def test_classes_that_look_like_numbers_stay_names(tmp_path):
    path = write(tmp_path / "0.csv", ["001", "1", "nan"], label="001")
    assert compare.read_right([path])[1].tolist() == [[1, 0, 0]]


def test_other_videos_are_refused(tmp_path):
    paths = [write(tmp_path / "0.csv", "ab"), write(tmp_path / "1.csv", "aba")]
    with pytest.raises(DataError, match="cannot be compared"):
        compare.read_right(paths)


def test_certainty_has_no_width():
    interval = compare.mean_interval(np.ones((3, 20)))
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    same = compare.gain_interval(np.ones((3, 20)), np.zeros((2, 20)))
    assert (same.mean, same.low, same.high) == (1, 1, 1)


def test_one_seed_gives_about_the_binomial_interval():
    right = np.repeat([1.0, 0.0], [300, 100])[None]
    interval = compare.mean_interval(right)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert interval.low == pytest.approx(0.75 - half, abs=0.01)
    assert interval.high == pytest.approx(0.75 + half, abs=0.01)


def test_pairing_by_video_narrows_a_gain():
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    base = np.where(hard, 0.0, 1.0)[None].repeat(3, axis=0)
    better = base.copy()
    better[:, np.flatnonzero(hard)[:40]] = 1
    gain = compare.gain_interval(better, base)
    assert gain.mean == pytest.approx(0.1)
    assert gain.low > 0.06
    assert gain.high < 0.14


def test_seeds_that_disagree_widen_the_interval():
    steady = np.tile(np.repeat([1.0, 0.0], [50, 50]), (4, 1))
    wild = np.stack([np.ones(100), np.zeros(100), np.ones(100), np.zeros(100)])
    a, b = compare.mean_interval(steady), compare.mean_interval(wild)
    assert b.high - b.low > 2 * (a.high - a.low)
