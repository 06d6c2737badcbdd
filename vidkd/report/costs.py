"""The sections that set accuracy against what it costs: GMACs, clips a second, resolution and frames."""

from collections.abc import Iterable

from vidkd.report import charts, svg
from vidkd.report.charts import Better, Point
from vidkd.report.gains import capital
from vidkd.report.material import LeftOut, Material, Row
from vidkd.report.svg import esc

ROLES = {"baseline": "student alone", "distilled": "distilled", "alone": "another student alone", "teacher": "teacher"}
AXES: tuple[tuple[str, str, Better], ...] = (
    ("gmacs", "GMACs a clip, logarithmic", "less"),
    ("clips_per_s", "clips/s of the bare network, logarithmic", "more"),
)
Surface = dict[tuple[int, int], float]  # (frames, side in px) -> the figure, in 0..1


def cost(m: Material) -> str:
    """Accuracy over GMACs and over clips a second, with the rows that no other beats in both."""
    drawn = []
    for key, name, better in AXES:
        points = [
            Point(row.name, row.role, row.line[key], row.value, row.interval)
            for row in m.lines
            if row.value is not None and row.line.get(key)
        ]
        if len(points) >= 2:
            said = f"{capital(m.best.title)} over {name}"
            drawn.append(f"<div>{charts.scatter(points, said, name, better)}</div>")
    if not drawn:
        raise LeftOut("there is only one network to show.")
    legend = svg.legend((role, ROLES[role]) for role in dict.fromkeys(row.role for row in m.lines))
    crowd = " Points without a name say theirs when pointed at." if len(m.lines) > charts.NAMED else ""
    note = f'<p class="note">The line joins the rows that no other beats in both (the Pareto front).{crowd}</p>'
    return f'{legend}{note}<div class="pair">{"".join(drawn)}</div>'


def surface(m: Material) -> str:
    """The student's figure by resolution and frames: rows that were trained at each, and one student scored at others;
    "" where nothing varies."""
    parts = []
    for role, title in (("baseline", "Trained and scored at each size: alone"), ("distilled", "the same, distilled")):
        rows = [row for row in m.rows if row.role == role or (role == "baseline" and row.role == "alone")]
        for network, own in _by_network(rows).items():
            if len(found := _of_rows(own)) > 1:
                head = f"{title}, {network}"
                parts.append(f"<div><h3>{esc(head)}</h3>{charts.heat(found, said(found))}</div>")
    for row in dict.fromkeys(r for r in (m.baseline, m.best) if r is not None):
        if len(found := _probed(row)) > 1:
            title = f"{row.name}: trained at one size, scored at others"
            parts.append(f"<div><h3>{esc(title)}</h3>{charts.heat(found, said(found), _own(row))}</div>")
    if not parts:
        return ""
    note = f'<p class="note">{capital(m.best.title)} in %; framed: the size that it was trained at.</p>'
    return f'{note}<div class="pair">{"".join(parts)}</div>'


def said(found: Surface) -> str:
    """In words, for who cannot see it."""
    return "; ".join(f"{t} frames of {px} px: {value:.1%}" for (t, px), value in sorted(found.items()))


def _by_network(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each student: sizes of different networks are no surface of one."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        p = row.line.get("protocol", {})
        found.setdefault(" ".join([p.get("network", ""), *map(str, p.get("options", {}).values())]), []).append(row)
    return found


def _of_rows(rows: Iterable[Row]) -> Surface:
    """The best of the rows at each size."""
    found: Surface = {}
    for row in rows:
        if row.value is not None and "frames" in (p := row.line.get("protocol", {})):
            place = (p["frames"], p["size_px"])
            found[place] = max(found.get(place, 0.0), row.value)
    return found


def _probed(row: Row) -> Surface:
    """The mean over the seeds that vidkd.probe has scored at each size."""
    every: dict[tuple[int, int], list[float]] = {}
    for cell in row.cells:
        for entry in cell.probe:
            if entry["time"] == "as_is":
                every.setdefault((entry["frames"], entry["size_px"]), []).append(entry[row.primary])
    return {place: sum(values) / len(values) for place, values in every.items()}


def _own(row: Row) -> tuple[int, int] | None:
    p = row.line.get("protocol", {})
    return (p["frames"], p["size_px"]) if "frames" in p else None
