"""The sections about what was gained: in words, as a table, and every row with its seeds."""

import math
from typing import Any

from vidkd.report import charts
from vidkd.report.charts import Dots
from vidkd.report.material import LeftOut, Material, Row
from vidkd.report.svg import esc


def headline(m: Material) -> str:
    """What was gained, in a sentence and in four numbers."""
    line, title, value = m.best.line, m.best.title, m.best.value
    if value is None:
        return f'<p class="headline">{esc(_unfinished(m))}</p>'
    said, tiles = "", []
    if m.baseline is not None and "gain" in line:
        base = m.baseline.value
        said += _gained(m, base)
        tiles += [(f"{base:.1%}", f"{m.baseline.name}, {title}"), (f"{value:.1%}", f"{m.best.name}, {title}")]
        tiles.append((f"{100 * line['gain']:+.1f}", f"points gained, 95 % interval {points(line)}"))
    else:
        said += f"{m.best.name}: {title} {value:.1%} (95 % interval {share(*m.best.interval)})."
        tiles.append((f"{value:.1%}", f"{m.best.name}, {title}"))
    if (teacher := m.teachers.get(m.best.name)) is not None:
        taught, cost = teacher.value, teacher.line
        who = f"Its teacher, “{teacher.name}”" if m.several_teachers else "The teacher"
        said += f" {who}, {taught:.1%}, " + cheaper(cost, line)
        fewer, less = (cost[key] / line[key] for key in ("parameters", "gmacs"))
        tiles.append((f"{taught:.1%}", f"{teacher.name if m.several_teachers else 'the teacher'}, {title}"))
        if min(fewer, less) > 1:
            tiles.append((f"{times(fewer)} ×", f"fewer parameters than its teacher, and {times(less)} × fewer GMACs"))
    boxes = "".join(f'<div class="tile"><b>{esc(a)}</b><span>{esc(b)}</span></div>' for a, b in tiles)
    return f'<p class="headline">{esc(said)}</p><div class="tiles">{boxes}</div>'


def capital(title: str) -> str:
    """The title as a sentence begins; mAP stays mAP."""
    return title[0].upper() + title[1:] if title[1:].islower() or "-" in title else title


def _unfinished(m: Material) -> str:
    logged = max((x["step"] for cell in m.best.cells for x in cell.metrics), default=0)
    if any(cell.results for cell in m.best.cells):
        return "Its results hold no figure to head this page."
    return f"This run is not finished: {logged} steps are logged. The figures come when it is."


def _gained(m: Material, base: float) -> str:
    line = m.best.line
    moved = "lifted" if line["gain"] >= 0 else "lowered"
    word = "gain" if line["gain"] >= 0 else "loss"
    how = "Distillation" if m.best.role == "distilled" else f"“{m.best.name}”"
    said = (
        f"{how} {moved} the student from {base:.1%} to {m.best.value:.1%} {m.best.title}: a {word} of "
        f"{abs(100 * line['gain']):.1f} points (95 % interval {points(line)}, over seeds and videos)."
    )
    if line["gain_low"] <= 0 <= line["gain_high"]:
        said += " The interval holds zero: the difference may be chance."
    if rivals := len([r for r in m.rows if r.role != "baseline"]) - 1:
        said += f" This is the best of {rivals + 1} rows, “{m.best.name}”; being chosen flatters it."
    return said


def cheaper(teacher: dict[str, Any], student: dict[str, Any]) -> str:
    """What the student saves, or costs."""
    parameters, gmacs = (_as_many(teacher[key] / student[key]) for key in ("parameters", "gmacs"))
    return f"has {parameters} parameters and needs {gmacs} GMACs as the student."


def _as_many(factor: float) -> str:
    return "as many" if times(factor) == "1.0" else f"{times(factor)} times as many"


