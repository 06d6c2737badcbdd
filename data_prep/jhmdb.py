"""J-HMDB: 928 short clips of HMDB51, 21 classes, tight around the action; official splits.

`--root` holds a folder for each class (JHMDB_video.zip from http://jhmdb.is.tue.mpg.de: ReCompress_Videos) and either a
splits.csv or the official split files <class>_test_split<N>.txt (splits.zip), in a folder `splits` or --annotations.
"""

import argparse
from pathlib import Path

from data_prep.pipeline import official, prepare
from data_prep.pipeline.listing import Listing, table_of
from data_prep.pipeline.official import Named

COLUMNS = {
    "jhmdb_split1": "split1",
    "jhmdb_split2": "split2",
    "jhmdb_split3": "split3",
    "hmdb_split1": "split1_hmdb",
    "hmdb_split2": "split2_hmdb",
    "hmdb_split3": "split3_hmdb",
}
PLACES = ("splits", "../splits", ".", "annotations")
LICENCE = "the clips are from HMDB51 (Creative Commons Attribution 4.0, as its page states)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    own = args.root / "splits.csv"
    if own.exists() and args.annotations is None:
        named, splits, files = own_list(own)
    else:
        named, splits, files = _official_list(official.find_folder(args, PLACES, "*_test_split1.txt", "splits.zip"))
    classes = sorted({video.label for video in named})
    items, present, notes = official.match(args.root, named, classes, args.allow_missing)
    listing = Listing("jhmdb", present, splits, table_of(items, splits), "keeps_labels", LICENCE, tuple(files), notes)
    return prepare.run(listing, args)


def own_list(path: Path) -> tuple[list[Named], tuple[str, ...], list[Path]]:
    rows = list(official.rows(path, ("clip", "label", "jhmdb_split1")))
    columns = [name for name in COLUMNS if name in rows[0]]
    named = []
    for row in rows:
        stem = Path(row["clip"]).stem
        group = official.hmdb_source(stem, row["label"])
        parts = tuple("" if row[name] == "unused" else row[name] for name in columns)
        named.append(Named(stem, row["label"], group, parts))
    return named, tuple(COLUMNS[name] for name in columns), [path]


def _official_list(folder: Path) -> tuple[list[Named], tuple[str, ...], list[Path]]:
    numbers = tuple(n for n in (1, 2, 3) if any(folder.glob(f"*_test_split{n}.txt")))
    table, files = official.hmdb_splits(folder, numbers)
    named = [
        Named(stem, label, official.hmdb_source(stem, label), parts)
        for label, videos in table.items()
        for stem, parts in sorted(videos.items())
    ]
    return named, tuple(f"split{n}" for n in numbers), files
