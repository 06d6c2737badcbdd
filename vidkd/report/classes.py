"""The sections about classes: where the gain is, and what is taken for what."""

import numpy as np

from vidkd import intervals
from vidkd.report import charts, svg
from vidkd.report.charts import Dots
from vidkd.report.material import Cell, LeftOut, Material
from vidkd.report.svg import esc
from vidkd.report.videos import stack_of

MOST_CLASSES = 30  # of a per-class plot, before it shows only the ends
MOST_CONFUSION = 120  # classes, before the matrix is only its largest cells


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
    note = "" if "confusion" in m.best.figures else "Average precision. "
    note += "Mean over seeds, sorted by the gain in points (right)." if last != first else ""
    head = f'{_key(roles, m)}<p class="note">{note}</p>'
    return head + folded(rows, said, scale)


def _compared(m: Material) -> dict[str, tuple[tuple[Cell, ...], str]]:
    """Role -> the runs it is read from, and whose figures in them."""
    shown: dict[str, tuple[tuple[Cell, ...], str]] = {}
    if m.baseline is not None:
        shown["baseline"] = (m.baseline.cells, "student")
    shown.setdefault(m.best.role, (m.best.cells, "student"))
    if m.best.taught_by is not None:
        shown["teacher"] = (m.best.cells, "teacher")
    return shown


def _class_shares(cells: tuple[Cell, ...], who: str) -> dict[str, float]:
    """The mean over the runs of the share of each class that is right, of a detector its average precision; classes
    without videos are not in it."""
    every: dict[str, list[float]] = {}
    for cell in cells:
        for entry in cell.results.get(who, {}).get("per_class", []):
            if (share := entry["ap" if "ap" in entry else "accuracy"]) is not None:
                every.setdefault(entry["class"], []).append(share)
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
        raise LeftOut("results.json has no confusion matrix (a detector has none).")
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


def _key(roles: list[str], m: Material) -> str:
    """A legend with the names of the rows where a role is one row."""
    names = {"teacher": m.teachers[m.best.name].name if m.several_teachers else "teacher", m.best.role: m.best.name}
    if m.baseline is not None:
        names["baseline"] = m.baseline.name
    return svg.legend((role, names[role]) for role in roles)


def gain(m: Material) -> str:
    """The gain of every class with its interval: over seeds, and over the videos of the class; "" without a gain."""
    if m.baseline is None or m.best is m.baseline:
        return ""
    before, after = stack_of(m.baseline, "student"), stack_of(m.best, "student")
    if before.names != after.names:
        raise LeftOut("the rows were not scored on the same videos.")
    labels, found = np.array(after.labels), []
    for name in sorted(set(after.labels)):
        own = labels == name
        found.append((name, int(own.sum()), intervals.mean_gain_interval(after.right[:, own], before.right[:, own])))
    found.sort(key=lambda entry: -entry[2].mean)
    rows, sure = [], 0
    for name, n, value in found:
        clear = value.low > 0 or value.high < 0
        sure += clear
        tone = "" if not clear else ("good" if value.mean > 0 else "bad")
        said = f"{100 * value.mean:+.0f} [{100 * value.low:+.0f}, {100 * value.high:+.0f}]"
        dots = [(m.best.role, value.mean)]
        rows.append(Dots(f"{name} ({n})", dots, (value.low, value.high), value=said, tone=tone))
    lowest, highest = min(v.low for _, _, v in found), max(v.high for _, _, v in found)
    scale = svg.Scale(min(np.floor(10 * lowest) / 10, -0.1), max(np.ceil(10 * highest) / 10, 0.1))
    note = (
        f"Points that {m.best.name} has over {m.baseline.name}, with 95 % intervals over seeds and the videos of the "
        f"class (their number in brackets). {sure} of {len(found)} exclude zero; one in twenty would by chance."
    )
    head = f'<p class="note">{esc(note)}</p>'
    return head + folded(rows, "Gain by class with its 95 % interval", scale, "points")


def folded(rows: list[Dots], said: str, scale: svg.Scale, unit: str = "%") -> str:
    """The plot, its middle folded where it is long."""
    if len(rows) <= MOST_CLASSES:
        return charts.dot_rows(rows, said, scale, unit)
    ends = [charts.dot_rows(part, said, scale, unit) for part in (rows[:10], rows[10:-10], rows[-10:])]
    return f"{ends[0]}<details><summary>{len(rows) - 20} between</summary>{ends[1]}</details>{ends[2]}"
