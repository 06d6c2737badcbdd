"""The same as a web page in one file, without any script: what is pointed at says what it is."""

import base64
import html
from collections.abc import Sequence

from torch import Tensor

from vidkd.data import jpeg
from vidkd.timeline import clock, ticks
from vidkd.timeline.events import Event, lanes, shade, strength

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing is ever fetched
CSS = """
:root{--paper:#fff;--lane:#f1f3f6;--ink:#1d2330;--soft:#566072;--rule:#dde1e7}
@media(prefers-color-scheme:dark){:root{--paper:#14171c;--lane:#1f242c;--ink:#e7e9ec;--soft:#a0a9b6;--rule:#363d48}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 48px;max-width:1180px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0}p{margin:.2rem 0 1.2rem;color:var(--soft);font-size:.9rem}
.time{display:grid;grid-template-columns:minmax(90px,180px) minmax(0,1fr);gap:6px 14px;align-items:center}
.film{display:flex;gap:2px;grid-column:2;border-radius:6px;overflow:hidden}
.film img{flex:1 1 0;min-width:0;height:clamp(48px,10vw,110px);object-fit:cover;display:block}
.name{font-size:.9rem;text-align:right;line-height:1.2}
.lane{position:relative;height:34px;background:var(--lane);border-radius:6px;overflow:hidden}
.bar{position:absolute;top:3px;bottom:3px;border-radius:4px;min-width:3px}
.bar:hover{outline:2px solid var(--ink)}
.ruler{position:relative;height:22px;grid-column:2;color:var(--soft);font-size:.78rem}
.ruler span{position:absolute;transform:translateX(-50%);white-space:nowrap;line-height:1.3}
.ruler span:first-child{transform:none}.ruler span.end{transform:translateX(-100%)}
table{border-collapse:collapse;margin-top:1.6rem;min-width:min(100%,560px);font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:600}th:nth-child(3),td:nth-child(3){text-align:left}
td i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:8px}
@media(max-width:640px){.time{grid-template-columns:1fr}.film,.ruler{grid-column:1}.name{text-align:left}}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def page(
    events: Sequence[Event], title: str, subtitle: str, frames: list[tuple[float, Tensor]], duration_s: float
) -> str:
    """The page: frames as (seconds, [3, h, w] uint8), a lane a class, and a table of all events."""
    names, more = lanes(events)
    rows = [_row(name, lane, events, duration_s) for lane, name in enumerate(names)]
    marks = "".join(_mark(t, duration_s) for t in ticks(duration_s))
    film = "".join(f'<img alt="at {clock(t)} s" title="{clock(t)} s" src="{_jpeg(frame)}">' for t, frame in frames)
    others = f"; {more} less certain classes are in the table alone" if more else ""
    body = (
        f"<h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}{others}</p>"
        f'<div class="time"><div class="film">{film}</div>{"".join(rows)}<div class="ruler">{marks}</div></div>'
        + (_table(events, names) if events else "<p>Nothing is sure enough.</p>")
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _row(name: str, lane: int, events: Sequence[Event], duration_s: float) -> str:
    bars = []
    for start, end, label, score in sorted(events, key=lambda event: event[3]):
        if label == name:
            place = f"left:{_share(start, duration_s)};width:{_share(end - start, duration_s)}"
            look = f"background:{shade(lane)};opacity:{strength(score):.2f}"
            told = html.escape(f"{name}: {clock(start)} to {clock(end)} s, {score:.1%}")
            bars.append(f'<div class="bar" style="{place};{look}" title="{told}"></div>')
    return f'<div class="name">{html.escape(name)}</div><div class="lane">{"".join(bars)}</div>'


def _table(events: Sequence[Event], names: list[str]) -> str:
    rows = "".join(
        f"<tr><td>{clock(start)}</td><td>{clock(end)}</td>"
        f'<td><i style="background:{shade(names.index(label) if label in names else len(names))}"></i>'
        f"{html.escape(label)}</td><td>{score:.1%}</td></tr>"
        for start, end, label, score in sorted(events)
    )
    head = "<tr><th>from, s</th><th>to, s</th><th>what</th><th>score</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _mark(t: float, duration_s: float) -> str:
    last = ' class="end"' if t > 0.98 * duration_s else ""  # or it would stand half outside
    return f'<span{last} style="left:{_share(t, duration_s)}">{clock(t)[:-3]}</span>'


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3f}%"


def _jpeg(frame: Tensor) -> str:
    encoded = jpeg.encode(frame.permute(1, 2, 0).numpy(), 85)
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
