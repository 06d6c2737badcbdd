"""Long rendered videos with several actions in each: the data set of the tests of detection.

The shapes of a motion clip (rendering.py) stand still, over a background that drifts on, but while an action
lasts: then they move as its class says. So a single frame tells neither the class nor whether anything happens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.pipeline import produce, rendering
from data_prep.pipeline.listing import Item, Rows
from data_prep.pipeline.rendering import FPS, PARTS, Settings
from vidkd import annotations
from vidkd.types import Segments

PAUSE_S = (0.4, 1.6)  # between two actions, and before the first one
ACTION_S = (0.8, 3.2)


@dataclass(frozen=True)
class Act:
    """One action: frames start to end - 1."""

    label: str
    start: int
    end: int


def plan(settings: Settings, classes: tuple[str, ...], source: str) -> list[Act]:
    """What happens in the video `source` ("train/7"), drawn from the seed and its name alone."""
    rng = np.random.default_rng([settings.seed, 1, *_address(source)])
    acts, at = [], 0
    while True:
        start = at + round(rng.uniform(*PAUSE_S) * FPS)
        end = start + round(np.exp(rng.uniform(*np.log(ACTION_S))) * FPS)
        label = classes[int(rng.integers(len(classes)))]
        if end > settings.frames:
            return acts
        acts.append(Act(label, start, end))
        at = end


def make(settings: Settings, classes: tuple[str, ...], item: Item, target: Path) -> produce.Facts:
    """Render the video and encode it into `target`."""
    scene = rendering.draw(np.random.default_rng([settings.seed, 2, *_address(item.source)]), settings)
    at = np.zeros((settings.frames, len(scene.shapes), 4), np.uint16)
    state = scene.start
    acts = plan(settings, classes, item.source)
    for t in range(settings.frames):
        act = next((a for a in acts if a.start <= t < a.end), None)
        if act is not None:
            state = rendering.moved(state, scene.speed, act.label, 1)
        at[t] = state
    return rendering.encode(rendering.paint(scene, at, np.arange(settings.frames), settings), settings, target)


def write_segments(out: Path, settings: Settings, classes: tuple[str, ...], videos: Rows) -> int:
    """segments.csv of the whole set, in seconds; how many actions it has."""
    rows = [
        (item.path.removesuffix(".mp4"), act.start / FPS, act.end / FPS, act.label)
        for item in videos.items()
        for act in plan(settings, classes, item.source)
    ]
    part_of = {item.path.removesuffix(".mp4"): item.source.split("/")[0] for item in videos.items()}
    annotations.write(out / "segments.csv", Segments.of(rows), part_of)
    return len(rows)


def _address(source: str) -> list[int]:
    part, i = source.split("/")
    return [PARTS.index(part), int(i)]
