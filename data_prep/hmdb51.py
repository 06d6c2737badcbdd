"""HMDB51: 6,766 videos, 51 classes, three official splits (70 videos a class to train, 30 to test).

Get hmdb51_org.rar and test_train_splits.rar from https://serre.lab.brown.edu/hmdb51.html: `--root` is the first, or the
folder that holds the folders of the classes, `--annotations` the second, or the folder that holds
<class>_test_split<N>.txt.
"""

import argparse

from data_prep.pipeline import official
from data_prep.pipeline.official import Source

PLACES = (".", "testTrainMulti_7030_splits", "../testTrainMulti_7030_splits", "splits", "../splits", "annotations")
SOURCE = Source(
    by_hand="Get hmdb51_org.rar and test_train_splits.rar from https://serre.lab.brown.edu/hmdb51.html, and name them "
    "with --root and --annotations",
    licence="unknown; see https://serre.lab.brown.edu/hmdb51.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    official.begin(args, SOURCE)
    folder = official.find_folder(args, PLACES, "*_test_split1.txt", SOURCE)
    return official.run(args, "hmdb51", official.hmdb_lists(folder), SOURCE)
