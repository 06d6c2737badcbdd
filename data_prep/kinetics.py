"""Kinetics-400, -600 and -700: csv files with label, youtube_id, time_start, time_end and split.

`--root` holds the clips, <id>_<start>_<end>.mp4 (six digits each) or <id>.mp4, in folders of any depth. --annotations
holds train.csv, val.csv (or validate.csv) and test.csv (default: looked for in the root). Clips vanish from YouTube:
no two copies are alike, so --allow-missing says how many are missing and goes on, and results should name that number.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from data_prep.pipeline import official
from data_prep.pipeline.official import Lists, Named, Source
from data_prep.pipeline.scanning import Found
from vidkd.errors import DataError

SPLITS = ("split1",)
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
PLACES = (".", "annotations", "../annotations")
PARTS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
SOURCE = Source(
    by_hand="Get the csv files from https://github.com/cvdfoundation/kinetics-dataset, which says how to get the "
    "videos, and name both with --annotations and --root; the videos are <id>_<start>_<end>.mp4, with six digits "
    "each, or <id>.mp4, in folders of any depth",
    licence="unknown; see https://github.com/cvdfoundation/kinetics-dataset; the videos belong to their uploaders",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    official.add_arguments(parser)
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="one class a line, in the order of their numbers (default: by name)",
    )
    parser.add_argument("--name", default="kinetics", help="kinetics400, ... (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    official.begin(args, SOURCE)
    folder = official.find_folder(args, PLACES, "*train*.csv", SOURCE)
    files = [path for path in sorted(folder.glob("*.csv")) if part_of(path)]
    labels = {video.label for file in files for video in read(file)}
    names = list(official.lines(args.classes)) if args.classes else sorted(labels)
    if strange := sorted(labels.difference(names)):
        raise DataError(f"--classes {args.classes}: does not name {strange[0]!r}, a class in {folder}")
    found, notes = Found(args.root, SOURCE.by_hand), {}
    named = (video for file in files for video in read(file, found, notes))
    lists = Lists(named, names, SPLITS, files, notes, all_classes=args.classes is not None)
    return official.run(args, args.name, lists, SOURCE, found)


def part_of(path: Path) -> str:
    """The part a csv file lists, by its name: kinetics_train.csv, val.csv; nothing for other files."""
    words = path.stem.lower().replace("-", "_").split("_")
    return next((PARTS[word] for word in words if word in PARTS), "")


def read(path: Path, found: Found | None = None, notes: dict[str, object] | None = None) -> Iterator[Named]:
    """The labelled videos of one csv file, each under the name it has among the files found.

    How many have no label, as in the test parts of some releases, is counted in `notes`.
    """
    unlabelled = 0
    part = part_of(path)
    for row in official.rows(path, ("youtube_id", "time_start", "time_end")):
        if not row.get("label"):
            unlabelled += 1
            continue
        try:
            start, end = (int(float(row[name])) for name in COLUMNS[2:])
        except ValueError:
            raise DataError(f"{path}: {row['youtube_id']!r} has no times in seconds") from None
        long = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        stem = row["youtube_id"] if found is not None and long not in found and row["youtube_id"] in found else long
        yield Named(stem, row["label"], row["youtube_id"], (part,))
    if unlabelled and notes is not None:
        notes[f"{path.name}: without labels, left out"] = unlabelled
