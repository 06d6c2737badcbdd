"""What has been made so far, one JSON line a video in the prepared folder: a killed run goes on from there."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from vidkd.data import index
from vidkd.data.index import pc

Done = tuple[str, int]  # (identity, bytes) of a video that was made
COLUMNS = ("bytes", "checksum", "frames", "fps", "width", "height", "status", "reason")
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("identity", pa.string()),
        *((name, index.SCHEMA[name]) for name in COLUMNS),
        ("settings", pa.string()),
        ("source_checksum", pa.string()),
        ("at_ns", pa.int64()),
    ]
)


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


def mend(path: Path) -> None:
    """Take away a last line that a kill has cut."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def record(entry: Entry) -> dict[str, object]:
    return asdict(entry)


def paths(out: Path) -> list[Path]:
    """The journals in the prepared folder: one, or one a shard."""
    return sorted(out.glob(".journal*.jsonl"))


def read(out: Path) -> pa.Table:
    """The last entry of every video, over all journals."""
    tables = [_read_one(path) for path in paths(out)]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    table = table.sort_by([("at_ns", "ascending"), ("row", "ascending")]).drop_columns("row")
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    last = table.group_by("path").aggregate([("row", "max")])["row_max"]
    return table.take(last.combine_chunks().sort()).drop_columns("row")


def made_with(out: Path, settings: str) -> pa.Table:
    """The last entry of every video that was last made with these settings."""
    table = read(out)
    return table.filter(pc.is_in(table["settings"], value_set=pa.array([short(settings), ""])))


def short(settings: str) -> str:
    """The name that entries have for settings."""
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def _read_one(path: Path) -> pa.Table:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # another shard may be writing the last line
    if not whole:
        return SCHEMA.empty_table()
    parse = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    read = pyarrow.json.ReadOptions(block_size=max(1 << 20, len(whole) // 64))
    table = pyarrow.json.read_json(pa.BufferReader(whole), read, parse).select(SCHEMA.names)
    for name, unknown in (("settings", ""), ("source_checksum", ""), ("at_ns", 0)):  # older journals lack them
        table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], unknown))
    return table


def done(out: Path) -> dict[str, Done]:
    """The videos that were made, by path."""
    table = read(out)
    table = table.filter(pc.equal(table["status"], "ok"))
    columns = (table[name].to_pylist() for name in ("path", "identity", "bytes"))
    return {path: (identity, size) for path, identity, size in zip(*columns, strict=True)}
