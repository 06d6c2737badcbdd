"""Average precision and recall of detections: by hand, and against a slow loop written from the definition."""

import time

import numpy as np
import pytest

from vidkd import average_precision as ap
from vidkd.types import Segments

TIOU = [0.3, 0.4, 0.5, 0.6, 0.7]


def slow(actions, found, videos, classes, tiou):
    """[K, T], one detection after the other; plain lists."""
    table = np.full((len(classes), len(tiou)), np.nan)
    for k, name in enumerate(classes):
        true = [r for r in zip(actions.video, actions.start_s, actions.end_s, actions.label, strict=True)
                if r[3] == name and r[0] in videos]  # fmt: skip
        mine = [i for i in range(len(found)) if found.label[i] == name and found.video[i] in videos]
        mine.sort(key=lambda i: (found.score[i], i), reverse=True)
        for t, threshold in enumerate(tiou):
            if not true:
                continue
            taken, hits, precisions = set(), 0, []
            for n, i in enumerate(mine, 1):
                candidates = []
                for j, (video, begin, end, _) in enumerate(true):
                    if video != found.video[i]:
                        continue
                    both = max(0.0, min(end, found.end_s[i]) - max(begin, found.start_s[i]))
                    union = (end - begin) + (found.end_s[i] - found.start_s[i]) - both
                    candidates.append((both / union if union > 0 else 0.0, j))
                free = [c for c in sorted(candidates, reverse=True) if c[0] >= threshold and c[1] not in taken]
                if free:
                    taken.add(free[0][1])
                    hits += 1
                    precisions.append((n, hits / n))
            table[k, t] = sum(max(p for m, p in precisions if m >= n) for n, _ in precisions) / len(true)
    return table


def random_set(rng, videos=12, classes=3, actions=40, found=300):
    """Actions and detections with many ties, duplicates, segments without length and strangers."""

    def rows(count, scored):
        start = rng.integers(0, 20, count).astype(float)
        columns = [
            rng.choice([f"v{i}" for i in range(videos)], count),
            start, start + rng.integers(0, 8, count),
            rng.choice([f"c{k}" for k in range(classes)], count),
        ]  # fmt: skip
        return Segments.of(zip(*columns, *([rng.integers(0, 6, count) / 5] if scored else []), strict=True), scored)

    return rows(actions, False), rows(found, True), [f"v{i}" for i in range(videos - 2)], [f"c{k}" for k in range(4)]


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_the_slow_loop(seed):
    actions, found, videos, classes = random_set(np.random.default_rng(seed))
    expected = slow(actions, found, videos, classes, TIOU)
    got = ap.match(actions, found, videos, classes, TIOU).average_precision()
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert np.isnan(got[3]).all()  # c3 has no action


@pytest.mark.parametrize("seed", range(5))
def test_a_video_drawn_twice_counts_as_two_videos(seed):
    rng = np.random.default_rng(seed)
    actions, found, videos, classes = random_set(rng)
    matched = ap.match(actions, found, videos, classes, TIOU)
    drawn = rng.integers(len(videos), size=len(videos))

    def copied(rows):
        tuples = list(zip(rows.video, rows.start_s, rows.end_s, rows.label, strict=True))
        if rows.score is not None:
            tuples = [(*t, s) for t, s in zip(tuples, rows.score, strict=True)]
        # interleaved, so that ties keep their order within and between copies
        chosen = [(f"{n}_{t[0]}", *t[1:]) for t in tuples for n, i in enumerate(drawn) if videos[i] == t[0]]
        return Segments.of(chosen, rows.score is not None)

    names = [f"{n}_{videos[i]}" for n, i in enumerate(drawn)]
    expected = ap.match(copied(actions), copied(found), names, classes, TIOU).average_precision()
    times = np.bincount(drawn, minlength=len(videos))
    np.testing.assert_allclose(matched.average_precision(times), expected, atol=1e-12)
    assert matched.mean(drawn) == pytest.approx(np.nanmean(expected))


def toy(*rows):
    return Segments.of([("v", a, b, "c", s) for a, b, s in rows], scored=True)


TWO = Segments.of([("v", 0, 10, "c"), ("v", 20, 30, "c")])


