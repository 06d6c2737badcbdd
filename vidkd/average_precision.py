"""Figures of temporal detection: average precision over temporal IoU (tIoU), and recall over the number of proposals.

Defined as in the ActivityNet evaluation (Caba Heilbron et al., CVPR 2015, and its public toolkit): the detections of a
class are taken by falling score, of equal scores the later row first; each takes the action of its class and video with
the highest tIoU (of equal ones the later) among those that reach the threshold and are not taken yet. What finds none
is a false positive, so of two detections of one action the second is one. Average precision is the area under the
precision envelope.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidkd.types import Segments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matched:
    """What of the detections is right; everything that average precision over any choice of videos needs."""

    positives: Ints  # [K, N] actions of every class in every video
    video: list[Ints]  # K times [D]: the video of each detection of the class, by falling score
    hit: list[NDArray[np.bool_]]  # K times [T, D]: whether it is a true positive at each of T thresholds

    def average_precision(self, times: Ints | None = None) -> Floats:
        """[K, T]; nan for a class without actions. `times` [N]: how often each video counts (None: once)."""
        times = np.ones(self.positives.shape[1], np.int64) if times is None else times
        actions = self.positives @ times
        pairs = zip(self.hit, self.video, actions.tolist(), strict=True)
        return np.stack([_area(hit, times[video], n) for hit, video, n in pairs])

    def mean(self, drawn: Ints | None = None) -> float:
        """The mean over thresholds and over the classes that have actions; over the videos `drawn`, if given."""
        times = None if drawn is None else np.bincount(drawn, minlength=self.positives.shape[1])
        area = self.average_precision(times)
        seen = ~np.isnan(area[:, 0])
        return float(area[seen].mean()) if seen.any() else 0.0


def match(
    actions: Segments, found: Segments, videos: Sequence[str], classes: Sequence[str], tiou: Sequence[float]
) -> Matched:
    """Match scored detections with actions at every threshold. Rows of other videos or classes do not count."""
    assert found.score is not None
    true_video, true_class, kept = _coded(actions, videos, classes)
    begin, end = actions.start_s[kept], actions.end_s[kept]
    video, label, kept = _coded(found, videos, classes)
    order = np.argsort(found.score[kept], kind="stable")[::-1]
    video, label = video[order], label[order]
    start, stop = found.start_s[kept][order], found.end_s[kept][order]
    n = len(videos)
    hit = _greedy(true_class * n + true_video, begin, end, label * n + video, start, stop, np.asarray(tiou, np.float64))
    positives = np.bincount(true_class * n + true_video, minlength=len(classes) * n).reshape(len(classes), n)
    own = [np.flatnonzero(label == k) for k in range(len(classes))]
    return Matched(positives, [video[rows] for rows in own], [hit[:, rows] for rows in own])


def average_recall(
    actions: Segments, found: Segments, videos: Sequence[str], tiou: Sequence[float], proposals: Sequence[int]
) -> dict[int, float]:
    """AR@AN: of all actions, whatever their class, the share that some proposal reaches, averaged over thresholds.

    AN is the mean number of proposals over all videos: each video gives its best ones, the same share of those it has.
    """
    assert found.score is not None
    everything = ("",)
    true_video, _, kept = _coded(actions, videos, everything)
    begin, end = actions.start_s[kept], actions.end_s[kept]
    video, _, kept = _coded(found, videos, everything)
    order = np.argsort(found.score[kept], kind="stable")[::-1]
    order = order[np.argsort(video[order], kind="stable")]  # by video, and in it by falling score
    video, start, stop = video[order], found.start_s[kept][order], found.end_s[kept][order]
    first, last = (np.searchsorted(video, np.arange(len(videos)), side) for side in ("left", "right"))
    reached = {an: np.zeros(len(true_video)) for an in proposals}  # the best tIoU
    for v in np.unique(true_video):
        own = np.flatnonzero(true_video == v)
        mine = slice(first[v], last[v])
        overlap = temporal_iou(begin[own, None], end[own, None], start[None, mine], stop[None, mine])
        best = np.maximum.accumulate(np.concatenate([np.zeros((len(own), 1)), overlap], axis=1), axis=1)
        for an, share in ((an, an * len(videos) / max(len(video), 1)) for an in proposals):
            reached[an][own] = best[:, min(int((last[v] - first[v]) * share), last[v] - first[v])]
    thresholds = np.asarray(tiou)[:, None]
    return {an: float((best >= thresholds).mean()) if len(best) else 0.0 for an, best in reached.items()}


def temporal_iou(begin: Floats, end: Floats, start: Floats, stop: Floats) -> Floats:
    """Intersection over union of two segments of time, elementwise; 0 where both have no length."""
    both = np.clip(np.minimum(end, stop) - np.maximum(begin, start), 0, None)
    union = (end - begin) + (stop - start) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _coded(rows: Segments, videos: Sequence[str], classes: Sequence[str]) -> tuple[Ints, Ints, Ints]:
    """Positions in `videos` and `classes` of the rows that are in both, and which rows those are. The one class ""
    stands for any."""
    place = {name: i for i, name in enumerate(videos)}
    number = {name: k for k, name in enumerate(classes)}
    anything = tuple(classes) == ("",)
    video = np.array([place.get(name, -1) for name in rows.video.tolist()], np.int64)
    label = np.array([0 if anything else number.get(name, -1) for name in rows.label.tolist()], np.int64)
    kept = np.flatnonzero((video >= 0) & (label >= 0))
    return video[kept], label[kept], kept


def _greedy(
    true_group: Ints, begin: Floats, end: Floats, group: Ints, start: Floats, stop: Floats, tiou: Floats
) -> NDArray[np.bool_]:
    """[T, D]: which detections, given by falling score, are true positives. Only actions and detections of one group (a
    class in a video) meet. The i-th best detections of all groups are matched at once."""
    hit = np.zeros((len(tiou), len(group)), bool)
    groups, counts = np.unique(true_group, return_counts=True)
    if not len(groups):
        return hit
    column = np.arange(len(true_group)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_group = np.argsort(true_group, kind="stable")
    row = np.repeat(np.arange(len(groups)), counts)
    table = np.full((2, len(groups), counts.max()), np.nan)  # begin and end of each group's actions, in their order
    table[:, row, column] = begin[by_group], end[by_group]
    free = np.repeat(~np.isnan(table[None, 0]), len(tiou), axis=0)  # [T, groups, most]

    place = np.searchsorted(groups, group)
    meets = np.flatnonzero((place < len(groups)) & (groups[np.minimum(place, len(groups) - 1)] == group))
    by_group = meets[np.argsort(place[meets], kind="stable")]
    at = place[by_group]
    sizes = np.bincount(at, minlength=len(groups))
    rank = np.arange(len(at)) - (np.cumsum(sizes) - sizes)[at]
    by_rank = np.argsort(rank, kind="stable")
    for turn in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(rank) else []:
        rows, detections = at[turn], by_group[turn]
        overlap = temporal_iou(
            table[0, rows], table[1, rows], start[detections, None], stop[detections, None]
        )  # [n, most]
        open_to = free[:, rows] & (overlap >= tiou[:, None, None])
        latest = np.where(open_to, overlap, -1.0)[..., ::-1].argmax(axis=2)
        action = table.shape[2] - 1 - latest
        threshold, n = np.nonzero(open_to.any(axis=2))
        hit[threshold, detections[n]] = True
        free[threshold, rows[n], action[threshold, n]] = False
    return hit


def _area(hit: NDArray[np.bool_], times: Ints, actions: int) -> Floats:
    """[T, D] and how often each detection counts -> [T]: the area under the precision envelope; nan without actions."""
    if not actions:
        return np.full(len(hit), np.nan)
    if not len(times):
        return np.zeros(len(hit))
    right, all_so_far = (hit * times).cumsum(axis=1), times.cumsum()
    precision = right / np.maximum(all_so_far, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (np.diff(right, axis=1, prepend=0) * envelope).sum(axis=1) / actions
