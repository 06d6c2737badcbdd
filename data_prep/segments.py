"""Any videos with annotated segments: `--segments` is a .csv or .json of them, in one of these forms.

    video,start_s,end_s,label              seconds (also: start, end, type, clip)
    video,start_frame,end_frame,label      frames, from 1, both counted; seconds by each video's own rate
    ActivityNet's, ActionFormer's or OpenTAD's .json

A column whose name starts with `split`, or the subset in a .json, says the part of each video; where nothing does, a
part of the videos is drawn at random to test on.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_prep.pipeline import holdout, official, prepare, segments
from vidkd import annotations
from vidkd.annotations import Annotations
from vidkd.errors import ConfigError, DataError, one_of
from vidkd.types import Segments

PARTS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test", "testing": "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    segments.add_arguments(parser)
    parser.add_argument("--segments", type=Path, required=True, metavar="FILE", help="who does what when")
    parser.add_argument("--name", help="of the data set (default: the name of the root)")
    parser.add_argument("--split-column", metavar="NAME", help="of a .csv (default: split1, where there is one)")
    parser.add_argument("--test-fraction", type=float, default=0.25, metavar="F", help="where nothing says the parts")
    parser.add_argument("--split-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--flip-changes-labels", action="store_true", help="mirrored actions may be of another class")


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    if not 0 < args.test_fraction < 1:
        raise ConfigError("--test-fraction must be above 0 and below 1")
    said, in_frames = read(args.segments, args.split_column)
    part_of = segments.parts(said, PARTS)
    for video, part in said.subset.items():
        if (part or part_of) and part not in PARTS:
            raise DataError(f"{args.segments}: {video!r} is in part {part!r}, which is none of: {', '.join(PARTS)}")
    if not part_of:
        videos = sorted(said.subset)
        test = set(holdout.choose((("", video) for video in videos), args.test_fraction, args.split_seed))
        part_of = {video: "test" if video in test else "train" for video in videos}
    return segments.run(
        args,
        args.name or args.root.absolute().name,
        said,
        part_of,
        files=(args.segments,),
        licence="not stated",
        notes={"split": "drawn at random" if not any(said.subset.values()) else "from the file"},
        flip_changes_labels=args.flip_changes_labels,
        clock=seconds_of if in_frames else lambda own, _fps: own,
    )


def read(path: Path, split_column: str | None) -> tuple[Annotations, bool]:
    """The segments with the part of each video as its subset, and whether they are still in frames. ConfigError where
    there is no column of the name given."""
    if path.suffix == ".json":
        return annotations.read(path), False
    rows = list(official.rows(path, ()))
    header = rows[0].keys() if rows else ()
    in_frames = "start_frame" in header
    if not in_frames:
        said = annotations.read(path)
    else:
        name = next((n for n in annotations.NAMES["video"] if n in header), "video")
        list(official.rows(path, (name, "end_frame", "label")))
        found = [_frames(path, number, row, name) for number, row in enumerate(rows, 2)]
        own = Segments.of(found)
        said = Annotations(own, Segments.of([]), dict.fromkeys(own.video.tolist(), ""), "")
    if split_column is not None and split_column not in header:
        raise ConfigError(f"--split-column: {path}: {one_of(split_column, list(header), 'column')}")
    if (column := split_column or "split1") in header:
        name = next(n for n in annotations.NAMES["video"] if n in header)
        named: dict[str, str] = {}
        for number, row in enumerate(rows, 2):
            video, part = annotations.bare(row[name]), (row[column] or "").lower()
            if (first := named.setdefault(video, part)) != part:
                raise DataError(f"{path}: line {number}: {video!r} is in part {part!r} here, and in {first!r} before")
        said.subset.update(named)
    return said, in_frames


def seconds_of(own: Segments, fps: Mapping[str, float]) -> Segments:
    """Frames, from 1 and both counted, as the time from when the first is shown until the last is over."""
    rate = np.array([fps.get(video, 1.0) or 1.0 for video in own.video])
    return Segments(own.video, (own.start_s - 1) / rate, own.end_s / rate, own.label)


def _frames(path: Path, number: int, row: Mapping[str, str], name: str) -> tuple[str, float, float, str]:
    try:
        start, end = int(row["start_frame"]), int(row["end_frame"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: line {number}: {error}") from None
    if not 1 <= start <= end or not row["label"] or not row[name]:
        raise DataError(
            f"{path}: line {number}: frames {start} to {end} are no segment, or the video or label is empty"
        )
    return annotations.bare(row[name]), start, end, row["label"]
