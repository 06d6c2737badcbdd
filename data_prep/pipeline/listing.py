"""What a data set module hands to the pipeline: which videos there are, and what is known of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from vidkd.errors import DataError

BATCH = 4096  # rows that are Python objects at one time; the rest stays in columns


@dataclass(frozen=True, slots=True)
class Item:
    """One video to be made."""

    path: str  # where it goes, relative to the prepared folder: "class/name.mp4"
    source: str  # the file it is made from; for rendered data, what to render
    label: str
    group: str = ""
    parts: tuple[str, ...] = ()  # one of "train", "val", "test", "" for each split of the listing


@dataclass(frozen=True)
class Listing:
    """A data set as it lies on disk, before anything is made of it."""

    name: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]  # the split columns: "split1", ...
    table: pa.Table  # path, source, label, group and the split columns
    horizontal_flip: Literal["keeps_labels", "changes_labels"]
    licence: str  # as the source states it
    files: tuple[Path, ...] = ()  # the files that say labels and splits; their checksums go into provenance.json
    notes: dict[str, Any] = field(default_factory=dict)  # what a reader of provenance.json should know
    form: str = "video"  # how frames are kept: as H.264, or packed as "raw", "jpeg" or "flow"

    def __post_init__(self) -> None:
        for what, names in (("data set", (self.name,)), ("class", self.classes)):
            for name in names:
                if len(name.splitlines()) != 1 or name != name.strip():
                    right = "a name must be one line, without spaces at its ends; rename it"
                    raise DataError(f"the {what} {name!r}: {right}")
        if len(set(self.classes)) < len(self.classes):
            twice = Counter(self.classes).most_common(1)[0][0]
            raise DataError(f"the class {twice!r} is named twice; rename one of the two")

    def items(self) -> Iterator[Item]:
        for batch in self.table.to_batches(max_chunksize=BATCH):
            for row in batch.to_pylist():
                parts = tuple(row[name] for name in self.splits)
                yield Item(row["path"], row["source"], row["label"], row["group"], parts)


def table_of(items: Iterable[Item], splits: Sequence[str]) -> pa.Table:
    """The columns of a listing; DataError if two videos would be written to one path."""
    names = ["path", "source", "label", "group", *splits]
    schema = pa.schema([(name, pa.string()) for name in names])
    batches, seen, folders, rest = [], set(), set(), iter(items)
    while chunk := list(islice(rest, BATCH)):
        for item in chunk:
            key = item.path.casefold()  # one file on a file system that ignores case
            if key in seen:
                raise DataError(f"{item.source}: a second video for {item.path!r}; rename one of the two")
            seen.add(key)
            folders.add(key.rpartition("/")[0])
        rows = [(i.path, i.source, i.label, i.group, *i.parts) for i in chunk]
        batches.append(pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*rows, strict=True)], names))
    above = {folder[:at] for folder in folders for at in range(len(folder) + 1) if folder[at : at + 1] in ("/", "")}
    if both := sorted(above & seen):
        raise DataError(f"{both[0]!r} would be a video and a folder of others; rename one of the two")
    return pa.Table.from_batches(batches, schema)
