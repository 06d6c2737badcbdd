"""Every figure of temporal detection, from annotations and detections alone: what a run says, and what anybody's
predictions file is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidkd import average_precision as ap
from vidkd.errors import ConfigError
from vidkd.types import Segments

TIOU = ("0.3:0.1:0.7", "0.1:0.1:0.5")  # THUMOS14's usual list, and the one of the generative distillation paper's code
MOST_THRESHOLDS = 100  # of one list
PROPOSALS = (1, 5, 10, 50, 100)  # AR@AN
RECALL_TIOU = "0.5:0.05:0.95"  # over which AR is averaged, as ActivityNet does
SEED = 0  # of the bootstrap


def thresholds(text: str) -> list[float]:
    """ "0.3:0.1:0.7" (start, step, stop, both ends included) or "0.5". ConfigError if it is neither."""
    try:
        parts = [float(part) for part in text.split(":")]
        start, step, stop = parts if len(parts) == 3 else (parts[0], 1.0, parts[0])
        steps = round((stop - start) / step)
        found = [round(start + i * step, 6) for i in range(steps + 1)] if steps < MOST_THRESHOLDS else []
    except (ValueError, ZeroDivisionError, OverflowError):
        found = []
    if not found or len(text.split(":")) not in (1, 3) or not all(0 < t <= 1 for t in found) or found != sorted(found):
        raise ConfigError(
            f"tIoU {text!r}: must be START:STEP:STOP or one number, all above 0 and up to 1, {MOST_THRESHOLDS} at most"
        )
    if abs(found[-1] - stop) > 1e-6:
        raise ConfigError(f"tIoU {text!r}: steps of {step:g} from {start:g} on do not come to {stop:g}")
    return found


@dataclass(frozen=True, slots=True)
class Truth:
    """What detections are measured against."""

    actions: Segments
    videos: list[str]  # those that count; detections in others are left out, and counted
    classes: tuple[str, ...]


def matched(truth: Truth, found: Segments, tiou: str) -> ap.Matched:
    return ap.match(truth.actions, found, truth.videos, truth.classes, thresholds(tiou))


def figures(truth: Truth, found: Segments, tiou: Sequence[str], resamples: int) -> dict[str, Any]:
    """`map`, the mean over classes and over the first list of thresholds, with its interval by bootstrap over videos;
    map_<list> for every list, AP at each threshold and of each class, and recall over the number of proposals."""
    matches = {said: matched(truth, found, said) for said in tiou}
    first = matches[tiou[0]]
    areas = {said: one.average_precision() for said, one in matches.items()}
    actions = first.positives.sum(axis=1)
    known = np.isin(found.video, truth.videos)
    result: dict[str, Any] = {"map": first.mean()}
    if resamples:
        rng, n = np.random.default_rng(SEED), len(truth.videos)
        draws = [first.mean(rng.integers(n, size=n)) for _ in range(resamples)]
        result["map_interval"] = [float(q) for q in np.quantile(draws, [0.025, 0.975])]
    result |= {f"map_{said}": one.mean() for said, one in matches.items()}
    for said, area in areas.items():
        means = area[actions > 0].mean(axis=0) if (actions > 0).any() else np.zeros(area.shape[1])
        result |= {f"map_{t:g}": float(m) for t, m in zip(thresholds(said), means, strict=True)}
    recall = ap.average_recall(truth.actions, found, truth.videos, thresholds(RECALL_TIOU), PROPOSALS)
    result |= {f"ar_{an}": value for an, value in recall.items()}
    result |= {
        "n_videos": len(truth.videos),
        "n_actions": int(actions.sum()),
        "n_detections": int(known.sum()),
        "n_detections_elsewhere": int((~known).sum()),
        "tiou": tiou[0],
    }
    per_class = zip(truth.classes, actions.tolist(), areas[tiou[0]].mean(axis=1).tolist(), strict=True)
    rows = [{"class": name, "n": n, "ap": area if n else None} for name, n, area in per_class]
    return result | {"per_class": rows}