def table(m: Material) -> str:
    """One line a row; on a phone, one card."""
    heads = (
        "",
        f"{m.best.title}, 95 % interval",
        "gain, points",
        "% of the teacher gap recovered",
        "parameters",
        "GMACs",
        "clips/s",
        "training",
        "seeds",
        "input",
    )
    body = ""
    for row in m.lines:
        if row.value is None:
            continue
        cells = _cells(row, m)
        best = ' class="best"' if m.is_bench and row is m.best else ""
        told = "".join(f'<td data-of="{esc(h)}">{c}</td>' for h, c in zip(heads, cells, strict=True))
        body += f"<tr{best}>{told}</tr>"
    if not body:
        raise LeftOut("no run is finished.")
    head = "".join(f"<th>{esc(h)}</th>" for h in heads)
    speed = next((row.line["clips_per_s_is"] for row in m.lines if "clips_per_s_is" in row.line), "")
    note = "Intervals of rows: bootstrap over seeds and videos." if m.is_bench else ""
    if m.best.primary == "top1" and not (m.is_bench and all(row.cells for row in m.lines)):
        note += " Intervals of a single network: Wilson."
    note += f" clips/s: {speed}." if speed else ""
    if m.several_teachers and len(taught := {row.name for row in m.teachers.values()}) == 1:
        note += f" The gap is that to “{taught.pop()}”, which taught every distilled row."
    drawn = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p class="note">{esc(note)}</p>'
    return drawn + "".join(f'<p class="note bad">{esc(line)}</p>' for line in careful(m))


def careful(m: Material) -> list[str]:
    """What a reader has to know of the lines: rows whose runs have gone since, or had another budget."""
    gone = [row for row in (*m.first, *m.rows) if row.unfinished > 0]
    said = [
        f"“{row.name}”: the line is of {row.line['seeds']} runs, of which {row.unfinished} are no longer here or not "
        "finished; python -m vidkd.bench makes the table anew."
        for row in gone
    ]
    return said + [f"“{row.name}” {row.line['unequal']}." for row in m.rows if "unequal" in row.line]


def _cells(row: Row, m: Material) -> list[str]:
    """A row's cells, as HTML."""
    r, p = row.line, row.line.get("protocol", {})
    gain = f"{100 * r['gain']:+.1f}<small>{esc(points(r))}</small>" if "gain" in r else ""
    trained = duration(r["training_s"]) if r.get("training_s") else ""
    return [
        esc(row.name),
        f"{row.value:.1%}<small>{esc(share(*row.interval))}</small>",
        gain,
        recovered(r) + _from(row, m),
        f"{r['parameters']:,}" if "parameters" in r else "",
        f"{r['gmacs']:.3g}" if "gmacs" in r else "",
        f"{r['clips_per_s']:.0f}" if "clips_per_s" in r else "",
        trained,
        esc(r.get("seeds", "")),
        f"{p['frames']}×{p['size_px']}×{p['size_px']}" if "frames" in p else "",
    ]


def accuracy(m: Material) -> str:
    """Every row with its interval and its seeds."""
    rows = []
    for row in m.lines:
        if row.value is None:
            continue
        seeds = [c.results["student"][row.primary] for c in row.cells if "student" in c.results]
        low, high = row.interval
        whisker = None if low is None else (low, high)
        rows.append(
            Dots(row.name, [(row.role, row.value)], whisker, seeds if len(seeds) > 1 else [], f"{row.value:.1%}")
        )
    if not rows:
        raise LeftOut("no run is finished.")
    what = capital(m.best.title)
    note = f'<p class="note">{what}: the mean over seeds with its 95 % interval; small dots below are single seeds.</p>'
    return note + charts.dot_rows(rows, f"{what} of every row with its 95 % interval")


def points(line: dict[str, Any]) -> str:
    return f"{100 * line['gain_low']:+.1f} to {100 * line['gain_high']:+.1f}"


def recovered(line: dict[str, Any]) -> str:
    """Of the teacher's lead over the baseline; "" where there is no such share."""
    if "recovered" not in line:
        return ""
    between = share(line["recovered_low"], line["recovered_high"])
    return f"{100 * line['recovered']:.0f}<small>{esc(between)}</small>"


def _from(row: Row, m: Material) -> str:
    """Whose lead the share is of, where rows have different teachers."""
    if (
        "recovered" not in row.line
        or len({each.name for each in m.teachers.values()}) < 2
        or row.name not in m.teachers
    ):
        return ""
    return f"<small>of {esc(m.teachers[row.name].name)}</small>"


def share(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def times(factor: float) -> str:
    """How many times: two digits that count."""
    return f"{factor:.{1 if factor < 10 else 0}f}" if math.isfinite(factor) else "?"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
