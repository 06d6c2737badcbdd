"""The index of what was made, where it came from, and the account of what failed."""

import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from data_prep.pipeline import ffmpeg, journal
from data_prep.pipeline.listing import Listing
from data_prep.pipeline.produce import PARTIAL, checksum_of
from vidkd.data import index
from vidkd.data.index import pc
from vidkd.errors import DataError

SOURCES = ("source", "source_checksum")
SHOWN = 10  # failures printed; all of them are in the index


def finish(out: Path, listing: Listing, named: str, settings: dict[str, Any], allow_failures: int = 0) -> int:
    """Write the index, print the account, and say how the command should end: 0, or 2 if too much failed.

    `named` is what `produce` was told of the settings. With failures allowed, those videos stay in the index without a
    part, so that the rest can be used.
    """
    table = _joined(out, listing, named)
    sources = _write_sources(out, table)
    for left in out.rglob(f"{PARTIAL}*"):  # by runs that were killed
        left.unlink(missing_ok=True)
    bad = table.filter(pc.not_equal(table["status"], "ok"))
    allowed = bad.num_rows <= allow_failures
    if allowed and bad.num_rows:
        table = _without_parts(table, listing.splits)
    card = {"name": listing.name, "horizontal_flip": listing.horizontal_flip}
    if listing.form == "flow":
        card["modality"] = "flow"
    index.write(out, table.drop_columns(list(SOURCES)), listing.classes, card)
    counts = _counts(table, listing.splits)
    _write_provenance(out, listing, settings, counts, sources)
    print(_account(out, table, listing, bad, counts))
    if allowed:
        return 0
    print(
        f"{bad.num_rows} videos failed, {allow_failures} may: mend or remove them and run the same command again, or "
        f"use the rest with --allow-failures {bad.num_rows}",
        file=sys.stderr,
    )
    return 2


def is_complete(out: Path, listing: Listing, named: str) -> bool:
    """Whether every video of the listing has been dealt with at these settings, by this shard or another."""
    paths = journal.made_with(out, named)["path"]
    return bool(pc.all(pc.is_in(listing.table["path"], value_set=paths.combine_chunks())).as_py())


def _joined(out: Path, listing: Listing, named: str) -> pa.Table:
    """The rows of index.csv in the order of the listing."""
    if not listing.table.num_rows:
        raise DataError(f"{listing.name}: no videos were found")
    rows = listing.table.append_column("at", pa.array(range(listing.table.num_rows), pa.int64()))
    table = rows.join(journal.made_with(out, named), "path", join_type="inner").sort_by("at")
    if table.num_rows < rows.num_rows:
        missing = rows.num_rows - table.num_rows
        raise DataError(f"{out}: {missing} of {rows.num_rows} videos are still to be made; run the other shards first")
    return table.select([*index.SCHEMA, *listing.splits, *SOURCES])


def _write_sources(out: Path, table: pa.Table) -> dict[str, str]:
    """sources.csv: which file each video was made from, and the checksum of that file."""
    partial, path = out / f"{PARTIAL}sources.csv", out / "sources.csv"
    pyarrow.csv.write_csv(table.select(["path", *SOURCES]), partial)
    partial.replace(path)
    return {"path": path.name, "checksum": checksum_of(path)}


def _without_parts(table: pa.Table, splits: tuple[str, ...]) -> pa.Table:
    is_ok = pc.equal(table["status"], "ok")
    for name in splits:
        table = table.set_column(table.column_names.index(name), name, pc.if_else(is_ok, table[name], ""))
    return table


def _counts(table: pa.Table, splits: tuple[str, ...]) -> dict[str, Any]:
    def tally(name: str) -> dict[str, int]:
        pairs = pc.value_counts(table[name]).to_pylist()
        return {pair["values"]: pair["counts"] for pair in sorted(pairs, key=lambda p: p["values"]) if pair["values"]}

    return {"status": tally("status"), **{name: tally(name) for name in splits}}


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
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / "provenance.json")


def _account(out: Path, table: pa.Table, listing: Listing, bad: pa.Table, counts: dict[str, Any]) -> str:
    frames, size_mb = pc.sum(table["frames"]).as_py(), pc.sum(table["bytes"]).as_py() / 1e6
    lines = [f"{out}: {table.num_rows} videos, {len(listing.classes)} classes, {frames} frames, {size_mb:.1f} MB"]
    lines += [f"  {key:<10} {value}" for key, value in listing.notes.items()]
    for name, tally in counts.items():
        lines.append(f"  {name:<10} " + ", ".join(f"{n} {part}" for part, n in tally.items()))
    for row in bad.slice(0, SHOWN).to_pylist():
        lines.append(f"  {row['status']}: {row['path']!r}: {row['reason']}")
    if bad.num_rows > SHOWN:
        lines.append(f"  ... and {bad.num_rows - SHOWN} more: see the columns status and reason of index.csv")
    return "\n".join(lines)
