"""What has been made so far, one JSON line a video in the prepared folder: a killed run goes on from there."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from data_prep.pipeline.database import Database
from vidkd.errors import DataError

Done = tuple[str, int]  # (identity, bytes) of a video that was made


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one video."""

    path: str
    identity: str  # the settings and the state of the source it was made from: another one means to make it again
    bytes: int = 0
    checksum: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    status: str = "ok"
    reason: str = ""
    settings: str = ""  # a short name of all options that change the bytes
    source_checksum: str = ""  # of the file it was made from
    at_ns: int = 0  # when, since 1970: what was written last counts, whichever journal it stands in


COLUMNS = tuple(field.name for field in fields(Entry))
NEEDED = {field.name for field in fields(Entry) if field.default is MISSING}
DEFAULTS = {field.name: field.default for field in fields(Entry) if field.default is not MISSING}
TYPES = {
    field.name: (int, float) if field.name == "fps" else type(DEFAULTS.get(field.name, "")) for field in fields(Entry)
}


def mend(path: Path) -> None:
    """Take away a last line that a kill has cut."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(_whole_bytes(file))


def _whole_bytes(file: BinaryIO) -> int:
    """The length of the file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - (1 << 16), 0)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def record(entry: Entry) -> bytes:
    """The line of the journal."""
    return json.dumps(asdict(entry)).encode() + b"\n"


def paths(out: Path) -> list[Path]:
    """The journals in the prepared folder: one, or one a shard."""
    return sorted(out.glob(".journal*.jsonl"))


def load(db: Database, out: Path, settings: str | None = None) -> None:
    """Make table `made` of the database: the last entry of every video over all journals, a column a field of Entry.

    With `settings`, only of the videos that were last made with these.
    """
    names = ", ".join(COLUMNS)
    for table in ("entries", "made"):
        db.run(f"DROP TABLE IF EXISTS {table}")
    db.run(f"CREATE TABLE entries ({names})")
    db.run(f"CREATE TABLE made ({names}, PRIMARY KEY (path)) WITHOUT ROWID")
    for path in paths(out):
        db.fill(f"INSERT INTO entries VALUES ({', '.join('?' * len(COLUMNS))})", _entries(path))
    # Sorted once, and written in that order: a million rows put in their places one by one are a million reads.
    turn = "ROW_NUMBER() OVER (PARTITION BY path ORDER BY at_ns DESC, rowid DESC) AS turn"
    last = f"SELECT {names} FROM (SELECT *, {turn} FROM entries) WHERE turn = 1"
    if settings is None:
        db.run(f"INSERT INTO made {last}")
    else:
        db.run(f"INSERT INTO made {last} AND settings IN (?, '')", short(settings))
    db.run("DROP TABLE entries")


def short(settings: str) -> str:
    """The name that entries have for settings."""
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def _entries(path: Path) -> Iterator[tuple[object, ...]]:
    """The entries of one journal, in its order."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # another shard is writing it, or was killed while it did
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            values = {**DEFAULTS, **said} if isinstance(said, dict) and said.keys() >= NEEDED else {}
            if not values or not all(isinstance(values[name], kind) for name, kind in TYPES.items()):
                raise DataError(
                    f"{path}: line {number} is no entry that this version writes: go on with the version that has "
                    "written it, or remove the file and run the same command again, which makes anew what it lists"
                )
            yield tuple(values[name] for name in COLUMNS)
