"""Means with intervals over seeds and videos, and gains against a baseline on the same videos.

A row of a table is one `Figure` a seed: it maps positions of videos, drawn with replacement, to its value over them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
Figure = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]"


def mean_interval(figures: Sequence[Figure], videos: int, seed: int = 0) -> Interval:
    """The mean over seeds, each over all `videos`; percentile bootstrap over seeds and videos, with replacement."""
    rng = np.random.default_rng(seed)
    draws = [_draw(figures, rng.integers(videos, size=videos), rng) for _ in range(RESAMPLES)]
    return _interval(mean(figures, videos), draws)


def gain_interval(figures: Sequence[Figure], baseline: Sequence[Figure], videos: int, seed: int = 0) -> Interval:
    """The mean less the baseline's: the same videos in every draw; seeds are drawn for each row on its own, since
    equal seeds of two methods share no more than two different ones."""
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(videos, size=videos)
        draws.append(_draw(figures, drawn, rng) - _draw(baseline, drawn, rng))
    return _interval(mean(figures, videos) - mean(baseline, videos), draws)


def mean_gain_interval(after: NDArray[np.float64], before: NDArray[np.float64], seed: int = 0) -> Interval:
    """`gain_interval` of means over videos, [seeds, videos] of the same videos: the same draws, all at once."""
    rng = np.random.default_rng(seed)
    videos = after.shape[1]
    drawn = rng.multinomial(videos, np.full(videos, 1 / videos), size=RESAMPLES) / videos

    def of_seeds(right: NDArray[np.float64]) -> NDArray[np.float64]:
        n = len(right)
        return ((drawn @ right.T) * rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n).sum(axis=1)

    return _interval(float(after.mean() - before.mean()), of_seeds(after) - of_seeds(before))


def recovered_interval(
    figures: Sequence[Figure], baseline: Sequence[Figure], teacher: Figure, videos: int, seed: int = 0
) -> Interval | None:
    """The gain over the baseline as a share of what the teacher has over it, drawn as `gain_interval` draws.

    None where the teacher's lead itself may be chance (its interval holds zero): a share of nothing says nothing.
    """
    rng = np.random.default_rng(seed)
    gains, leads = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(videos, size=videos)
        base = _draw(baseline, drawn, rng)
        gains[i], leads[i] = _draw(figures, drawn, rng) - base, teacher(drawn) - base
    if np.quantile(leads, 0.025) <= 0:
        return None
    base, whole = mean(baseline, videos), np.arange(videos)
    shares = gains[leads > 0] / leads[leads > 0]
    return _interval((mean(figures, videos) - base) / (teacher(whole) - base), shares)


def mean(figures: Sequence[Figure], videos: int) -> float:
    """The mean over seeds of the figure over all videos."""
    return float(np.mean([figure(np.arange(videos)) for figure in figures]))


def _draw(figures: Sequence[Figure], videos: NDArray[np.int64], rng: np.random.Generator) -> float:
    times = np.bincount(rng.integers(len(figures), size=len(figures)), minlength=len(figures))
    return sum(int(n) * figure(videos) for n, figure in zip(times, figures, strict=True) if n) / len(figures)


def _interval(value: float, draws: Sequence[float] | NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))
