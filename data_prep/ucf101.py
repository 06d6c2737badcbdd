"""UCF101: 13,320 videos, 101 classes, three official splits (ucfTrainTestlist); or some of its classes.

`--download` fetches both archives into --root (7 GB). Or get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip
from https://www.crcv.ucf.edu/data/UCF101.php: `--root` is the folder with the videos, or the archive. A root with a
splits.csv of its own needs no lists.
"""

import argparse
import re
from pathlib import Path

from data_prep.pipeline import official
from data_prep.pipeline.download import Download
from data_prep.pipeline.official import Lists, Named, Source
from vidkd.errors import DataError

SPLITS = ("split1", "split2", "split3")
PLACES = (".", "ucfTrainTestlist", "../ucfTrainTestlist", "annotations")
VIDEOS = Download(  # a mirror of the same files, in a .zip; size and checksum as tensorflow-datasets has them
    "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
    6_960_400_115,
    "sha256:dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
)
LISTS = Download(
    "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
    113_943,
    "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
)
SOURCE = Source(
    by_hand="Get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from "
    "https://www.crcv.ucf.edu/data/UCF101.php, and name them with --root and --annotations, or let --download fetch "
    "both",
    licence="unknown; see https://www.crcv.ucf.edu/data/UCF101.php",
    archives=(("root", VIDEOS), ("annotations", LISTS)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    official.begin(args, SOURCE)
    own = args.root / "splits.csv"
    if own.exists() and args.annotations is None:
        lists = official.own_lists(own, {name: name for name in SPLITS}, lambda stem, _: group_of(stem))
    else:
        lists = official_lists(official.find_folder(args, PLACES, "trainlist01.txt", SOURCE))
    return official.run(args, "ucf101", lists, SOURCE)


def official_lists(folder: Path) -> Lists:
    """The videos in the order of their names, the classes in the official order."""
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
    return Lists(named, classes, SPLITS, files)


def group_of(stem: str) -> str:
    """v_Archery_g01_c03 is cut from the same source as v_Archery_g01_c04."""
    found = re.fullmatch(r"v_(.+_g\d+)_c\d+", stem)
    if found is None:
        raise DataError(f"{stem!r}: not the name of a UCF101 video, like v_Archery_g01_c03")
    return found[1]


def _natural(stem: str) -> tuple[str, str]:
    return stem.casefold(), stem
