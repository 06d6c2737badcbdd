"""Official lists of labels and splits, and the videos on disk that they name."""

import argparse
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_prep.pipeline import prepare
from data_prep.pipeline.download import Download, download
from data_prep.pipeline.listing import Item, Listing, Rows
from data_prep.pipeline.scanning import Found
from vidkd.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Named:
    """A video that a list names, by the name of its file without folder and suffix."""

    stem: str
    label: str
    group: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lists:
    """What the lists of a data set say."""

    named: Iterable[Named]
    classes: Sequence[str]
    splits: tuple[str, ...]
    files: Sequence[Path]  # that say so
    notes: dict[str, object] = field(default_factory=dict)  # `named` may add to them
    all_classes: bool = False  # also those without a video: who has numbered them counts on the numbers


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from."""

    by_hand: str  # what a person has to fetch, from where, and which options name it
    licence: str  # as the source states it
    archives: tuple[tuple[str, Download], ...] = ()  # (option it stands for, what a program can fetch)
    horizontal_flip: Literal["keeps_labels", "changes_labels"] = "keeps_labels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of data sets with official lists."""
    prepare.add_arguments(parser)
    parser.add_argument(
        "--download", action="store_true", help="fetch the official archives into the folder --root first, if not there"
    )
    parser.add_argument(
        "--annotations", type=Path, help="the official lists: a folder or an archive (default: looked for)"
    )
    parser.add_argument("--allow-missing", action="store_true", help="go on if listed videos are not on disk")


def begin(args: argparse.Namespace, source: Source) -> None:
    """Fetch what is to be fetched; then --root and --annotations are folders. ConfigError where that cannot be."""
    if args.download:
        if not source.archives:
            raise ConfigError(f"--download: no program can fetch this data set. {source.by_hand}")
        folder = args.root
        for option, archive in source.archives:
            setattr(args, option, download(archive, folder))
    elif not args.root.exists():
        raise ConfigError(f"--root {args.root}: no such file or folder. {source.by_hand}")
    prepare.begin(args)


def run(args: argparse.Namespace, name: str, lists: Lists, source: Source, found: Found | None = None) -> int:
    """Prepare the videos that the lists name; the exit status of the command."""
    found = Found(args.root, source.by_hand) if found is None else found
    rows, notes = match(args.root, lists, args.allow_missing, found, source.by_hand)
    present = set(rows.labels())
    listing = Listing(
        name,
        tuple(label for label in lists.classes if lists.all_classes or label in present),
        rows,
        source.horizontal_flip,
        source.licence,
        tuple(lists.files),
        {**notes, **lists.notes},
    )
    return prepare.run(listing, args)


def match(root: Path, lists: Lists, allow_missing: bool, found: Found, by_hand: str) -> tuple[Rows, dict[str, object]]:
    """The items on disk in the order of the list, and notes on what is missing. DataError where that is not allowed,
    or all are."""
    missing, first, wanted = 0, "", 0

    def items() -> Iterator[Item]:
        nonlocal missing, first, wanted
        for video in lists.named:
            wanted += 1
            path = found.get(video.stem)
            if path is None:
                first = first if missing else video.stem
                missing += 1
            else:
                yield Item(f"{folder_of(video.label)}/{video.stem}.mp4", path, video.label, video.group, video.parts)

    rows = Rows(items(), lists.splits)
    if missing and (not allow_missing or missing == wanted):
        raise DataError(
            f"{root}: {missing} of the {wanted} videos that the lists name are not there, the first is {first!r}. "
            f"{by_hand}" + (". Or go on without them with --allow-missing" if missing < wanted else "")
        )
    notes: dict[str, object] = {"listed": wanted, "missing": missing, "unlisted": len(found) - len(rows)}
    if found.not_utf8:
        notes["not UTF-8"] = found.of_no_list()
    return rows, notes


def folder_of(label: str) -> str:
    """A folder for a class, whatever the class is called."""
    name = label.replace("/", "_").replace("\\", "_")
    return f"_{name}" if name.startswith((".", "-")) or not name else name


def lines(path: Path) -> Iterator[str]:
    """The lines of a list that are not blank; DataError if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from filter(None, map(str.strip, file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text in UTF-8") from None


def rows(path: Path, needed: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a table with a header; DataError if a column is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := [name for name in needed if name not in (reader.fieldnames or [])]:
                raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}")
            yield from reader
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table ({error})") from None


def find_folder(args: argparse.Namespace, candidates: Iterable[str], pattern: str, source: Source) -> Path:
    """The folder with the official lists: --annotations, or the first of the candidates below --root that has any.

    DataError, with what a person has to fetch, where none has.
    """
    if args.annotations is not None:
        first = min(args.annotations.rglob(pattern), default=None)
        if first is None:
            raise DataError(f"--annotations {args.annotations}: has no {pattern}. {source.by_hand}")
        return first.parent
    for name in candidates:
        folder = args.root / name
        if any(folder.glob(pattern)):
            return folder
    raise DataError(f"{args.root}: no {pattern} in it or beside it. {source.by_hand}")


def own_lists(path: Path, columns: dict[str, str], group_of: Callable[[str, str], str]) -> Lists:
    """The lists of a splits.csv: clip, label, and columns that say train, test or unused (by name: our split).

    `group_of` tells the group from the name of a video and its class.
    """
    table = list(rows(path, ("clip", "label", next(iter(columns)))))
    if not table:
        raise DataError(f"{path}: names no video")
    present = [name for name in columns if name in table[0]]
    named = []
    for row in table:
        stem = Path(row["clip"]).stem
        parts = tuple("" if row[name] == "unused" else row[name] for name in present)
        named.append(Named(stem, row["label"], group_of(stem, row["label"]), parts))
    splits = tuple(columns[name] for name in present)
    return Lists(named, sorted({row["label"] for row in table}), splits, [path])


def hmdb_lists(folder: Path) -> Lists:
    """The lists of files <class>_test_split<N>.txt, for each N from 1 to 3 that there is.

    A line is the name of a video and 1 for train, 2 for test, 0 for neither.
    """
    meaning = {"0": "", "1": "train", "2": "test"}
    numbers = [n for n in (1, 2, 3) if any(folder.glob(f"*_test_split{n}.txt"))]
    ending = f"_test_split{numbers[0]}.txt"
    classes = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    files, named = [], []
    for name in classes:
        parts: dict[str, list[str]] = {}
        for column, number in enumerate(numbers):
            path = folder / f"{name}_test_split{number}.txt"
            files.append(path)
            for line in lines(path):
                video, _, code = line.rpartition(" ")
                if code not in meaning or not video.strip():
                    raise DataError(f"{path}: {line!r} is not the name of a video and 0, 1 or 2")
                parts.setdefault(Path(video.strip()).stem, [""] * len(numbers))[column] = meaning[code]
        named += [Named(stem, name, hmdb_source(stem, name), tuple(parts[stem])) for stem in sorted(parts)]
    return Lists(named, classes, tuple(f"split{n}" for n in numbers), files)


def hmdb_source(stem: str, label: str) -> str:
    """The film or video that a clip of HMDB51 is cut from: its name up to the action."""
    source, found, _ = stem.rpartition(f"_{label}_")
    return source if found else stem
