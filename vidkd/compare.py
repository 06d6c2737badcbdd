"""Means with intervals over seeds and videos, and gains against a baseline on the same videos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from vidkd.errors import DataError

RESAMPLES = 4000
TEXT = ("video", "label", "prediction")  # read as text even where a class is called 001 or nan
AS_TEXT = pyarrow.csv.ConvertOptions(
    column_types=dict.fromkeys(TEXT, pa.string()), include_columns=TEXT, strings_can_be_null=False
)
Right = NDArray[np.float64]  # [seeds, videos], 1 where the prediction is right


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]"


def read_right(paths: list[Path]) -> tuple[list[str], Right]:
    """The predictions files of one row's seeds -> video names and what was right. DataError if their videos differ."""
    names: list[str] = []
    rows = []
    for path in paths:
        table = pyarrow.csv.read_csv(path, convert_options=AS_TEXT).to_pydict()
        if names and table["video"] != names:
            raise DataError(f"{path}: its videos are not those of {paths[0]}; they cannot be compared")
        names = table["video"]
        rows.append([a == b for a, b in zip(table["label"], table["prediction"], strict=True)])
    return names, np.array(rows, dtype=np.float64)


def mean_interval(right: Right, seed: int = 0) -> Interval:
    """Mean accuracy of [seeds, videos]; percentile bootstrap over seeds and over videos, both with replacement."""
    return _interval(right, _resampled(right, seed))


def gain_interval(right: Right, baseline: Right, seed: int = 0) -> Interval:
    """Mean accuracy less the baseline's: the same videos in every draw; seeds are drawn for each row on its own, since
    equal seeds of two methods share no more than two different ones. ValueError if the videos are not as many."""
    if right.shape[1] != baseline.shape[1]:
        raise ValueError(f"{right.shape[1]} videos against {baseline.shape[1]}: nothing pairs them")
    rng = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        videos = rng.integers(right.shape[1], size=right.shape[1])
        draws[i] = _draw(right, videos, rng) - _draw(baseline, videos, rng)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(right.mean() - baseline.mean()), float(low), float(high))


def _resampled(right: Right, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.array([_draw(right, rng.integers(right.shape[1], size=right.shape[1]), rng) for _ in range(RESAMPLES)])


def _draw(right: Right, videos: NDArray[np.int64], rng: np.random.Generator) -> float:
    seeds = rng.integers(right.shape[0], size=right.shape[0])
    return float(right[np.ix_(seeds, videos)].mean())


def _interval(right: Right, draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(right.mean()), float(low), float(high))
