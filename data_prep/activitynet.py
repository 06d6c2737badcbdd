"""ActivityNet 1.3: 200 classes in untrimmed videos; trained on `training`, tested on `validation`.

`--annotations` is activity_net.v1-3.min.json, or anet_anno_action.json with video_info_new.csv beside it. A few
thousand videos are no longer on YouTube: --allow-missing goes on with those that are below `--root`.
"""

import argparse
from pathlib import Path

from data_prep.pipeline import prepare, segments
from vidkd import annotations
from vidkd.errors import DataError

PARTS = {"training": "train", "validation": "test"}
EXPECTED = {"training": 9649, "validation": 4728}  # videos that are annotated; a few of the 14,950 never were
MOST = {"training": 10024, "validation": 4926}
BY_HAND = (
    "Get activity_net.v1-3.min.json from http://activity-net.org/download.html, which says how to get the videos, and "
    "name both with --annotations and --root"
)
LICENCE = "annotations MIT; the videos are on YouTube"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    segments.add_arguments(parser)
    parser.add_argument("--annotations", type=Path, required=True, help="the .json")


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    if not args.annotations.is_file():
        raise DataError(f"--annotations {args.annotations}: not a file. {BY_HAND}")
    said = annotations.read(args.annotations)
    for subset, fewest in EXPECTED.items():
        n = sum(own == subset for own in said.subset.values())
        if not fewest <= n <= MOST[subset]:
            raise DataError(f"{args.annotations}: {n} {subset} videos, where {fewest} to {MOST[subset]} belong")
    part_of = segments.parts(said, PARTS)
    files = (args.annotations,)
    return segments.run(args, "activitynet", said, part_of, files=files, licence=LICENCE, notes={}, by_hand=BY_HAND)
