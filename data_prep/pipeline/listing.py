"""What a data set module hands to the pipeline: which videos there are, and what is known of them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.pipeline.database import Database, blob, is_utf8, name_of, printable
from vidkd.errors import DataError

MOST_IN_A_FOLDER = 20_000  # videos; more are spread over folders in it
SPREAD = 256  # folders


@dataclass(frozen=True, slots=True)
class Item:
    """One video to be made."""

    path: str  # where it goes, relative to the prepared folder: "class/name.mp4"
    source: str  # the file it is made from, whatever it is called; for rendered data, what to render
    label: str
    group: str = ""
    parts: tuple[str, ...] = ()  # one of "train", "val", "test", "" for each split of the listing


class Rows:
    """The items of a listing in their order, on disk: any number of them takes the same memory.

    Table `items` of the database `db` has them: position from 0, path, source, label, grp and a part p0, p1, ... for
    each split. A path is made printable; a source is a blob, and SQL has printable(source) too. The videos of a folder
    that would hold more than MOST_IN_A_FOLDER get folders in it, by a hash of their names. DataError if two videos
    would be written to one path, or one is in a part that there is not.
    """

    def __init__(self, items: Iterable[Item], splits: Sequence[str]) -> None:
        self.splits = tuple(splits)
        self.parts = [f"p{k}" for k in range(len(self.splits))]  # columns: what a split is called may be anything
        names = ["path", "source", "label", "grp", *self.parts]
        self.columns = ", ".join(f"items.{name}" for name in names)  # what an item is made of
        texts = ", ".join(f"{name} TEXT" for name in names)
        self.db = Database(f"CREATE TABLE items (position INTEGER PRIMARY KEY, {texts})")
        self.db.function("casefold", str.casefold)
        self.db.function("printable", lambda source: printable(name_of(source)))
        self.db.function("folder_of", lambda path: path.rpartition("/")[0])
        rows = ((at, printable(i.path), blob(i.source), i.label, i.group, *i.parts) for at, i in enumerate(items))
        self.db.fill(f"INSERT INTO items VALUES ({', '.join('?' * (len(names) + 1))})", rows)
        self._count: int = self.db.one("SELECT COUNT(*) FROM items")
        large = "SELECT folder_of(path), COUNT(*) FROM items GROUP BY 1 HAVING COUNT(*) > ?"
        self._large: dict[str, int] = dict(self.db.rows(large, MOST_IN_A_FOLDER))
        if self._large:
            self.rename(self.placed)
        self._check_paths()
        self._check_parts()

    def __len__(self) -> int:
        return self._count

    def items(self) -> Iterator[Item]:
        return map(self.item, self.db.rows(f"SELECT {self.columns} FROM items ORDER BY position"))

    @staticmethod
    def item(values: Sequence[Any]) -> Item:
        """Of the values of `columns`."""
        path, source, label, group, *parts = values
        return Item(path, name_of(source), label, group, tuple(parts))

    def checksum(self) -> str:
        """Of the path, label, group and parts of every item, in their order."""
        said = hashlib.sha256(repr(self.splits).encode())
        for row in self.db.rows(f"SELECT path, label, {', '.join(['grp', *self.parts])} FROM items ORDER BY position"):
            said.update(repr(row).encode())
        return said.hexdigest()

    def labels(self) -> tuple[str, ...]:
        """Every label, once, in the order of names."""
        return tuple(label for (label,) in self.db.rows("SELECT DISTINCT label FROM items ORDER BY label"))

    def placed(self, path: str) -> str:
        """Where the video goes that was to go to `path`: the same, but from a folder that would hold too many."""
        folder, _, name = path.rpartition("/")
        many = self._large.get(folder, 0)
        digits = hashlib.sha256(name.rpartition(".")[0].encode()).hexdigest()  # one place for .mp4 and .raw
        while many > MOST_IN_A_FOLDER:
            folder, digits, many = f"{folder}/{digits[:2]}".lstrip("/"), digits[2:], many // (SPREAD // 2)
        return f"{folder}/{name}" if folder else name

    def rename(self, renamed: Callable[[str], str]) -> None:
        """Let every video go to renamed(its path)."""
        self.db.function("renamed", renamed)
        self.db.run("UPDATE items SET path = renamed(path)")

    def _check_paths(self) -> None:
        """Paths that differ in case alone are one file on some file systems."""
        second = self.db.one(
            "SELECT MAX(position) FROM items GROUP BY casefold(path) HAVING COUNT(*) > 1 ORDER BY 1 LIMIT 1"
        )
        if second is not None:
            path, source = next(self.db.rows("SELECT path, printable(source) FROM items WHERE position = ?", second))
            raise DataError(f"{source}: a second video for {path!r}; rename one of the two")
        self.db.run("CREATE TABLE folders (key TEXT PRIMARY KEY) WITHOUT ROWID")
        distinct = self.db.rows("SELECT DISTINCT folder_of(casefold(path)) FROM items")
        self.db.fill("INSERT OR IGNORE INTO folders VALUES (?)", ((above,) for (f,) in distinct for above in _above(f)))
        both = self.db.one("SELECT casefold(path) AS key FROM items WHERE key IN folders ORDER BY key LIMIT 1")
        if both is not None:
            raise DataError(f"{both!r} would be a video and a folder of others; rename one of the two")

    def _check_parts(self) -> None:
        for split, part in zip(self.splits, self.parts, strict=True):
            strange = self.db.one(f"SELECT {part} FROM items WHERE {part} NOT IN ('train', 'val', 'test', '') LIMIT 1")
            if strange is not None:
                raise DataError(f"{split}: a video is in part {strange!r}, which is none of: train, val, test")


def _above(folder: str) -> Iterator[str]:
    """The folder, and those it lies in."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


@dataclass(frozen=True)
class Listing:
    """A data set as it lies on disk, before anything is made of it."""

    name: str
    classes: tuple[str, ...]
    rows: Rows
    horizontal_flip: Literal["keeps_labels", "changes_labels"]
    licence: str  # as the source states it
    files: tuple[Path, ...] = ()  # the files that say labels and splits; their checksums go into provenance.json
    notes: dict[str, Any] = field(default_factory=dict)  # what a reader of provenance.json should know
    form: str = "video"  # how frames are kept: as H.264, or packed as "raw", "jpeg" or "flow"

    def __post_init__(self) -> None:
        for what, names in (("data set", (self.name,)), ("class", self.classes)):
            for name in names:
                if len(name.splitlines()) != 1 or name != name.strip() or "\0" in name or not is_utf8(name):
                    right = "a name must be one line of text, without spaces at its ends; rename it"
                    raise DataError(f"the {what} {name!r}: {right}")
        if len(set(self.classes)) < len(self.classes):
            twice = Counter(self.classes).most_common(1)[0][0]
            raise DataError(f"the class {twice!r} is named twice; rename one of the two")

    @property
    def splits(self) -> tuple[str, ...]:
        """The split columns: "split1", ..."""
        return self.rows.splits
