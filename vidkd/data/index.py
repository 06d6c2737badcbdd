"""A prepared data set on disk: a folder that holds

    index.csv (or index.parquet)   one row a video, the columns below
    classes.txt                    one class a line; the line's number is the label
    dataset.json                   {"name", "horizontal_flip": "keeps_labels" | "changes_labels", ...}, and of optical
                                   flow or of features (features.py) "modality": "flow" or "features"
    provenance.json, sources.csv   how it was made, and of which files (written by data_prep, read by people)

`path` is relative to the folder: an H.264 .mp4, or its frames packed (packed.py) as .raw, .jpeg or .flow; features
are .npy. A column whose name starts with `split` holds "train", "val", "test" or nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from vidkd.data import index_rows
from vidkd.data.index_rows import SCHEMA as SCHEMA
from vidkd.data.index_rows import pc, write_csv
from vidkd.errors import DataError, one_of
from vidkd.section import Modality

if TYPE_CHECKING:  # data_prep reads and writes indexes, in many processes, without torch
    from torch import Tensor

    from vidkd.types import Shown


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: one video."""

    name: str  # the path in the index, without the suffix: unique
    path: Path  # absolute
    label: int
    frames: int
    fps: float
    width: int
    height: int
    bytes: int
    start: int | None = None  # the first frame of the one span that this row stands for; None: the whole video


Truth = Callable[["Shown"], dict[str, "Tensor"]]


class Part:
    """The videos of one part of one split, addressed 0..N-1 in the order of the index.

    `truth` is what a task has to say of a clip beside its label. After `spread`, a row is one span of a video. `rows`
    are those of the table, ascending, None: all of them: what several parts share is in memory once.
    """

    def __init__(
        self,
        root: Path,
        table: pa.Table,
        labels: pa.Array,
        truth: Truth | None = None,
        starts: list[int] | None = None,
        modality: Modality = "rgb",
        rows: pa.Array | None = None,
    ) -> None:
        self.root, self._shared, self.labels = root, table, labels
        self.truth, self.starts, self._rows = truth, starts, rows
        self.modality: Modality = modality

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Clip:
        at = i if self._rows is None else self._rows[i].as_py()
        row = {name: self._shared[name][at].as_py() for name in ("path", "frames", "fps", "width", "height", "bytes")}
        path = row.pop("path")
        start = None if self.starts is None else self.starts[i]
        name = str(Path(path).with_suffix(""))
        return Clip(name=name, path=self.root / path, label=self.labels[i].as_py(), **row, start=start)

    @property
    def table(self) -> pa.Table:
        """Its own rows; a copy, unless it has all."""
        return self._shared if self._rows is None else self._shared.take(self._rows)

    def spread(self, starts: list[list[int]]) -> "Part":
        """One row a span: video i once for each of starts[i], side by side."""
        again = pa.array([i for i, own in enumerate(starts) for _ in own], pa.int64())
        flat = [start for own in starts for start in own]
        rows = again if self._rows is None else self._rows.take(again)
        return Part(self.root, self._shared, self.labels.take(again), self.truth, flat, self.modality, rows)

    def names(self) -> list[str]:
        return [str(Path(path).with_suffix("")) for path in self._values("path")]

    def check_files(self) -> None:
        """DataError that names the first videos whose files are not there, or not as long as the index says."""
        wrong = []
        expected_bytes = dict(zip(self._values("path"), self._values("bytes"), strict=True))
        for path, expected in expected_bytes.items():
            try:
                size = (self.root / path).stat().st_size
            except OSError as error:
                wrong.append(f"{path}: {error.strerror}")
                continue
            if size != expected:
                wrong.append(f"{path}: {size} bytes where the index says {expected}")
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise DataError(
                f"{self.root}: {len(wrong)} video(s) are not what was prepared: {'; '.join(wrong[:3])}{more}. "
                "Bring them back, or prepare the data set again"
            )

    def column(self, name: str) -> list[Any]:
        return list(self._values(name))

    def _values(self, name: str) -> Iterator[Any]:
        """Of one column, in turn."""
        rows, at = None if self._rows is None else self._rows.to_numpy(), 0
        for chunk in self._shared[name].chunks:  # taken from all of them at once, the column would be there twice
            if rows is None:
                yield from chunk.to_pylist()
                continue
            first, last = np.searchsorted(rows, (at, at + len(chunk)))
            yield from chunk.take(pa.array(rows[first:last] - at)).to_pylist()
            at += len(chunk)


