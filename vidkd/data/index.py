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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from vidkd.errors import DataError, one_of
from vidkd.section import Modality

if TYPE_CHECKING:  # data_prep reads and writes indexes, in many processes, without torch
    from torch import Tensor

    from vidkd.types import Shown

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
MEASURED = ("bytes", "frames", "fps", "width", "height")  # more than 0 of every video that is ok
OUTSIDE = r"^/|^$|(^|/)\.\.(/|$)"  # paths that lead elsewhere
STATUSES = ("ok", "truncated", "unreadable", "refused")


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
    checksum: str
    start: int | None = None  # the first frame of the one span that this row stands for; None: the whole video


Truth = Callable[["Shown"], dict[str, "Tensor"]]


class Part:
    """The videos of one part of one split, addressed 0..N-1 in the order of the index, kept as columns.

    `truth` is what a task has to say of a clip beside its label. After `spread`, a row is one span of a video.
    """

    def __init__(
        self,
        root: Path,
        table: pa.Table,
        labels: pa.Array,
        truth: Truth | None = None,
        starts: list[int] | None = None,
        modality: Modality = "rgb",
    ) -> None:
        self.root, self.table, self.labels = root, table, labels
        self.truth, self.starts = truth, starts
        self.modality: Modality = modality

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, i: int) -> Clip:
        row = {
            name: self.table[name][i].as_py()
            for name in ("path", "frames", "fps", "width", "height", "bytes", "checksum")
        }
        path = row.pop("path")
        start = None if self.starts is None else self.starts[i]
        name = str(Path(path).with_suffix(""))
        return Clip(name=name, path=self.root / path, label=self.labels[i].as_py(), **row, start=start)

    def spread(self, starts: list[list[int]]) -> "Part":
        """One row a span: video i once for each of starts[i], side by side."""
        rows = pa.array([i for i, own in enumerate(starts) for _ in own], pa.int64())
        flat = [start for own in starts for start in own]
        return Part(self.root, self.table.take(rows), self.labels.take(rows), self.truth, flat, self.modality)

    def names(self) -> list[str]:
        return [str(Path(path).with_suffix("")) for path in self.table["path"].to_pylist()]

    def check_files(self) -> None:
        """DataError that names the first videos whose files are not there, or not as long as the index says."""
        wrong = []
        expected_bytes = dict(zip(self.column("path"), self.column("bytes"), strict=True))
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
        return self.table[name].to_pylist()


@dataclass(frozen=True)
class Index:
    """A prepared data set."""

    root: Path
    table: pa.Table
    classes: tuple[str, ...]
    card: dict[str, Any]  # dataset.json

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
        return [name for name in self.table.column_names if name.startswith("split")]

    def checksum(self) -> str:
        """sha256 of the index and the classes: equal for equal videos, labels and splits."""
        digest = hashlib.sha256()
        for path in (_table_path(self.root), self.root / "classes.txt"):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def part(self, split: str, part: str) -> Part:
        """The videos whose column `split` says `part`. DataError if there are none, or if one of them is not ok."""
        if split not in self.splits:
            raise DataError(f"{self.root}: {one_of(split, self.splits, 'split')}")
        rows = self.table.filter(pc.equal(self.table[split], part))
        if not rows.num_rows:
            parts = sorted(p for p in pc.unique(self.table[split]).to_pylist() if p)
            raise DataError(
                f"{self.root}: no video in part {part!r} of {split!r}; it has: {', '.join(parts) or 'nothing'}"
            )
        bad = rows.filter(pc.not_equal(rows["status"], "ok"))
        if bad.num_rows:
            first = bad.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{self.root}: {bad.num_rows} of {rows.num_rows} videos in part {part!r} of {split!r} are not ok; "
                f"the first is {first['path']!r}: {first['status']}, {first['reason']}. "
                "Mend or remove them, and prepare the data set again"
            )
        labels = pc.index_in(rows["label"].combine_chunks(), value_set=pa.array(self.classes)).fill_null(-1)
        return Part(self.root, rows, labels, modality=self.modality)


def read(root: Path) -> Index:
    """Read the prepared data set in the folder `root`; DataError says what is missing or wrong in it."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should be a prepared data set (python -m data_prep --help)")
    card = _read_card(root / "dataset.json")
    classes = tuple(_read_text(root / "classes.txt").splitlines())
    if len(set(classes)) != len(classes) or not all(classes):
        raise DataError(f"{root / 'classes.txt'}: class names must be unique and not empty")
    table = _read_table(root)
    if not table.num_rows:
        raise DataError(f"{root}: the index has no rows; prepare the data set again")
    if foreign := set(pc.unique(table["label"]).to_pylist()) - {*classes, ""}:
        name = sorted(map(str, foreign))[0]
        raise DataError(
            f"{root}: {len(foreign)} label(s) are not in classes.txt: {one_of(name, list(classes)[:50], 'class')}"
        )
    outside = table.filter(pc.match_substring_regex(table["path"], OUTSIDE))
    if outside.num_rows:
        path = outside["path"][0].as_py()
        raise DataError(f"{root}: the index names {path!r}; paths must lie in the folder, and be relative to it")
    if _different_names(table["path"]) != table.num_rows:
        raise DataError(f"{root}: the index names some video twice (names are paths without their suffix)")
    _check_numbers(root, table)
    return Index(root, table, classes, card)


def _different_names(paths: pa.ChunkedArray) -> int:
    """How many different names there are, paths without their suffix."""
    return pc.count_distinct(pc.replace_substring_regex(paths, r"\.[^./]*$", "")).as_py()


def _check_numbers(root: Path, table: pa.Table) -> None:
    """DataError for a video that is said to be ok and to have no frames, no size or no rate."""
    ok = pc.equal(table["status"], "ok")
    for name in MEASURED:
        positive = pc.and_(pc.greater(table[name], 0), pc.is_finite(pc.cast(table[name], pa.float64())))
        bad = table.filter(pc.and_(ok, pc.invert(pc.fill_null(positive, False))))  # the good ones: a copy of all
        if bad.num_rows:
            first = bad.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{root}: {bad.num_rows} video(s) cannot be ok: the first is {first['path']!r}, whose {name} is "
                f"{first[name]}; prepare the data set again"
            )


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


def write_csv(rows: pa.Table | pa.RecordBatchReader, path: Path) -> None:
    """Write a table; of a reader, one batch at a time is in memory."""
    reader = rows.to_reader() if isinstance(rows, pa.Table) else rows
    with pyarrow.csv.CSVWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


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


def _table_path(root: Path) -> Path:
    csv = root / "index.csv"
    return csv if csv.exists() else root / "index.parquet"


def _read_table(root: Path) -> pa.Table:
    path = _table_path(root)
    if not path.exists():
        raise DataError(f"{root}: holds neither index.csv nor index.parquet; prepare it with python -m data_prep")
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            # Every column is read as what the schema says: a group "007" stays a string.
            header = pyarrow.csv.open_csv(path).schema.names
            types = {name: SCHEMA.get(name, pa.string()) for name in header}
            options = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False)
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, convert_options=options, parse_options=parse)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if missing := [name for name in SCHEMA if name not in table.column_names]:
        raise DataError(f"{path}: lacks the column(s) {', '.join(missing)}")
    return table