@pytest.mark.parametrize(("tiou", "expected"), [(0.5, 5 / 6), (0.9, 0.5)])
def test_the_toy_of_the_specification(tiou, expected):
    found = toy((0, 10, 0.9), (40, 50, 0.8), (21, 31, 0.7))
    assert ap.match(TWO, found, ["v"], ["c"], [tiou]).mean() == pytest.approx(expected)


def test_the_truth_as_detections_is_perfect():
    actions, _, videos, classes = random_set(np.random.default_rng(3))
    actions = actions.where(actions.end_s > actions.start_s)
    truth = Segments(actions.video, actions.start_s, actions.end_s, actions.label, np.ones(len(actions)))
    assert ap.match(actions, truth, videos, classes, [0.1, 0.5, 0.95]).mean() == 1


def test_a_second_detection_of_an_action_is_wrong():
    matched = ap.match(TWO, toy((0, 10, 0.9), (0, 10, 0.8), (20, 30, 0.7)), ["v"], ["c"], [0.5])
    assert matched.hit[0].tolist() == [[True, False, True]]


def test_of_equal_scores_the_later_row_comes_first():
    matched = ap.match(TWO, toy((0, 10, 0.5), (0, 9, 0.5)), ["v"], ["c"], [0.5, 0.95])
    assert matched.hit[0].tolist() == [[True, False], [False, True]]


def test_no_detections_and_no_actions():
    nothing = Segments.of([], scored=True)
    assert ap.match(TWO, nothing, ["v"], ["c"], [0.5]).mean() == 0
    assert ap.match(Segments.of([]), toy((0, 1, 1)), ["v"], ["c"], [0.5]).mean() == 0


def test_average_recall_by_hand():
    """Two videos with two actions each; u has 4 proposals, w has 2: 3 on average."""
    actions = Segments.of([("u", 0, 10, "a"), ("u", 20, 30, "b"), ("w", 0, 10, "a"), ("w", 50, 60, "a")])
    found = Segments.of(
        [("u", 0, 10, "b", 0.9), ("u", 100, 110, "a", 0.8), ("u", 20, 29, "a", 0.7), ("u", 0, 9, "a", 0.6),
         ("w", 70, 80, "a", 0.5), ("w", 50, 60, "b", 0.4)], scored=True)  # fmt: skip
    # AN 1.5 is half of them: u gives 2, w gives 1. AN 3 is all.
    got = ap.average_recall(actions, found, ["u", "w"], [0.5, 0.95], [1, 2, 3, 100])
    assert got[1] == pytest.approx(1 / 4)  # a third of 4 and of 2: 1 and 0
    assert got[2] == pytest.approx(1 / 4)  # two thirds: 2 and 1
    assert got[3] == got[100] == pytest.approx((3 / 4 + 2 / 4) / 2)  # (20, 29) reaches 0.9, not 0.95


def test_a_set_as_large_as_thumos14_takes_seconds():
    """212 videos, 3,358 actions, 200 detections a video, two lists of thresholds and 200 resamples."""
    rng = np.random.default_rng(0)
    videos, classes = [f"v{i}" for i in range(212)], [f"c{k}" for k in range(20)]
    of = rng.integers(212, size=3358)
    start = rng.uniform(0, 600, 3358)
    actions = Segments.of(
        (videos[v], s, s + d, classes[v % 20]) for v, s, d in zip(of, start, rng.exponential(4, 3358), strict=True)
    )
    rows = rng.integers(3358, size=212 * 200)
    noise = rng.normal(0, 1, (2, len(rows)))
    begin = actions.start_s[rows] + noise[0]
    found = Segments(
        actions.video[rows], begin, np.maximum(actions.end_s[rows] + noise[1], begin), actions.label[rows],
        rng.random(len(rows)),
    )  # fmt: skip
    began = time.process_time()
    for tiou in (TIOU, [0.1, 0.2, 0.3, 0.4, 0.5]):
        matched = ap.match(actions, found, videos, classes, tiou)
        assert 0.05 < matched.mean() < 0.95
    for _ in range(200):
        matched.mean(rng.integers(212, size=212))
    assert time.process_time() - began < 10
