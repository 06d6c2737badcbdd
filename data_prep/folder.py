"""Videos in one folder a class: `<root>/<class>/<video>`, or with the parts given, `<root>/train/<class>/<video>`.

Where there are no folders train, val and test, a part of every class is drawn at random to test on.
Links to folders are followed; hidden files and other kinds are passed over, and counted.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.pipeline import holdout, official, prepare, scanning
from data_prep.pipeline.database import printable
from data_prep.pipeline.listing import Item, Listing, Rows
from vidkd.errors import ConfigError, DataError

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    parser.add_argument("--name", help="of the data set (default: the name of the root)")
    parser.add_argument(
        "--test-fraction", type=float, default=0.2, metavar="F", help="to test on (default: %(default)s)"
    )
    parser.add_argument("--split-seed", type=int, default=0, metavar="SEED", help="another one draws another test part")
    parser.add_argument(
        "--flip-changes-labels", action="store_true", help="a mirrored video may be of another class: never flip"
    )


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    if not 0 <= args.test_fraction < 1:
        raise ConfigError("--test-fraction must be 0 or more and below 1")
    if not args.root.is_dir():
        raise ConfigError(f"--root {args.root}: not a folder")
    others: Counter[str] = Counter()
    drawn = not _has_parts(args.root)
    rows = Rows(_items(args.root, "", "train", others) if drawn else _with_parts(args.root, others), ("split1",))
    if not len(rows):
        raise DataError(f"{args.root}: no videos in folders of classes, <root>/<class>/<video>, were found")
    if drawn and args.test_fraction:
        holdout.move(rows, rows.parts[0], "test", args.test_fraction, args.split_seed)
    listing = Listing(
        name=args.name or args.root.absolute().name,
        classes=rows.labels(),
        rows=rows,
        horizontal_flip="changes_labels" if args.flip_changes_labels else "keeps_labels",
        licence="not stated",
        notes=_notes(args.root, rows.labels(), others),
    )
    return prepare.run(listing, args)


def _has_parts(root: Path) -> bool:
    return (root / "train").is_dir()


def _with_parts(root: Path, others: Counter[str]) -> Iterator[Item]:
    folders = _folders(root)
    if strange := [path.name for path in folders if path.name not in PARTS]:
        raise DataError(f"{root}: beside train/ there may be val/ and test/ only, not {strange[0]!r}")
    for path in root.iterdir():
        if path not in folders:
            others["beside the parts"] += 1
    for path in folders:
        yield from _items(path, path.name + "/", PARTS[path.name], others)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _items(root: Path, prefix: str, part: str, others: Counter[str]) -> Iterator[Item]:
    for path in scanning.videos_under(root, others):
        label, *rest = path.relative_to(root).parts
        if not rest:
            raise DataError(f"{path}: lies in no folder of a class; move it into one, or out of {root}")
        target = "/".join([official.folder_of(label), *rest[:-1], f"{path.stem}.mp4"])
        yield Item(prefix + target, str(path.absolute()), printable(label), parts=(part,))


def _notes(root: Path, labels: Sequence[str], others: Counter[str]) -> dict[str, object]:
    """Where the parts come from, and what was passed over."""
    roots = _folders(root) if _has_parts(root) else [root]
    empty = sorted({printable(path.name) for each in roots for path in _folders(each)}.difference(labels))
    notes: dict[str, object] = {"split": "from folders" if _has_parts(root) else "drawn at random"}
    if others.total():
        notes["left out"] = ", ".join(f"{n} {why}" for why, n in sorted(others.items()) if n)
    if empty:
        notes["no videos"] = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    return notes
