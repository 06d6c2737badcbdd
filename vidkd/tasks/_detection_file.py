"""Files of detections, whoever made them, scored against files of annotations: what `python -m vidkd.score` does."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from vidkd import annotations
from vidkd.errors import ConfigError, DataError
from vidkd.tasks._detection_figures import TIOU, Truth, figures, thresholds

ACTIVITYNET_TIOU = ("0.5:0.05:0.95",)
YOUTUBE = re.compile(r"[\w-]{11}")
ASKS_FOR = "annotations"  # the option of vidkd.score that says a file holds detections


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="score detections against it (.csv or .json)")
    parser.add_argument(
        "--tiou",
        action="append",
        metavar="START:STEP:STOP",
        help=f"thresholds; may come twice (default: {' and '.join(TIOU)}; of ActivityNet {ACTIVITYNET_TIOU[0]})",
    )
    parser.add_argument("--subset", help="of the annotations, where there are several")


def score_file(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the detections in `path` against options.annotations, whoever made them."""
    if getattr(options, "stream", None):
        raise ConfigError(
            "--stream joins the answers of recognition; those of detectors are joined before they are decoded: "
            "python -m vidkd.evaluate RGB_RUN --stream FLOW_RUN, and score what that leaves"
        )
    if options.annotations is None:
        raise ConfigError("detections are scored against annotations: say --annotations FILE")
    for each in options.tiou or ():
        thresholds(each)
    whole = annotations.read(options.annotations)
    said = whole.only(options.subset, options.annotations)
    tiou = options.tiou or usual_tiou(said)
    found = annotations.read_detections(path)
    if not len(said.actions):
        raise DataError(f"{options.annotations}: holds no action to be detected")
    if len(found) and not np.isin(found.video, list(said.subset)).any():
        raise DataError(f"{path}: {found.video[0]!r}, and none of its videos, is one of {options.annotations}")
    classes = tuple(sorted(set(whole.actions.label)))  # also those that the subset has no action of
    if foreign := sorted(set(found.label[np.isin(found.video, list(said.subset))]) - set(classes)):
        raise DataError(f"{path}: {foreign[0]!r} is no class of {options.annotations}")
    truth = Truth(said.actions, sorted(said.subset), classes)
    result = figures(truth, found, tiou, options.bootstrap)
    return result | {"annotations_checksum": said.checksum, "subset": options.subset or "all"}


def usual_tiou(said: annotations.Annotations) -> tuple[str, ...]:
    """The lists that such annotations are scored with: ActivityNet's, whose videos have YouTube's names and are in
    subsets, or THUMOS14's two."""
    of_youtube = all(YOUTUBE.fullmatch(video) for video in said.subset)
    return ACTIVITYNET_TIOU if of_youtube and "" not in said.subset.values() else TIOU


def class_line(row: dict[str, Any]) -> str:
    area = "  none" if row["ap"] is None else f"{row['ap']:6.1%}"
    return f"{area}  {row['n']:5}  {row['class']}"
