"""Files that say when what happens in which video, and files of detections: CSV and JSON in the forms in circulation.

CSV: a header, then one segment a row. Times are seconds; other columns are passed over.
    video,start_s,end_s,label[,score][,subset]   what vidkd writes
    video,type,start,end                         AFSD's THUMOS14 lists
A time before 0 is no annotation, but a detection may begin there. No video, key or column may stand there twice.
JSON: {"database": {video: {"subset", "annotations": [{"segment": [start, end], "label"}]}}} of ActivityNet, THUMOS14,
ActionFormer and OpenTAD; the same without "database", the subset then from a video_info_new.csv beside it; and
{"results": {video: [{"segment", "label", "score"}]}}, ActivityNet's form of detections.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidkd.errors import DataError, one_of
from vidkd.types import Segments

AMBIGUOUS = "Ambiguous"  # THUMOS14: neither this class nor surely another; no action, and no mistake to detect
NAMES = {  # what a column may be called
    "video": ("video", "clip", "video-id", "video_id"),
    "start": ("start_s", "start", "t-start", "t_start"),
    "end": ("end_s", "end", "t-end", "t_end"),
    "label": ("label", "type", "class"),
    "score": ("score",),
}
YOUTUBE = re.compile(r"v_([\w-]{11})")  # ActivityNet's names, with and without v_
Row = tuple[str, float, float, str, float]


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a file says; `actions` without the ambiguous ones."""

    actions: Segments
    ambiguous: Segments
    subset: dict[str, str]  # every video the file names -> its subset in lower case, "" where it does not say
    checksum: str  # "sha256:<hex>" of the file

    def only(self, subset: str | None, source: Path) -> "Annotations":
        """Those of one subset; None is enough where there is one. DataError says which there are."""
        there = sorted(set(self.subset.values()))
        if subset is not None and there == [""]:
            raise DataError(f"{source}: says nothing of subsets; leave out the subset {subset!r}")
        if subset is None and len(there) > 1:
            raise DataError(f"{source}: say which subset: {', '.join(there)}")
        if subset is None:
            return self
        if subset.lower() not in there:
            raise DataError(f"{source}: {one_of(subset, there, 'subset')}")
        kept = {video: own for video, own in self.subset.items() if own == subset.lower()}
        return Annotations(_of(self.actions, kept), _of(self.ambiguous, kept), kept, self.checksum)


def read(path: Path) -> Annotations:
    """The annotations in a .csv or .json file. DataError names the file and the first thing wrong with it."""
    content = _bytes(path)
    subsets: dict[str, str] = {}
    if path.suffix == ".json":
        videos = _mapping(path, _json(path, content), ("database",))
        info = _info(path) if not any("subset" in entry for entry in videos.values()) else {}
        for name, entry in videos.items():
            subsets[bare(name)] = str(entry.get("subset", info.get(name, ""))).lower()
        rows = [row for name, entry in videos.items() for row in _segments(path, name, entry.get("annotations", ()))]
    else:
        rows = list(_rows(path, content, scored=False, subsets=subsets))
    everything = Segments.of(row[:4] for row in rows)
    unsure = everything.label == AMBIGUOUS
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Annotations(everything.where(~unsure), everything.where(unsure), subsets, checksum)


def read_detections(path: Path) -> Segments:
    """The detections, with their scores, in a .csv file or in ActivityNet's .json. DataError as for `read`."""
    content = _bytes(path)
    if path.suffix != ".json":
        return Segments.of(_rows(path, content, scored=True), scored=True)
    videos = _mapping(path, _json(path, content), ("results",), list)
    return Segments.of((row for v, each in videos.items() for row in _segments(path, v, each, True)), scored=True)


def write(path: Path, segments: Segments, subset: Mapping[str, str] | None = None) -> None:
    """The columns video, start_s, end_s, label, and score where there is one, for `read` and `read_detections`; and the
    subset of each video, if it is given."""
    columns = {"video": segments.video, "start_s": segments.start_s, "end_s": segments.end_s, "label": segments.label}
    if segments.score is not None:
        columns["score"] = segments.score
    if subset is not None:
        columns["subset"] = np.array([subset[name] for name in segments.video.tolist()], dtype=object)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def bare(name: str) -> str:
    """ActivityNet's videos are called v_<id> in some files and <id> in others: <id>. Other names as they are, but for
    the suffix of a video file."""
    found = YOUTUBE.fullmatch(name)
    return found[1] if found else re.sub(r"\.(mp4|avi|mkv|webm)$", "", name)


