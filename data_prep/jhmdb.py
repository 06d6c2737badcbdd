"""J-HMDB: 928 short clips of HMDB51, 21 classes, tight around the action; official splits.

`--root` holds a folder for each class (JHMDB_video.zip from http://jhmdb.is.tue.mpg.de: ReCompress_Videos) and either a
splits.csv or the official split files <class>_test_split<N>.txt (splits.zip), in a folder `splits` or --annotations.
"""

import argparse

from data_prep.pipeline import official
from data_prep.pipeline.official import Source

COLUMNS = {
    "jhmdb_split1": "split1",
    "jhmdb_split2": "split2",
    "jhmdb_split3": "split3",
    "hmdb_split1": "split1_hmdb",
    "hmdb_split2": "split2_hmdb",
    "hmdb_split3": "split3_hmdb",
}
PLACES = ("splits", "../splits", ".", "annotations")
SOURCE = Source(
    by_hand="Get JHMDB_video.zip and splits.zip from http://jhmdb.is.tue.mpg.de, and name them with --root and "
    "--annotations",
    licence="unknown; see http://jhmdb.is.tue.mpg.de and https://serre.lab.brown.edu/hmdb51.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    official.begin(args, SOURCE)
    own = args.root / "splits.csv"
    if own.exists() and args.annotations is None:
        lists = official.own_lists(own, COLUMNS, official.hmdb_source)
    else:
        lists = official.hmdb_lists(official.find_folder(args, PLACES, "*_test_split1.txt", SOURCE))
    return official.run(args, "jhmdb", lists, SOURCE)
