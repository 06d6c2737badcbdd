"""Something-Something V2: 220,847 videos, 174 classes of what hands do with things; train, validation and test parts.

`--root` holds <number>.webm (the unpacked 20bn-something-something-v2 archives). --annotations holds the .json files:
labels, train, validation, as something-something-v2-train.json or train.json (default: looked for beside the root).
Mirrored videos change their labels (left to right). The test part has no labels, and is left out.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.pipeline import official
from data_prep.pipeline.official import Lists, Named, Source
from vidkd.errors import DataError

SPLITS = ("split1",)
PARTS = {"train": "train", "validation": "val"}
PLACES = (".", "labels", "../labels", "annotations", "../annotations", "..")
SOURCE = Source(
    by_hand="Get the archives and the labels from "
    "https://www.qualcomm.com/developer/software/something-something-v-2-dataset, where terms have to be accepted; "
    "join the archives (cat 20bn-something-something-v2-?? | tar xz) and name that folder with --root, and the "
    "folder of the labels with --annotations",
    licence="unknown; see https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    horizontal_flip="changes_labels",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    official.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    official.begin(args, SOURCE)
    folder = official.find_folder(args, PLACES, "*train.json", SOURCE)
    labels, *files = (_one(folder, name) for name in ("labels", *PARTS))
    classes = _classes(labels)
    named = (video for part, path in zip(PARTS.values(), files, strict=True) for video in _read(path, part, classes))
    return official.run(args, "ssv2", Lists(named, classes, SPLITS, [labels, *files]), SOURCE)


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"*{name}.json"))
    if len(found) != 1:
        raise DataError(f"{folder}: there should be one *{name}.json in it, and there are {len(found)}")
    return found[0]


def _classes(path: Path) -> list[str]:
    """The classes in the order of their numbers."""
    table = _json(path, dict)
    try:
        numbers = {name: int(number) for name, number in table.items()}
    except (TypeError, ValueError):
        raise DataError(f"{path}: should map each class to its number") from None
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"{path}: the numbers of its {len(numbers)} classes are not 0 to {len(numbers) - 1}")
    return sorted(numbers, key=numbers.__getitem__)


def _read(path: Path, part: str, classes: list[str]) -> Iterator[Named]:
    known = set(classes)
    for row in _json(path, list):
        if not isinstance(row, dict) or not {"id", "template"} <= row.keys():
            raise DataError(f"{path}: {str(row)[:80]!r} has no id and template")
        label = re.sub(r"[\[\]]", "", row["template"])  # "Pushing [something] ...": the class is called without them
        if label not in known:
            raise DataError(f"{path}: the video {row['id']!r} is of no class in the list of labels: {label!r}")
        yield Named(str(row["id"]), label, "", (part,))


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, kind):
        raise DataError(f"{path}: is not a JSON {'table' if kind is dict else 'list'}")
    return content
