"""HMDB51: 6,766 videos, 51 classes, three official splits (70 videos a class to train, 30 to test).

Get hmdb51_org.rar and test_train_splits.rar from
https://serre.lab.brown.edu/hmdb51.html and unpack both, and the archive of each class in the first: `--root` is the
folder that holds the folders of the classes, `--annotations` the one that holds <class>_test_split<N>.txt.
"""

import argparse

from data_prep.pipeline import official, prepare
from data_prep.pipeline.listing import Listing, table_of
from data_prep.pipeline.official import Named

SPLITS = ("split1", "split2", "split3")
LICENCE = "Creative Commons Attribution 4.0, as its page states; the clips come from films and public databases"
PLACES = (".", "testTrainMulti_7030_splits", "../testTrainMulti_7030_splits", "splits", "../splits", "annotations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    folder = official.find_folder(args, PLACES, "*_test_split1.txt", "the split files")
    table, files = official.hmdb_splits(folder, (1, 2, 3))
    named = [
        Named(stem, label, official.hmdb_source(stem, label), parts)
        for label, videos in table.items()
        for stem, parts in sorted(videos.items())
    ]
    items, present, notes = official.match(args.root, named, table, args.allow_missing)
    listing = Listing("hmdb51", present, SPLITS, table_of(items, SPLITS), "keeps_labels", LICENCE, tuple(files), notes)
    return prepare.run(listing, args)
