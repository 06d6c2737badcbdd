"""Intervals over seeds and videos."""

import numpy as np
import pytest

from vidkd import compare


def means(right):
    """The accuracy of each seed of [seeds, videos] as a figure, and how many videos there are."""
    return [lambda videos, own=own: float(own[videos].mean()) for own in right], right.shape[1]


def test_certainty_has_no_width():
    perfect, n = means(np.ones((3, 20)))
    interval = compare.mean_interval(perfect, n)
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    same = compare.gain_interval(perfect, means(np.zeros((2, 20)))[0], n)
    assert (same.mean, same.low, same.high) == (1, 1, 1)


def test_one_seed_gives_about_the_binomial_interval():
    interval = compare.mean_interval(*means(np.repeat([1.0, 0.0], [300, 100])[None]))
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert interval.low == pytest.approx(0.75 - half, abs=0.01)
    assert interval.high == pytest.approx(0.75 + half, abs=0.01)


def test_pairing_by_video_narrows_a_gain():
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    base = np.where(hard, 0.0, 1.0)[None].repeat(3, axis=0)
    better = base.copy()
    better[:, np.flatnonzero(hard)[:40]] = 1
    gain = compare.gain_interval(means(better)[0], *means(base))
    assert gain.mean == pytest.approx(0.1)
    assert gain.low > 0.06
    assert gain.high < 0.14


def test_seeds_that_disagree_widen_the_interval():
    steady = np.tile(np.repeat([1.0, 0.0], [50, 50]), (4, 1))
    wild = np.stack([np.ones(100), np.zeros(100), np.ones(100), np.zeros(100)])
    a, b = compare.mean_interval(*means(steady)), compare.mean_interval(*means(wild))
    assert b.high - b.low > 2 * (a.high - a.low)


def test_any_figure_will_do():
    """A figure that is no mean over videos: the largest value drawn."""
    values = np.arange(10.0)
    interval = compare.mean_interval([lambda videos: float(values[videos].max())], 10)
    assert (interval.mean, interval.high) == (9, 9)
    assert 5 <= interval.low < 9
