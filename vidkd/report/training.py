"""The sections about the training itself: its curves, and where its time went."""

from collections.abc import Sequence

from vidkd.report import charts
from vidkd.report.charts import Bar
from vidkd.report.material import Cell, LeftOut, Material, Row
from vidkd.report.svg import esc
from vidkd.stopwatch import PARTS

REST = "other"


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


def time_spent(m: Material) -> str:
    """A bar a row: the seconds of a step, by what they were spent on, and what the run itself said of them."""
    bars, verdicts = [], []
    for row in (*m.first, *m.rows):
        if spent := _spent(row.cells):
            bars.append(Bar(row.name, spent))
        if said := next((cell.results["bottleneck"] for cell in row.cells if "bottleneck" in cell.results), ""):
            verdicts.append(f"<dt>{esc(row.name)}</dt><dd>{esc(said)}</dd>")
    if not bars:
        raise LeftOut(
            "no metrics.jsonl has the times of two logged steps (train.log_every_steps), or an older vidkd wrote it."
        )
    note = (
        '<p class="note">Mean over the logged steps of all seeds. Data: what the step waits for clips, not what '
        "making them costs; backward is the student’s and the methods’ together.</p>"
    )
    said = f"<dl>{''.join(verdicts)}</dl>" if verdicts else ""
    return note + charts.bars(bars, (*PARTS, REST), "Seconds of a training step by what they were spent on") + said


def _spent(cells: Sequence[Cell]) -> dict[str, float]:
    """Mean seconds of the parts of a step, without the first logged one of each run, which warms up; {} unknown."""
    lines = [x for cell in cells for x in [x for x in cell.metrics if "time/data_s" in x and "time/step_s" in x][1:]]
    if not lines:
        return {}
    spent = {part: sum(x.get(f"time/{part}_s", 0.0) for x in lines) / len(lines) for part in PARTS}
    step = sum(x["time/step_s"] for x in lines) / len(lines)
    return {part: s for part, s in spent.items() if s} | {REST: max(step - sum(spent.values()), 0.0)}
