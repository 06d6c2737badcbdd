"""The videos below a folder, however many lie in it, and the same by name."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.pipeline import archives
from data_prep.pipeline.database import Database, blob, is_utf8, name_of, printable
from vidkd.errors import DataError

SUFFIXES = {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".vob", ".ts", ".m2ts", ".mts", ".wmv"}
SUFFIXES |= {".asf", ".flv", ".ogv", ".ogg", ".3gp", ".3g2", ".divx"}
# In the order in which they are read: of each folder its videos, then its folders.
ENTRIES = """
CREATE TABLE entries (folder INTEGER, is_folder INTEGER, name BLOB, PRIMARY KEY (folder, is_folder, name)) WITHOUT ROWID
"""
ADVICE = "Put them there, or name their folder"
FILES = "CREATE TABLE files (at INTEGER PRIMARY KEY, stem BLOB, path BLOB, folded BLOB)"  # names need not be UTF-8


def videos_under(root: Path, others: Counter[str] | None = None) -> Iterator[Path]:
    """Every file below `root` with the suffix of a video, in the order of names; links to folders are followed.

    What is passed over is counted in `others`, by the reason. DataError for a folder that cannot be read.
    """
    yield from _Walk(Counter() if others is None else others).below(str(root), (os.path.realpath(root),))


class _Walk:
    """Names lie in a database, for there may be a million in one folder."""

    def __init__(self, others: Counter[str]) -> None:
        self.others, self.db, self.folders = others, Database(ENTRIES), 0

    def below(self, folder: str, above: tuple[str, ...]) -> Iterator[Path]:
        """`above`: this folder and those it lies in, links resolved: a link to one of them leads round for ever."""
        self.folders += 1
        here = self.folders
        self.db.fill("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", self._entries(folder, here))
        names = "SELECT name FROM entries WHERE folder = ? AND is_folder = ? ORDER BY name"
        for (name,) in self.db.rows(names, here, 0):
            yield Path(folder, os.fsdecode(name))
        for (name,) in self.db.rows(names, here, 1):
            path = os.path.join(folder, os.fsdecode(name))
            real = os.path.realpath(path)
            if real in above:
                self.others["a link to a folder above it"] += 1
            else:
                yield from self.below(path, (*above, real))

    def _entries(self, folder: str, here: int) -> Iterator[tuple[int, int, bytes]]:
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.name.startswith("."):
                        self.others["hidden"] += entry.name != archives.MARKER  # which we have put there
                    elif os.path.isdir(entry.path):  # False of a link to itself, where the entry would raise
                        yield here, 1, os.fsencode(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                        self.others["without the suffix of a video"] += 1
                    else:
                        yield here, 0, os.fsencode(entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


class Found:
    """The videos below a folder by name, without suffix, of each name the first.

    DataError if two of one name differ in size, and, with `advice` on where to get them, if there are none.
    """

    def __init__(self, root: Path, advice: str = ADVICE) -> None:
        self._db = Database(FILES)
        self.not_utf8, self.first = 0, ""  # names that no list can name: how many, and the first of them, printable
        rows = ((at, *self._row(path)) for at, path in enumerate(videos_under(root)))
        self._db.fill("INSERT INTO files VALUES (?, ?, ?, ?)", rows)
        self._db.run("CREATE INDEX by_stem ON files (stem, at)")
        self._db.run("CREATE INDEX by_folded ON files (folded, at)")
        twice = "SELECT stem FROM files GROUP BY stem HAVING COUNT(*) > 1"
        for (stem,) in self._db.rows(twice):
            paths = self._db.rows("SELECT path FROM files WHERE stem = ? ORDER BY at", stem)
            first, *others = (Path(name_of(path)) for (path,) in paths)
            for other in others:
                if first.stat().st_size != other.stat().st_size:
                    raise DataError(f"{first} and {other}: two different videos of one name; remove one of them")
        self._count: int = self._db.one("SELECT COUNT(DISTINCT stem) FROM files")
        if not self._count:
            raise DataError(f"{root}: no videos were found in it. {advice}")

    def _row(self, path: Path) -> tuple[bytes, bytes, bytes]:
        if not is_utf8(path.stem):
            self.first = self.first or printable(str(path))
            self.not_utf8 += 1
        return blob(path.stem), blob(str(path.absolute())), blob(path.stem.casefold())

    def __len__(self) -> int:
        return self._count

    def of_no_list(self) -> str:
        """A word on the videos whose names are not UTF-8."""
        return f"{self.not_utf8} of the unlisted, which no list can name; the first is {self.first}"

    def __contains__(self, stem: str) -> bool:
        return self._db.one("SELECT 1 FROM files WHERE stem = ?", blob(stem)) is not None

    def get(self, stem: str) -> str | None:
        """The absolute path of the video of this name, or of one that differs in capital letters only."""
        path = self._db.one("SELECT path FROM files WHERE stem = ? ORDER BY at LIMIT 1", blob(stem)) or self._db.one(
            "SELECT path FROM files WHERE folded = ? ORDER BY at DESC LIMIT 1", blob(stem.casefold())
        )
        return None if path is None else name_of(path)

    def items(self) -> Iterator[tuple[str, str]]:
        """(name, absolute path) of each, in the order they were found."""
        first = "SELECT MIN(at) FROM files GROUP BY stem"
        rows = self._db.rows(f"SELECT stem, path FROM files WHERE at IN ({first}) ORDER BY at")
        return ((name_of(stem), name_of(path)) for stem, path in rows)
