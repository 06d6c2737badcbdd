"""The sections of the page that are about figures. Each takes the Material and returns HTML, or raises LeftOut."""

import math
from typing import Any

from vidkd.report import charts, svg
from vidkd.report.charts import Dots, Point
from vidkd.report.material import Cell, LeftOut, Material, Row
from vidkd.report.svg import esc

ROLES = {"baseline": "student alone", "distilled": "distilled", "alone": "another student alone", "teacher": "teacher"}
MOST_CLASSES = 30  # of the per-class plot, before it shows only the ends
MOST_CONFUSION = 120  # classes, before the matrix is only its largest cells


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
    if m.teacher is not None:
        taught = m.teacher[m.best.primary]
        said += f" The teacher, {taught:.1%}, " + cheaper(m.teacher["cost"], line)
        fewer, less = (m.teacher["cost"][key] / line[key] for key in ("parameters", "gmacs"))
        tiles.append((f"{taught:.1%}", f"the teacher, {title}"))
        if min(fewer, less) > 1:
            tiles.append((f"{times(fewer)} ×", f"fewer parameters than the teacher, and {times(less)} × fewer GMACs"))
    boxes = "".join(f'<div class="tile"><b>{esc(a)}</b><span>{esc(b)}</span></div>' for a, b in tiles)
    return f'<p class="headline">{esc(said)}</p><div class="tiles">{boxes}</div>'


def _capital(title: str) -> str:
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
    if rivals := len([r for r in m.rows if r is not m.baseline]) - 1:
        said += f" This is the best of {rivals + 1} rows, “{m.best.name}”; being chosen flatters it."
    return said


def cheaper(teacher: dict[str, Any], student: dict[str, Any]) -> str:
    """What the student saves, or costs."""
    parameters, gmacs = (teacher[key] / student[key] for key in ("parameters", "gmacs"))
    return f"has {times(parameters)} times the parameters and needs {times(gmacs)} times the GMACs of the student."


