"""The index of what was made, where it came from, and the account of what failed."""

import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.pipeline import ffmpeg, journal
from data_prep.pipeline.listing import Listing
from data_prep.pipeline.produce import PARTIAL, checksum_of
from vidkd.data import index
from vidkd.errors import DataError

MADE = "items JOIN made ON made.path = items.path"  # the tables of Rows and of the journal
SHOWN = 10  # failures printed; all of them are in the index


def finish(out: Path, listing: Listing, named: str, settings: dict[str, Any], allow_failures: int = 0) -> int:
    """Write the index, print the account, and say how the command should end: 0, or 2 if too much failed.

    `named` is what `produce` was told of the settings. With failures allowed, those videos stay in the index without a
    part, so that the rest can be used. DataError where the disk is full.
    """
    try:
        return _finish(out, listing, named, settings, allow_failures)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{out}: cannot be written to ({reason}); mend that, and run the same command again") from None


def _finish(out: Path, listing: Listing, named: str, settings: dict[str, Any], allow_failures: int) -> int:
    db = listing.rows.db
    _join(out, listing, named)  # makes table `results`
    sources = _write_sources(out, listing)
    for left in out.rglob(f"{PARTIAL}*"):  # by runs that were killed
        left.unlink(missing_ok=True)
    bad: int = db.one("SELECT COUNT(*) FROM results WHERE status != 'ok'")
    allowed = bad <= allow_failures
    if allowed and bad:
        for part in listing.rows.parts:
            db.run(f"UPDATE results SET {part} = '' WHERE status != 'ok'")
    card = {"name": listing.name, "horizontal_flip": listing.horizontal_flip}
    if listing.form == "flow":
        card["modality"] = "flow"
    columns = {name: ("grp" if name == "group" else name, kind) for name, kind in index.SCHEMA.items()}
    columns |= {split: (part, pa.string()) for split, part in zip(listing.splits, listing.rows.parts, strict=True)}
    index.write(out, _read(listing, columns), listing.classes, card)
    counts = {"status": _tally(listing, "status")}
    counts |= {split: _tally(listing, part) for split, part in zip(listing.splits, listing.rows.parts, strict=True)}
    _write_provenance(out, listing, settings, counts, sources)
    print(_account(out, listing, bad, counts))
    if allowed:
        return 0
    print(
        f"{bad} videos failed, {allow_failures} may: mend or remove them and run the same command again, or use the "
        f"rest with --allow-failures {bad}",
        file=sys.stderr,
    )
    return 2


def left_to_make(out: Path, listing: Listing, named: str) -> int:
    """How many videos of the listing have not been dealt with at these settings, by this shard or another."""
    journal.load(listing.rows.db, out, named)
    return len(listing.rows) - listing.rows.db.one(f"SELECT COUNT(*) FROM {MADE}")


def _join(out: Path, listing: Listing, named: str) -> None:
    """Bring what became of the videos to the listing. DataError where there are none, or not all have been made."""
    db, total = listing.rows.db, len(listing.rows)
    if not total:
        raise DataError(f"{listing.name}: no videos were found")
    journal.load(db, out, named)
    facts = ", ".join(name for name in journal.COLUMNS if name != "path")
    db.run("DROP TABLE IF EXISTS results")
    db.run(f"CREATE TABLE results AS SELECT {listing.rows.columns}, {facts} FROM {MADE} ORDER BY position")
    if missing := total - db.one("SELECT COUNT(*) FROM results"):
        raise DataError(f"{out}: {missing} of {total} videos are still to be made; run the other shards first")


def _read(listing: Listing, columns: Mapping[str, tuple[str, pa.DataType]]) -> pa.RecordBatchReader:
    """A table, batch by batch, in the order of the listing: name -> (what of the database, type)."""
    schema = pa.schema([(name, kind) for name, (_, kind) in columns.items()])
    select = ", ".join(expression for expression, _ in columns.values())

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in listing.rows.db.chunks(f"SELECT {select} FROM results ORDER BY rowid"):
            arrays = [
                pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _write_sources(out: Path, listing: Listing) -> dict[str, str]:
    """sources.csv: which file each video was made from, and the checksum of that file."""
    partial, path = out / f"{PARTIAL}sources.csv", out / "sources.csv"
    said = {"path": "path", "source": "printable(source)", "source_checksum": "source_checksum"}
    columns = {name: (expression, pa.string()) for name, expression in said.items()}
    index.write_csv(_read(listing, columns), partial)
    partial.replace(path)
    return {"path": path.name, "checksum": checksum_of(path)}


def _tally(listing: Listing, column: str) -> dict[str, int]:
    """How many videos have each value, but for the empty one."""
    counted = f"SELECT {column}, COUNT(*) FROM results WHERE {column} != '' GROUP BY 1 ORDER BY 1"
    return dict(listing.rows.db.rows(counted))


def _write_provenance(
    out: Path, listing: Listing, settings: dict[str, Any], counts: dict[str, Any], sources: dict[str, str]
) -> None:
    files = [{"path": str(p), "bytes": p.stat().st_size, "checksum": checksum_of(p)} for p in listing.files]
    content = {
        "data_set": listing.name,
        "licence": listing.licence,
        "command": shlex.join(["python", "-m", "data_prep", *sys.argv[1:]]),
        "settings": settings,
        "versions": {"vidkd": version("vidkd"), "python": platform.python_version(), "ffmpeg": ffmpeg.version()},
        "listing_files": files,
        "sources": sources,
        "counts": counts,
        "notes": listing.notes,
    }
    partial = out / ".tmp-provenance.json"
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # Of a path that is not UTF-8 goes in what JSON writes for it: \\udcff.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(out / "provenance.json")


def _account(out: Path, listing: Listing, bad: int, counts: dict[str, Any]) -> str:
    db = listing.rows.db
    ((total, frames, size),) = db.rows("SELECT COUNT(*), SUM(frames), SUM(bytes) FROM results")
    lines = [f"{out}: {total} videos, {len(listing.classes)} classes, {frames} frames, {size / 1e6:.1f} MB"]
    lines += [f"  {key:<10} {value}" for key, value in listing.notes.items()]
    for name, tally in counts.items():
        lines.append(f"  {name:<10} " + ", ".join(f"{n} {part}" for part, n in tally.items()))
    failed = f"SELECT status, path, reason FROM results WHERE status != 'ok' ORDER BY rowid LIMIT {SHOWN}"
    lines += [f"  {status}: {path!r}: {reason}" for status, path, reason in db.rows(failed)]
    if bad > SHOWN:
        lines.append(f"  ... and {bad - SHOWN} more: see the columns status and reason of index.csv")
    return "\n".join(lines)
