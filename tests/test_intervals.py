"""Intervals over seeds and videos."""

import itertools
import statistics

import numpy as np
import pytest

from vidkd import intervals


def means(right):
    """The accuracy of each seed of [seeds, videos] as a figure, and how many videos there are."""
    return [lambda videos, own=own: float(own[videos].mean()) for own in right], right.shape[1]


def test_certainty_has_no_width():
    perfect, n = means(np.ones((3, 20)))
    interval = intervals.mean_interval(perfect, n)
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    same = intervals.gain_interval(perfect, means(np.zeros((2, 20)))[0], n)
    assert (same.mean, same.low, same.high) == (1, 1, 1)


def test_one_seed_gives_about_the_binomial_interval():
    interval = intervals.mean_interval(*means(np.repeat([1.0, 0.0], [300, 100])[None]))
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert interval.low == pytest.approx(0.75 - half, abs=0.01)
    assert interval.high == pytest.approx(0.75 + half, abs=0.01)


def test_pairing_by_video_narrows_a_gain():
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    base = np.where(hard, 0.0, 1.0)[None].repeat(3, axis=0)
    better = base.copy()
    better[:, np.flatnonzero(hard)[:40]] = 1
    gain = intervals.gain_interval(means(better)[0], *means(base))
    assert gain.mean == pytest.approx(0.1)
    assert gain.low > 0.06
    assert gain.high < 0.14


def test_seeds_that_disagree_widen_the_interval():
    steady = np.tile(np.repeat([1.0, 0.0], [50, 50]), (4, 1))
    wild = np.stack([np.ones(100), np.zeros(100), np.ones(100), np.zeros(100)])
    a, b = intervals.mean_interval(*means(steady)), intervals.mean_interval(*means(wild))
    assert b.high - b.low > 2 * (a.high - a.low)


def test_all_draws_at_once_are_those_one_by_one():
    rng = np.random.default_rng(1)
    after, before = (rng.random((3, 40)) < 0.7).astype(float), (rng.random((2, 40)) < 0.5).astype(float)
    slow = intervals.gain_interval(means(after)[0], *means(before))
    fast = intervals.mean_gain_interval(after, before)
    assert fast.mean == pytest.approx(slow.mean)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.02)


def test_the_share_of_the_teachers_lead_by_hand():
    """Baseline 0.2, row 0.5, teacher 0.8, on all of 100 videos: half of the lead is made up."""
    row, base = (np.repeat([1.0, 0.0], [n, 100 - n])[None] for n in (50, 20))
    teacher = means(np.repeat([1.0, 0.0], [80, 20])[None])[0][0]
    found = intervals.recovered_interval(means(row)[0], means(base)[0], teacher, 100)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert 0.3 < found.low < 0.5 < found.high < 0.7


def test_there_is_no_share_of_a_lead_that_may_be_chance():
    rng = np.random.default_rng(0)
    row, base, teacher = ((rng.random((1, 60)) < 0.5).astype(float) for _ in range(3))
    assert intervals.recovered_interval(means(row)[0], means(base)[0], means(teacher)[0][0], 60) is None


def test_any_figure_will_do():
    """A figure that is no mean over videos: the largest value drawn."""
    values = np.arange(10.0)
    interval = intervals.mean_interval([lambda videos: float(values[videos].max())], 10)
    assert (interval.mean, interval.high) == (9, 9)
    assert 5 <= interval.low < 9


def exactly(after, before):
    """Every draw of videos (the same for both) and of seeds (each row its own) there is, equally likely: the gains."""
    gains = []
    for videos in itertools.product(range(after.shape[1]), repeat=after.shape[1]):
        rows = [
            [statistics.fmean(right[seed][v] for seed in seeds for v in videos)
             for seeds in itertools.product(range(len(right)), repeat=len(right))]
            for right in (after.tolist(), before.tolist())
        ]  # fmt: skip
        gains += [a - b for a in rows[0] for b in rows[1]]
    return sorted(gains)


@pytest.mark.parametrize("which", ["one by one", "at once"])
def test_the_paired_bootstrap_against_all_draws_there_are(which):
    """4 videos, 2 seeds against 3: the 27,648 equally likely gains, against 4,000 drawn ones."""
    after = np.array([[1, 1, 0, 0.5], [1, 0, 1, 1]])
    before = np.array([[1, 0, 0, 0.5], [0.25, 1, 0, 0], [1, 0, 0, 0.75]])
    every = exactly(after, before)
    if which == "at once":
        found = intervals.mean_gain_interval(after, before)
    else:
        found = intervals.gain_interval(means(after)[0], *means(before))
    assert found.mean == pytest.approx(statistics.fmean(every))
    # 4,000 draws put 2.5 % between these shares of the exact distribution, but for one time in ten thousand
    slack = 4 * (0.025 * 0.975 / intervals.RESAMPLES) ** 0.5
    for value, share in ((found.low, 0.025), (found.high, 0.975)):
        below, above = (every[round(len(every) * s)] for s in (share - slack, share + slack))
        assert below - 1e-9 <= value <= above + 1e-9
