"""The rows of a prepared data set's index on disk: read and checked batch by batch, and written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from vidkd.errors import DataError, one_of

pc: Any = pyarrow.compute  # its functions are made at import time, where no type checker sees them

SCHEMA = {
    "path": pa.string(),  # relative to the folder, "/" between parts
    "bytes": pa.int64(),
    "checksum": pa.string(),  # "sha256:<hex>" of the file
    "frames": pa.int32(),  # decoded, not taken from the header
    "fps": pa.float64(),
    "width": pa.int32(),  # px
    "height": pa.int32(),
    "label": pa.string(),  # a line of classes.txt; empty where a video as a whole has none
    "group": pa.string(),  # videos cut from one source share it; held-out parts keep groups whole
    "status": pa.string(),  # "ok", "truncated", "unreadable", "refused"
    "reason": pa.string(),  # why not ok
}
STATUSES = ("ok", "truncated", "unreadable", "refused")
PARTS = ("train", "val", "test", "")  # what a column whose name starts with `split` may hold
MEASURED = ("bytes", "frames", "fps", "width", "height")  # more than 0 of every video that is ok
LEFT = ("checksum", "group")  # on disk: no training asks for them, and they are nearly half of an index
OUTSIDE = r"(^|/)\.{0,2}(/|$)|\x00"  # paths that lead elsewhere, or that are a second way to write another one
BATCH = 4096  # rows, at most


def path_of(root: Path) -> Path:
    """The file that has the rows."""
    csv = root / "index.csv"
    return csv if csv.exists() else root / "index.parquet"


def batches(root: Path, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """These columns of the index, or all, in the order of its rows; the first batch may be empty. DataError for a file
    that is none."""
    path = path_of(root)
    if not path.exists():
        raise DataError(f"{root}: holds neither index.csv nor index.parquet; prepare it with python -m data_prep")
    try:
        for batch in (_parquet if path.suffix == ".parquet" else _csv)(path, names):
            own = _typed(batch if names is None else batch.select(names))
            yield from (own.slice(at, BATCH) for at in range(0, max(own.num_rows, 1), BATCH))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _parquet(path: Path, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with pyarrow.parquet.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names)
        yield pa.RecordBatch.from_pylist([], file.schema_arrow)
        yield from file.iter_batches(columns=None if names is None else list(names))


def _csv(path: Path, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with pyarrow.csv.open_csv(path) as file:
        there = file.schema.names
    _check_columns(path, there)
    # Every column is read as what the schema says: a group "007" stays a string.
    types = {name: SCHEMA.get(name, pa.string()) for name in there}
    options = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False, include_columns=names)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(path, convert_options=options, parse_options=parse) as file:
        yield pa.RecordBatch.from_pylist([], file.schema)
        yield from file


def _typed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same as SCHEMA says, whatever a Parquet file keeps it as: codes of texts, no text, other numbers."""
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = SCHEMA.get(name, pa.string() if name.startswith("split") else column.type)
        own = column if column.type == kind else pc.cast(column, kind)
        columns.append(pc.fill_null(own, "") if kind == pa.string() else own)
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _check_columns(path: Path, there: list[str]) -> None:
    if missing := [name for name in SCHEMA if name not in there]:
        raise DataError(f"{path}: lacks the column(s) {', '.join(missing)}")
    if twice := sorted({name for name in there if there.count(name) > 1}):
        raise DataError(f"{path}: has the column {twice[0]!r} more than once; leave one of them")


def read(root: Path, classes: tuple[str, ...]) -> pa.Table:
    """All rows, checked, without the columns LEFT; DataError says what is wrong with them."""
    checks, kept = _Checks(root, classes), []
    for batch in batches(root):
        checks.see(batch)
        kept.append(batch.select([name for name in batch.schema.names if name not in LEFT]))
    checks.end()
    pa.default_memory_pool().release_unused()  # what the columns LEFT took: else it is kept for whoever comes next
    return pa.Table.from_batches(kept)