@dataclass(frozen=True)
class Index:
    """A prepared data set."""

    root: Path
    facts: pa.Table  # a row a video, without the columns index_rows.LEFT
    classes: tuple[str, ...]
    card: dict[str, Any]  # dataset.json

    def __len__(self) -> int:
        return self.facts.num_rows

    def batches(self, *names: str) -> Iterator[pa.RecordBatch]:
        """These columns, or all, read from disk: up to index_rows.BATCH videos at a time."""
        return index_rows.batches(self.root, names or None)

    @property
    def table(self) -> pa.Table:
        """All columns, read from disk."""
        return pa.Table.from_batches(self.batches())

    @property
    def name(self) -> str:
        return self.card["name"]

    @property
    def flip_changes_labels(self) -> bool:
        return self.card["horizontal_flip"] == "changes_labels"

    @property
    def modality(self) -> Modality:
        """What its frames hold: colours, optical flow (x and y in 0..255, 128 where nothing moves), or features."""
        return self.card.get("modality", "rgb")

    @cached_property
    def splits(self) -> list[str]:
        return [name for name in self.facts.column_names if name.startswith("split")]

    def checksum(self) -> str:
        """sha256 of the index and the classes: equal for equal videos, labels and splits."""
        digest = hashlib.sha256()
        for path in (index_rows.path_of(self.root), self.root / "classes.txt"):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def part(self, split: str, part: str) -> Part:
        """The videos whose column `split` says `part`. DataError if there are none, or if one of them is not ok."""
        if not self.splits:
            raise DataError(f"{self.root}: the index has no column whose name starts with `split`; prepare it again")
        if split not in self.splits:
            raise DataError(f"{self.root}: {one_of(split, self.splits, 'split')}")
        own = pc.equal(self.facts[split], part).combine_chunks()
        count = pc.sum(own).as_py()
        if not count:
            parts = sorted(p for p in pc.unique(self.facts[split]).to_pylist() if p)
            raise DataError(
                f"{self.root}: no video in part {part!r} of {split!r}; it has: {', '.join(parts) or 'nothing'}"
            )
        bad = self.facts.filter(pc.and_(own, pc.not_equal(self.facts["status"], "ok")))
        if bad.num_rows:
            first = bad.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{self.root}: {bad.num_rows} of {count} videos in part {part!r} of {split!r} are not ok; "
                f"the first is {first['path']!r}: {first['status']}, {first['reason']}. "
                "Mend or remove them, and prepare the data set again"
            )
        labels = pc.index_in(self.facts["label"], value_set=pa.array(self.classes)).combine_chunks().fill_null(-1)
        if count == len(self):
            return Part(self.root, self.facts, labels, modality=self.modality)
        rows = pc.indices_nonzero(own)
        return Part(self.root, self.facts, labels.take(rows), modality=self.modality, rows=rows)


def read(root: Path) -> Index:
    """Read the prepared data set in the folder `root`; DataError says what is missing or wrong in it."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should be a prepared data set (python -m data_prep --help)")
    card = _read_card(root / "dataset.json")
    classes = tuple(_read_text(root / "classes.txt").splitlines())
    if len(set(classes)) != len(classes) or not all(classes):
        raise DataError(f"{root / 'classes.txt'}: class names must be unique and not empty")
    return Index(root, index_rows.read(root, classes), classes, card)


def write(root: Path, rows: pa.Table | pa.RecordBatchReader, classes: tuple[str, ...], card: dict[str, Any]) -> None:
    """Write index.csv, classes.txt and dataset.json into `root`, each whole or not at all, the index last."""
    texts = {"classes.txt": "".join(f"{name}\n" for name in classes), "dataset.json": json.dumps(card, indent=2) + "\n"}
    for name, text in texts.items():
        partial = root / f".tmp-{name}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(root / name)
    partial = root / ".tmp-index.csv"
    write_csv(rows, partial)
    partial.replace(root / "index.csv")


def discard(root: Path) -> None:
    """Take the index away, if there is one: of a folder whose videos are about to change."""
    for name in ("index.csv", "index.parquet"):
        (root / name).unlink(missing_ok=True)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    flip = card.get("horizontal_flip") if isinstance(card, dict) else None
    if not isinstance(card, dict) or "name" not in card or flip not in ("keeps_labels", "changes_labels"):
        raise DataError(f'{path}: must hold "name" and "horizontal_flip": "keeps_labels" or "changes_labels"')
    if card.get("modality", "rgb") not in get_args(Modality):
        raise DataError(f'{path}: "modality" must be one of {get_args(Modality)}, not {card["modality"]!r}')
    return card


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); prepare the data set again") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; prepare the data set again") from None