def _of(segments: Segments, videos: Iterable[str]) -> Segments:
    kept = set(videos)
    return segments.where([name in kept for name in segments.video.tolist()])  # pyright: ignore[reportArgumentType]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _json(path: Path, content: bytes) -> Any:
    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # json itself would keep the last of two
        for name, count in Counter(name for name, _ in pairs).items() if len(dict(pairs)) < len(pairs) else ():
            if count > 1:
                raise DataError(f"{path}: {name!r} stands there {count} times, side by side; put them together")
        return dict(pairs)

    try:
        return json.loads(content, object_pairs_hook=each_once)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def _mapping(path: Path, said: Any, inside: tuple[str, ...], holds: type = dict) -> dict[str, Any]:
    """The videos of a JSON file, under one of the keys `inside` or bare."""
    for key in inside:
        said = said.get(key, said) if isinstance(said, dict) else said
    if not isinstance(said, dict) or not said or not all(isinstance(entry, holds) for entry in said.values()):
        where = " or ".join(f'under "{key}"' for key in inside)
        raise DataError(f"{path}: holds no videos, {where} or at its top: each with its segments")
    called: dict[str, str] = {}
    for name in said:
        if (first := called.setdefault(bare(name), name)) != name:
            raise DataError(f"{path}: {first!r} and {name!r} are one video; put them together")
    return said


def _info(path: Path) -> dict[str, str]:
    """The subsets that ActivityNet keeps in a table beside the annotations."""
    table = path.parent / "video_info_new.csv"
    if not table.is_file():
        return {}
    header, rows = _table(table, _bytes(table))
    if missing := {"video", "subset"} - set(header):
        raise DataError(f"{table}: lacks the column(s) {', '.join(sorted(missing))}")
    return {row["video"]: row["subset"] for _, row in rows}


def _segments(path: Path, video: str, entries: Any, scored: bool = False) -> Iterator[Row]:
    if not isinstance(entries, list | tuple):
        raise DataError(f"{path}: {video!r}: its annotations are no list but {entries!r}")
    for entry in entries:
        try:
            if not isinstance(entry["segment"], list) or not isinstance(entry["label"], str | int):
                raise ValueError("the segment is no list of two times, or the label no text")
            start, end = entry["segment"]
            yield _row(video, start, end, entry["label"], entry["score"] if scored else 0.0, scored)
        except (KeyError, TypeError, ValueError) as error:
            wanted = "segment [start, end], label" + (" and score" if scored else "")
            raise DataError(f"{path}: {video!r}: {entry!r} is no {wanted} ({error})") from None


def _table(path: Path, content: bytes) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header, and each row with the number of its (last) line. DataError for rows of another length."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        header = list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table ({error})") from None
    if len(set(header)) < len(header):
        raise DataError(f"{path}: names the column {Counter(header).most_common(1)[0][0]!r} twice; remove one")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        try:
            for raw in reader:
                if None in raw or None in raw.values():
                    raise DataError(
                        f"{path}: line {reader.line_num}: not as many fields as the header has, {len(header)}; a label "
                        "with a comma must stand in quotes"
                    )
                yield reader.line_num, raw
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: not a table ({error}); a quote may be open") from None

    return header, rows()


def _rows(path: Path, content: bytes, scored: bool, subsets: dict[str, str] | None = None) -> Iterator[Row]:
    """Every row; into `subsets` goes what a column subset says of each video, "" where there is none."""
    header, table = _table(path, content)
    columns = {key: next((name for name in names if name in header), None) for key, names in NAMES.items()}
    wanted = [key for key in NAMES if scored or key != "score"]
    if missing := [NAMES[key][0] for key in wanted if columns[key] is None]:
        raise DataError(f"{path}: lacks the column(s) {', '.join(missing)}; it has: {', '.join(header) or 'nothing'}")
    for number, raw in table:
        try:
            row = _row(*(raw[columns[key]] if key in wanted else 0.0 for key in NAMES), scored=scored)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: line {number}: {error}") from None
        if subsets is not None:
            own = (raw.get("subset") or "").lower()
            if (first := subsets.setdefault(row[0], own)) != own:
                raise DataError(f"{path}: line {number}: {row[0]!r} is in {own!r} here, and in {first!r} before")
        yield row


def _row(video: str, start: Any, end: Any, label: Any, score: Any, scored: bool) -> Row:
    begin, stop, sure = float(start), float(end), float(score)
    if not all(map(math.isfinite, (begin, stop, sure))) or stop < begin or (begin < 0 and not scored):
        said = f"from {start} to {end}" + (f" with score {score}" if scored else "")
        right = "start <= end and a score" if scored else "0 <= start <= end"
        raise ValueError(f"{said} is no segment of time: {right}, all finite, would be right")
    if not video or not label:
        raise ValueError("the video or the label is empty")
    return bare(video), begin, stop, str(label), sure