def table(m: Material) -> str:
    """One line a row; on a phone, one card."""
    heads = (
        "",
        f"{m.best.title}, 95 % interval",
        "gain, points",
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
        cells = _cells(row)
        best = ' class="best"' if m.is_bench and row is m.best else ""
        told = "".join(f'<td data-of="{esc(h)}">{c}</td>' for h, c in zip(heads, cells, strict=True))
        body += f"<tr{best}>{told}</tr>"
    if not body:
        raise LeftOut("no run is finished.")
    head = "".join(f"<th>{esc(h)}</th>" for h in heads)
    speed = next((row.line["clips_per_s_is"] for row in m.lines if "clips_per_s_is" in row.line), "")
    note = "Intervals of rows: bootstrap over seeds and videos; of a single network: Wilson." if m.is_bench else ""
    note += f" clips/s: {speed}." if speed else ""
    return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p class="note">{esc(note)}</p>'


def _cells(row: Row) -> list[str]:
    """A row's cells, as HTML."""
    r, p = row.line, row.line.get("protocol", {})
    gain = f"{100 * r['gain']:+.1f}<small>{esc(points(r))}</small>" if "gain" in r else ""
    trained = duration(r["training_s"]) if r.get("training_s") else ""
    return [
        esc(row.name),
        f"{row.value:.1%}<small>{esc(share(*row.interval))}</small>",
        gain,
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
    what = _capital(m.best.title)
    note = f'<p class="note">{what}: the mean over seeds with its 95 % interval; small dots below are single seeds.</p>'
    return note + charts.dot_rows(rows, f"{what} of every row with its 95 % interval")


def cost(m: Material) -> str:
    """Accuracy over GMACs."""
    points = [
        Point(row.name, row.role, row.line["gmacs"], row.value, row.interval)
        for row in m.lines
        if row.value is not None and row.line.get("gmacs")
    ]
    if len(points) < 2:
        raise LeftOut("there is only one network to show.")
    drawn = charts.scatter(points, f"{_capital(m.best.title)} over GMACs of one clip", "GMACs a clip, logarithmic")
    return _legend(m) + drawn


def curves(m: Material) -> str:
    """Every loss term of every row, and what was measured on the val part on the way."""
    alone, parts = [], []
    for row in (*m.first, *m.rows):
        terms = _terms(row)
        if len(terms) == 1 and m.is_bench:
            alone.append(charts.curves(f"{row.name}: {_term(terms[0])}", _of(row, terms[0]), row.role))
        elif drawn := "".join(charts.curves(_term(name), _of(row, name), row.role) for name in terms):
            title = f"<h3>{esc(row.name)}</h3>" if m.is_bench else ""
            parts.append(f'{title}<div class="panels">{drawn}</div>')
    if any(alone):
        parts.insert(0, f'<div class="panels">{"".join(alone)}</div>')
    if not parts:
        raise LeftOut("there is no metrics.jsonl with losses.")
    strong = (
        "One light line a seed; the strong one is their mean, smoothed."
        if m.is_bench
        else "The strong line is smoothed."
    )
    note = f'<p class="note">{strong} Steps to the right; terms as they are before their weights, total after.</p>'
    return note + "".join(parts)


def _terms(row: Row) -> list[str]:
    found = {key for cell in row.cells for line in cell.metrics for key in line}
    losses = sorted(key for key in found if key.startswith("loss/"))
    if len(losses) == 2 and "loss/total" in losses:
        losses.remove("loss/total")  # it is the other one times its weight
    order = {"loss/total": 0, "loss/label": 1}
    losses.sort(key=lambda key: (order.get(key, 2), key))
    return losses + [key for key in (f"val/{row.primary}",) if key in found]


def _term(name: str) -> str:
    return name.removeprefix("loss/") if name.startswith("loss/") else f"{name} (accuracy)"


def _of(row: Row, name: str) -> list[charts.Curve]:
    return [[(float(x["step"]), float(x[name])) for x in cell.metrics if name in x] for cell in row.cells]


def per_class(m: Material) -> str:
    """Where the gain is: student alone, distilled and teacher for every class."""
    shown = _compared(m)
    found = {role: _class_shares(cells, who) for role, (cells, who) in shown.items()}
    found = {role: shares for role, shares in found.items() if shares}
    if not found:
        raise LeftOut("results.json has no figures by class.")
    roles = list(found)
    first, last = ("baseline", m.best.role) if m.is_bench and m.best.role in found else (roles[0], roles[0])
    names = [n for n in found[roles[0]] if all(n in found[role] for role in roles)]
    gain = {n: found[last][n] - found[first][n] for n in names}
    names.sort(key=lambda n: (-gain[n], n)) if last != first else names.sort(key=lambda n: -found[first][n])
    rows = []
    for n in names:
        value = f"{100 * gain[n]:+.0f}" if last != first else f"{found[first][n]:.0%}"
        tone = "" if last == first or abs(gain[n]) < 0.005 else ("good" if gain[n] > 0 else "bad")
        rows.append(Dots(n, [(role, found[role][n]) for role in reversed(roles)], value=value, tone=tone))
    scale, said = svg.Scale(0, 1), "Accuracy by class"
    note = "Mean over seeds, sorted by the gain in points (right)." if last != first else ""
    head = f'{_key(roles, m)}<p class="note">{note}</p>'
    if len(rows) <= MOST_CLASSES:
        return head + charts.dot_rows(rows, said, scale)
    ends = charts.dot_rows(rows[:10], said, scale), charts.dot_rows(rows[-10:], said, scale)
    middle = charts.dot_rows(rows[10:-10], said, scale)
    return f"{head}{ends[0]}<details><summary>{len(rows) - 20} between</summary>{middle}</details>{ends[1]}"


def _compared(m: Material) -> dict[str, tuple[tuple[Cell, ...], str]]:
    """Role -> the runs it is read from, and whose figures in them."""
    shown: dict[str, tuple[tuple[Cell, ...], str]] = {}
    if m.baseline is not None:
        shown["baseline"] = (m.baseline.cells, "student")
    shown.setdefault(m.best.role, (m.best.cells, "student"))
    if m.teacher is not None:
        shown["teacher"] = (m.best.cells, "teacher")
    return shown


def _class_shares(cells: tuple[Cell, ...], who: str) -> dict[str, float]:
    """The mean over the runs of the share of each class that is right; classes without videos are not in it."""
    every: dict[str, list[float]] = {}
    for cell in cells:
        for entry in cell.results.get(who, {}).get("per_class", []):
            if entry["accuracy"] is not None:
                every.setdefault(entry["class"], []).append(entry["accuracy"])
    return {name: sum(values) / len(values) for name, values in every.items()}


def confusion(m: Material) -> str:
    """What is taken for what, without and with distillation."""
    parts = []
    for row in dict.fromkeys(r.name for r in (m.baseline, m.best) if r is not None):
        own = next(r for r in m.rows if r.name == row)
        figures = [c.results["student"] for c in own.cells if "confusion" in c.results.get("student", {})]
        if not figures:
            continue
        classes = [entry["class"] for entry in figures[0]["per_class"]]
        mean = [[sum(f["confusion"][i][j] for f in figures) / len(figures) for j in range(len(classes))]
                for i in range(len(classes))]  # fmt: skip
        matrix = charts.confusion(mean, classes, f"Confusion matrix of {row}") if len(classes) <= MOST_CONFUSION else ""
        title = f"<h3>{esc(row)}</h3>" if m.is_bench else ""
        parts.append(f"<div>{title}{matrix}{_mistakes(mean, classes)}</div>")
    if not parts:
        raise LeftOut("results.json has no confusion matrix.")
    seeds = ", mean over seeds" if m.is_bench else ""
    note = f'<p class="note">Lines: the true class; columns: the answer; in % of the line’s videos{seeds}.</p>'
    return f'{note}<div class="pair">{"".join(parts)}</div>'


def _mistakes(matrix: list[list[float]], classes: list[str], most: int = 3) -> str:
    """The largest shares off the diagonal, in words."""
    k = range(len(classes))
    cells = [(matrix[i][j] / sum(matrix[i]), i, j) for i in k for j in k if i != j and matrix[i][j] > 0]
    worst = sorted(cells, reverse=True)[:most]
    said = "; ".join(f"{classes[i]} taken for {classes[j]} ({s:.0%})" for s, i, j in worst)
    return f'<p class="note">Most often: {esc(said)}.</p>' if said else ""


def _legend(m: Material) -> str:
    return svg.legend((role, ROLES[role]) for role in dict.fromkeys(row.role for row in m.lines))


def _key(roles: list[str], m: Material) -> str:
    """A legend with the names of the rows where a role is one row."""
    names = {"teacher": "teacher", m.best.role: m.best.name}
    if m.baseline is not None:
        names["baseline"] = m.baseline.name
    return svg.legend((role, names[role]) for role in roles)


def points(line: dict[str, Any]) -> str:
    return f"{100 * line['gain_low']:+.1f} to {100 * line['gain_high']:+.1f}"


def share(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def times(factor: float) -> str:
    """How many times: two digits that count."""
    return f"{factor:.{1 if factor < 10 else 0}f}" if math.isfinite(factor) else "?"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
