"""Lists of videos as other toolkits use them: a path and a label on each line.

mmaction2's `path label`, SlowFast's and VideoMAE's `path label` or `path,label`: paths are relative to --root, the
label is a number (its name is a line of --classes, if given) or a name.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from data_prep.pipeline import official, prepare
from data_prep.pipeline.listing import Item, Listing, Rows
from vidkd.errors import ConfigError, DataError

MAX_CLASSES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    for part in ("train", "val", "test"):
        parser.add_argument(f"--{part}", type=Path, metavar="FILE", help=f"the list of part {part}")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="one class a line, in the order of the numbers")
    parser.add_argument("--name", help="of the data set (default: the name of the root)")
    parser.add_argument(
        "--flip-changes-labels", action="store_true", help="a mirrored video may be of another class: never flip"
    )


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    files = {part: getattr(args, part) for part in ("train", "val", "test") if getattr(args, part)}
    if not files:
        raise ConfigError("name at least one list: --train, --val or --test FILE")
    labels = {label for file in files.values() for _, label in _read(file)}
    if not labels:
        raise DataError(f"{', '.join(map(str, files.values()))}: no video is listed")
    names = list(official.lines(args.classes)) if args.classes else None
    classes, label_of = _classes(labels, names)
    listed = ((part, *each) for part, file in files.items() for each in _read(file))
    items = (_item(args.root, path, label_of[label], part) for part, path, label in listed)
    listing = Listing(
        name=args.name or args.root.absolute().name,
        classes=classes,
        rows=Rows(items, ("split1",)),
        horizontal_flip="changes_labels" if args.flip_changes_labels else "keeps_labels",
        licence="not stated",
        files=tuple(files.values()),
    )
    return prepare.run(listing, args)


def _read(file: Path) -> Iterator[tuple[str, str]]:
    """(path, label) of every line; the label is what follows the last comma or, where there is none, the last space."""
    first = next(official.lines(file), "")
    comma = "," in first and "/" not in first.rpartition(",")[2]
    for line in official.lines(file):
        path, _, label = line.rpartition(",") if comma else line.replace("\t", " ").rpartition(" ")
        path, label = path.strip().strip('"'), label.strip().strip('"')
        if not path or not label:
            raise DataError(f"{file}: {line!r} is not a path and a label")
        yield path, label


def _classes(different: set[str], names: list[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes in order, and the name of each label."""
    if all(label.isdecimal() for label in different):
        largest = max(different, key=lambda label: (len(label), label))
        if len(largest) > 9 or (last := max(map(int, different))) >= MAX_CLASSES:
            raise DataError(f"the label {largest[:20]}: there may be {MAX_CLASSES} classes, numbered from 0")
        names = names or [str(i) for i in range(last + 1)]
        if last >= len(names):
            raise DataError(f"the label {last} is beyond the {len(names)} classes")
        return tuple(names), {label: names[int(label)] for label in different}
    if names and (strange := sorted(different - set(names))):
        raise DataError(f"the label {strange[0]!r} is not one of the {len(names)} classes, nor a number")
    return tuple(names or sorted(different)), {label: label for label in different}


def _item(root: Path, listed: str, label: str, part: str) -> Item:
    if "\0" in listed:
        raise DataError(f"{listed!r} is not the path of a video")
    path = Path(listed)
    inside = path.is_relative_to(root.absolute()) if path.is_absolute() else ".." not in path.parts
    if not inside:
        raise DataError(f"{listed}: lies outside of --root {root}")
    if not path.name:
        raise DataError(f"{listed!r} is not the path of a video")
    relative = path.relative_to(root.absolute()) if path.is_absolute() else path
    return Item(str(relative.with_suffix(".mp4")), str(root.absolute() / relative), label, parts=(part,))
