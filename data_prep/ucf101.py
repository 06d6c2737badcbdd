"""UCF101: 13,320 videos, 101 classes, three official splits (ucfTrainTestlist); or some of its classes.

Get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from https://www.crcv.ucf.edu/data/UCF101.php and unpack
them side by side: `--root` is the folder with the videos in it. A root with a splits.csv of its own needs no lists.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.pipeline import official, prepare
from data_prep.pipeline.listing import Listing, table_of
from data_prep.pipeline.official import Named
from vidkd.errors import DataError

SPLITS = ("split1", "split2", "split3")
LICENCE = "none is stated at https://www.crcv.ucf.edu/data/UCF101.php; the videos were collected from YouTube"
PLACES = (".", "ucfTrainTestlist", "../ucfTrainTestlist", "annotations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    own = args.root / "splits.csv"
    if own.exists() and args.annotations is None:
        named, classes, files = own_list(own)
    else:
        named, classes, files = official_list(official.find_folder(args, PLACES, "trainlist01.txt", "the split files"))
    items, present, notes = official.match(args.root, named, classes, args.allow_missing)
    listing = Listing("ucf101", present, SPLITS, table_of(items, SPLITS), "keeps_labels", LICENCE, tuple(files), notes)
    return prepare.run(listing, args)


def official_list(folder: Path) -> tuple[list[Named], list[str], list[Path]]:
    """The videos in the order of their names, the classes in the official order, and the files that say so."""
    class_file = folder / "classInd.txt"
    classes = [line.partition(" ")[2].strip() for line in official.lines(class_file)]
    files, labels, parts = [class_file], {}, {}
    for column in range(len(SPLITS)):
        for part in ("train", "test"):
            path = folder / f"{part}list{column + 1:02d}.txt"
            files.append(path)
            for line in official.lines(path):
                label, _, name = line.split()[0].rpartition("/")
                if label not in classes:
                    raise DataError(f"{path}: {line!r} is of no class in {class_file}")
                stem = Path(name).stem
                labels[stem] = label
                parts.setdefault(stem, [""] * len(SPLITS))[column] = part
    named = [Named(stem, labels[stem], group_of(stem), tuple(parts[stem])) for stem in sorted(parts, key=_natural)]
    return named, classes, files


def own_list(path: Path) -> tuple[Iterator[Named], list[str], list[Path]]:
    rows = list(official.rows(path, ("clip", "label", *SPLITS)))
    named = (
        Named(Path(r["clip"]).stem, r["label"], group_of(Path(r["clip"]).stem), tuple(r[s] for s in SPLITS))
        for r in rows
    )
    return named, sorted({row["label"] for row in rows}), [path]


def group_of(stem: str) -> str:
    """v_Archery_g01_c03 is cut from the same source as v_Archery_g01_c04."""
    found = re.fullmatch(r"v_(.+_g\d+)_c\d+", stem)
    if found is None:
        raise DataError(f"{stem!r}: not the name of a UCF101 video, like v_Archery_g01_c03")
    return found[1]


def _natural(stem: str) -> tuple[str, str]:
    return stem.casefold(), stem
