"""Write a page about a prepared data set: parts, classes, durations, sizes, what failed, and some frames of it.

One HTML file with everything in it; nothing is fetched. Sizes and rates are those of the prepared files.
"""

import argparse
import base64
import html
import io
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.pipeline import show
from vidkd.data import index, index_rows
from vidkd.data.index import Index, pc
from vidkd.errors import ConfigError

BINS = 24
FRAMES = 4  # of each sample, from its start to its end
FRAME_PX = 120  # a sample's width
SHORT = 16  # letters of a cell that is not broken
SHOWN = 20  # failures and sizes listed; the index has all
PARTS = ("train", "val", "test", "")

CSS = """
:root{--paper:#fff;--card:#f5f6f8;--ink:#1d2330;--soft:#566072;--rule:#dde1e7;--train:#0a63c2;--val:#d08700;
--test:#0f766e;--none:#98a2b3;--bad:#b42318}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1d2128;--ink:#e7e9ec;--soft:#a0a9b6;
--rule:#363d48;--train:#6aaefc;--val:#f0b849;--test:#4fd1c5;--none:#66707f;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 48px;max-width:1080px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0 0 .3rem}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--rule)}
p{margin:.4rem 0}.soft{color:var(--soft);font-size:.86rem}.bad b{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:1rem 0}
.tiles div{background:var(--card);border-radius:8px;padding:10px 12px}
.tiles b{display:block;font-size:1.4rem;line-height:1.25}.tiles span{color:var(--soft);font-size:.82rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 12px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}
.classes{columns:330px;column-gap:28px;font-size:.84rem}
.class{display:grid;grid-template-columns:9.5em 1fr 3.2em;gap:8px;align-items:center;break-inside:avoid}
.class span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.class span:last-child{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:flex;height:10px}.bar i,.key{background:var(--none)}
.bar .train,.key.train{background:var(--train)}.bar .val,.key.val{background:var(--val)}
.bar .test,.key.test{background:var(--test)}
.key{display:inline-block;width:10px;height:10px;margin:0 5px 0 14px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:20px 28px}
.plot b{font-size:.9rem}.columns{display:flex;align-items:flex-end;height:110px;gap:1px;
border-bottom:1px solid var(--soft)}
.columns i{flex:1;background:var(--train);min-height:0}.axis{display:flex;justify-content:space-between}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:14px 24px}
.sample div{display:flex;gap:2px}.sample img{flex:1;min-width:0;width:25%;height:auto;object-fit:contain}
@media(max-width:560px){.samples{grid-template-columns:1fr}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a prepared data set")
    parser.add_argument("--page", type=Path, help="the HTML file to write (default: stats.html in the folder)")
    parser.add_argument("--samples", type=int, default=24, help="videos with frames, the classes in turn (%(default)s)")


def run(args: argparse.Namespace) -> int:
    data = index.read(args.folder)
    page = args.page or args.folder / "stats.html"
    if args.samples < 0:
        raise ConfigError("--samples must be 0 or more")
    content = "\n".join(section(data) for section in (_head, _parts, _classes, _plots, _sizes, _failures))
    if args.samples:
        content += _samples(data, args.samples)
    content += _origin(data)
    shell = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{shell}<title>{_esc(data.name)}</title><style>{CSS}</style>{content}</html>", "utf-8")
    except OSError as error:
        raise ConfigError(f"--page {page}: cannot be written ({error.strerror})") from None
    print(f"{page}: {len(data)} videos of {data.name}, {page.stat().st_size / 1e6:.1f} MB")
    return 0


def _head(data: Index) -> str:
    good = _good(data)
    failed = len(data) - good.num_rows
    tiles = [
        (f"{len(data):,}", "videos"),
        (f"{len(data.classes):,}", "classes"),
        (_duration(float(_seconds(good).sum())), "of video"),
        (f"{pc.sum(good['frames']).as_py() or 0:,}", "frames"),
        (_bytes(pc.sum(good["bytes"]).as_py() or 0), "on disk"),
        (f"{failed:,}", "failed"),
    ]
    groups = np.unique(np.concatenate([index_rows.hashes(batch["group"]) for batch in data.batches("group")])).size
    if groups > 1:
        tiles.insert(2, (f"{groups:,}", "groups"))
    boxes = "".join(f"<div{' class=bad' if t == 'failed' and failed else ''}><b>{n}</b><span>{t}</span></div>"
                    for n, t in tiles)  # fmt: skip
    flip = "may be of another class: never flip" if data.flip_changes_labels else "keeps its label"
    return f"<h1>{_esc(data.name)}</h1><p class=soft>A mirrored video {flip}.</p><div class=tiles>{boxes}</div>"


def _parts(data: Index) -> str:
    counts = {name: _tally(data.facts[name]) for name in data.splits}
    head = "".join(f"<th>{part or 'in none'}</th>" for part in PARTS)
    rows = (
        f"<tr><td>{_esc(name)}</td>{''.join(f'<td>{tally.get(part, 0):,}</td>' for part in PARTS)}</tr>"
        for name, tally in counts.items()
    )
    return f"<h2>Parts</h2><table><tr><th>split</th>{head}</tr>{''.join(rows)}</table>"


def _classes(data: Index) -> str:
    """A bar a class, cut into the parts of the first split."""
    split = data.splits[0] if data.splits else None
    parts = data.facts[split] if split else pa.array([""] * len(data))
    table = pa.table({"label": data.facts["label"], "part": parts})
    table = table.filter(pc.not_equal(table["label"], ""))
    if not table.num_rows:  # untrimmed videos: their segments have the labels
        return ""
    counts: dict[str, dict[str, int]] = {name: {} for name in data.classes}
    for row in table.group_by(["label", "part"]).aggregate([([], "count_all")]).to_pylist():
        counts[row["label"]][row["part"]] = row["count_all"]
    most = max(sum(each.values()) for each in counts.values())
    rows = []
    for name, each in counts.items():
        bars = (
            f"<i class='{part}' style='width:{100 * each[part] / most:.2f}%'></i>" for part in PARTS if part in each
        )
        rows.append(
            f"<div class=class><span title='{_esc(name)}'>{_esc(name)}</span>"
            f"<span class=bar>{''.join(bars)}</span><span>{sum(each.values()):,}</span></div>"
        )
    totals = [sum(each.values()) for each in counts.values()]
    used = [part for part in PARTS if any(part in each for each in counts.values())]
    legend = "".join(f"<span class='key {part}'></span>{part or 'in no part'}" for part in used)
    counted = " to ".join(f"{total:,}" for total in sorted({min(totals), max(totals)}))
    said = f"videos a class: {counted}; {_esc(split or 'no split')}:{legend}"
    return f"<h2>Classes</h2><p class=soft>{said}</p><div class=classes>{''.join(rows)}</div>"


def _plots(data: Index) -> str:
    good = _good(data)
    if not good.num_rows:
        return ""
    seconds, size = _seconds(good), good["bytes"].to_numpy()
    plots = [
        _histogram("Duration", seconds, lambda s: f"{s:.1f} s"),
        _histogram("Frames", good["frames"].to_numpy(), lambda n: f"{n:,.0f}"),
        _histogram("Size of the file", size, _bytes),
        _histogram("Bytes a frame", size / np.maximum(good["frames"].to_numpy(), 1), _bytes),
    ]
    return f"<h2>How long and how large</h2><div class=plots>{''.join(plots)}</div>"


def _histogram(title: str, values: np.ndarray, text: Callable[[float], str]) -> str:
    counts, edges = np.histogram(values, BINS)
    columns = "".join(
        f"<i style='height:{100 * n / counts.max():.1f}%' title='{text(a)} to {text(b)}: {n:,}'></i>"
        for n, (a, b) in zip(counts, pairwise(edges), strict=True)
    )
    low, middle, high = (text(float(np.quantile(values, q))) for q in (0, 0.5, 1))
    axis = f"<div class='axis soft'><span>{low}</span><span>median {middle}</span><span>{high}</span></div>"
    return f"<div class=plot><b>{title}</b><div class=columns>{columns}</div>{axis}</div>"


def _sizes(data: Index) -> str:
    found = _good(data).group_by(["width", "height"]).aggregate([([], "count_all"), ("fps", "min"), ("fps", "max")])
    found = found.sort_by([("count_all", "descending")])
    rows = []
    for row in found.slice(0, SHOWN).to_pylist():
        low, high = f"{row['fps_min']:.4g}", f"{row['fps_max']:.4g}"
        rate = low if low == high else f"{low} to {high}"
        rows.append((f"{row['width']} x {row['height']}", rate, f"{row['count_all']:,}"))
    more = f"<p class=soft>and {found.num_rows - SHOWN} more sizes.</p>" if found.num_rows > SHOWN else ""
    return f"<h2>Pictures</h2>{_table(('px', 'frames a second', 'videos'), rows)}{more}"


def _failures(data: Index) -> str:
    ok = pc.equal(data.facts["status"], "ok")
    bad = data.facts.filter(pc.invert(ok))
    remarks = data.facts.filter(pc.and_(ok, pc.not_equal(data.facts["reason"], "")))
    parts = []
    for title, rows in (("What failed", bad), ("Used, with a remark", remarks)):
        if rows.num_rows:
            shown = ((r["path"], r["status"], r["reason"]) for r in rows.slice(0, SHOWN).to_pylist())
            more = f"<p class=soft>{SHOWN} of {rows.num_rows:,}; all are in the index.</p>"
            parts.append(f"<h2>{title}</h2>{_table(('video', 'status', 'why'), shown)}")
            parts.append(more if rows.num_rows > SHOWN else "")
    return "".join(parts)


def _samples(data: Index, count: int) -> str:
    from PIL import Image  # these are slow to import, and only the pictures need them

    from vidkd.data.decode import open_video

    boxes = []
    for row in show.unchanged(data, show.pick(data, count)):
        at = [round(i * (row["frames"] - 1) / (FRAMES - 1)) for i in range(FRAMES)]
        with open_video(data.root / row["path"]) as video:
            frames = video.get(at).permute(0, 2, 3, 1).numpy()
        images = []
        for frame in frames:
            image, file = Image.fromarray(frame), io.BytesIO()
            image.thumbnail((FRAME_PX * 2, FRAME_PX * 2))  # twice as many pixels as shown, for fine screens
            image.save(file, "JPEG", quality=80)
            images.append(f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'>")
        length = f"{row['frames'] / (row['fps'] or 1):.1f} s"
        words = f"{row['label'] or row['path']} · {length} · {row['width']} x {row['height']}"
        boxes.append(f"<div class=sample title='{_esc(row['path'])}'><div>{''.join(images)}</div>"
                     f"<span class=soft>{_esc(words)}</span></div>")  # fmt: skip
    return f"<h2>Some of them, from start to end</h2><div class=samples>{''.join(boxes)}</div>"


def _origin(data: Index) -> str:
    try:
        card: dict[str, Any] = json.loads((data.root / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    told = {key: card[key] for key in ("command", "licence", "settings", "versions", "notes") if card.get(key)}
    rows = ((key, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for key, v in told.items())
    return f"<h2>Where it comes from</h2>{_table(('', ''), rows)}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ("".join(_cell("td", cell) for cell in row) for row in rows)
    titles = "".join(_cell("th", name) for name in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(tag: str, text: str) -> str:
    """What is short stays on one line; a long path or sentence may be broken anywhere."""
    kept = ";white-space:nowrap" if len(text) <= SHORT else ""
    return f"<{tag} style='text-align:left{kept}'>{_esc(text)}</{tag}>"


def _good(data: Index) -> pa.Table:
    """What was measured of the videos that are ok."""
    ok = pc.equal(data.facts["status"], "ok")
    measured = data.facts.select(index_rows.MEASURED)
    return measured if pc.all(ok).as_py() else measured.filter(ok)  # which is a copy


def _seconds(table: pa.Table) -> np.ndarray:
    fps = table["fps"].to_numpy()
    return table["frames"].to_numpy() / np.where(fps > 0, fps, np.inf)


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _esc(text: object) -> str:
    return html.escape(str(text), quote=True)