@dataclass
class _Checks:
    """What is wrong with an index, found in one pass over its rows."""

    root: Path
    classes: tuple[str, ...]
    count: int = 0
    foreign: set[str | None] = field(default_factory=set)
    outside: str | None = None  # the first path that leads elsewhere
    strange: tuple[str, str, str] | None = None  # the first part of another name: split, path, part
    unknown: tuple[str, str] | None = None  # the first status of another name: path, status
    names: list[np.ndarray] = field(default_factory=list)  # their hashes
    impossible: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # column -> (how many, the first)

    def see(self, batch: pa.RecordBatch) -> None:
        self.count += batch.num_rows
        self.foreign |= set(pc.unique(batch["label"]).to_pylist()) - {*self.classes, ""}
        if self.outside is None:
            found = batch.filter(pc.match_substring_regex(batch["path"], OUTSIDE))
            self.outside = found["path"][0].as_py() if found.num_rows else None
        for split in (name for name in batch.schema.names if name.startswith("split") and self.strange is None):
            found = batch.filter(pc.invert(pc.is_in(batch[split], pa.array(PARTS))))
            self.strange = (split, found["path"][0].as_py(), found[split][0].as_py()) if found.num_rows else None
        if self.unknown is None:
            found = batch.filter(pc.invert(pc.is_in(batch["status"], pa.array(STATUSES))))
            self.unknown = (found["path"][0].as_py(), found["status"][0].as_py()) if found.num_rows else None
        self.names.append(hashes(_names(batch["path"])))
        ok = pc.equal(batch["status"], "ok")
        for name in MEASURED:
            positive = pc.and_(pc.greater(batch[name], 0), pc.is_finite(pc.cast(batch[name], pa.float64())))
            bad = batch.filter(pc.and_(ok, pc.invert(pc.fill_null(positive, False))))
            if bad.num_rows:
                count, first = self.impossible.get(name, (0, bad.slice(0, 1).to_pylist()[0]))
                self.impossible[name] = count + bad.num_rows, first

    def end(self) -> None:
        if not self.count:
            raise DataError(f"{self.root}: the index has no rows; prepare the data set again")
        if self.foreign:
            name = one_of(sorted(map(str, self.foreign))[0], list(self.classes)[:50], "class")
            raise DataError(f"{self.root}: {len(self.foreign)} label(s) are not in classes.txt: {name}")
        if self.outside is not None:
            right = "paths must be relative to the folder, lie in it, and have no empty part, `.` or `..`"
            raise DataError(f"{self.root}: the index names {self.outside!r}; {right}")
        if self.strange is not None:  # nobody would ask for it by that name, and the video would be in no part
            split, path, part = self.strange
            right = "parts are train, val and test, or nothing where a video is in none"
            raise DataError(f"{self.root}: the column {split!r} puts {path!r} in part {part!r}; {right}")
        if self.unknown is not None:  # it would count as failed, and nothing of it be checked
            path, status = self.unknown
            raise DataError(
                f"{self.root}: the status of {path!r} is {status!r}; it should be one of: {', '.join(STATUSES)}"
            )
        # Different hashes are different names; only of equal ones the names must be looked at.
        if np.unique(np.concatenate(self.names)).size != self.count and self._different_names() != self.count:
            raise DataError(f"{self.root}: the index names some video twice (names are paths without their suffix)")
        for name in MEASURED:
            if name in self.impossible:
                count, first = self.impossible[name]
                raise DataError(
                    f"{self.root}: {count} video(s) cannot be ok: the first is {first['path']!r}, whose {name} is "
                    f"{first[name]}; prepare the data set again"
                )

    def _different_names(self) -> int:
        return pc.count_distinct(pa.chunked_array([_names(b["path"]) for b in batches(self.root, ["path"])])).as_py()


def hashes(texts: pa.Array) -> np.ndarray:
    """Of each text 64 bits, to tell texts apart without a table of them: two of a million have the same ones by chance
    in less than one of ten million runs."""
    return np.fromiter(map(hash, texts.drop_null().to_pylist()), np.int64)


def _names(paths: pa.Array) -> pa.Array:
    """Paths without their suffix."""
    return pc.replace_substring_regex(paths, r"\.[^./]*$", "")


def write_csv(rows: pa.Table | pa.RecordBatchReader, path: Path) -> None:
    """Write a table; of a reader, one batch at a time is in memory."""
    reader = rows.to_reader() if isinstance(rows, pa.Table) else rows
    with pyarrow.csv.CSVWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
