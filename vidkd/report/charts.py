"""The plots of the page, from numbers; all that is drawn is drawn by svg.py."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vidkd.report import svg
from vidkd.report.svg import Scale, esc

ROW_PX = 26
NAMED = 8  # points of a scatter whose names fit beside each other
MOST_LABELS = 40  # classes a confusion matrix names
POINTS = 120  # of a curve


@dataclass(frozen=True)
class Dots:
    """A line of a dot plot: shares in 0..1, each with the role that it is drawn as."""

    name: str
    dots: list[tuple[str, float]]
    whisker: tuple[float, float] | None = None
    light: list[float] = field(default_factory=list)  # single seeds
    value: str = ""  # written beside it
    tone: str = ""  # good, bad


def dot_rows(rows: Sequence[Dots], said: str, scale: Scale | None = None, unit: str = "%") -> str:
    """One line a row: name, dots over a common axis, value. An axis that holds negative numbers has its zero drawn."""
    every = [v for r in rows for v in (*(v for _, v in r.dots), *(r.whisker or ()), *r.light)]
    scale = scale or svg.shares(every)
    ticks = scale.ticks(5)
    lines = [_dot_row(row, scale, ticks) for row in rows]
    axis = "".join(svg.text(scale(v), 12, f"{100 * v:.0f}", "middle", kind="tick") for v in ticks)
    lines.append(f'<span class="none"></span><svg width="100%" height="18">{axis}</svg>')
    lines.append(f'<span class="tick unit">{unit}</span>')
    return f'<div class="dots" role="img" aria-label="{esc(said)}">{"".join(lines)}</div>'


def _dot_row(row: Dots, scale: Scale, ticks: list[float]) -> str:
    y = ROW_PX / 2
    drawn = [svg.line(scale(v), scale(v), 0, ROW_PX, "grid") for v in ticks]
    drawn += [svg.line(scale(0), scale(0), 0, ROW_PX, "zero")] if scale.low < 0 < scale.high else []
    role = row.dots[0][0] if row.dots else ""
    if row.whisker:
        low, high = (scale(v) for v in row.whisker)
        drawn.append(svg.line(low, high, y, y, f"whisker {role}"))
        drawn += [svg.line(x, x, y - 4, y + 4, f"whisker {role}") for x in (low, high)]
    elif len(row.dots) > 1:
        found = [scale(v) for _, v in row.dots]
        drawn.append(svg.line(min(found), max(found), y, y, "link"))
    drawn += [svg.mark(f"seed {role}", scale(v), y + 7, 2.5, f"one seed: {v:.1%}") for v in row.light]
    drawn += [svg.mark(r, scale(v), y, 5, f"{row.name}: {v:.1%}") for r, v in row.dots]
    return (
        f'<span class="name">{esc(row.name)}</span><svg width="100%" height="{ROW_PX}">{"".join(drawn)}</svg>'
        f'<span class="value {row.tone}">{esc(row.value)}</span>'
    )


@dataclass(frozen=True)
class Point:
    """Of a scatter plot."""

    name: str
    role: str
    x: float
    y: float
    whisker: tuple[float, float] | None = None


Better = Literal["less", "more"]


def front(points: Sequence[Point], better: Better) -> list[Point]:
    """The points that no other beats in both, from the cheapest to the best: less (or more) along x, more along y."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x if better == "less" else -p.x, -p.y)):
        if not kept or point.y > kept[-1].y:
            kept.append(point)
    return kept


def scatter(points: Sequence[Point], said: str, x_name: str, better: Better, height: float = 300) -> str:
    """Shares over positive numbers on a logarithmic axis, with the front.

    Of more than `NAMED` points, only the front, the teachers and the baseline have their name beside them.
    """
    xs = svg.positives(p.x for p in points)
    ys = svg.shares(v for p in points for v in (p.y, *(p.whisker or ())))
    drawn = [
        svg.grid_x(xs, height, [(v, svg.number(v)) for v in xs.ticks()]),
        svg.grid_y(ys, height, [(v, f"{100 * v:.0f} %") for v in ys.ticks()]),
        svg.text(50, height + 34, x_name, "middle", kind="tick"),
    ]

    def up(value: float) -> float:
        return height * (1 - ys(value) / 100)

    ahead = front(points, better)
    best = [(xs(p.x), ys(p.y)) for p in ahead]
    corners = [best[0], *(c for (_, low), (x, y) in itertools.pairwise(best) for c in ((x, low), (x, y)))]
    drawn.append(svg.stretched(svg.curve(corners, "front")))
    for p in points:
        if p.whisker:
            drawn.append(svg.line(xs(p.x), xs(p.x), up(p.whisker[0]), up(p.whisker[1]), f"whisker {p.role}"))
        drawn.append(svg.mark(p.role, xs(p.x), up(p.y), 6, f"{p.name}: {p.y:.1%}, {p.x:.3g} {x_name}"))
    crowd = len(points) > NAMED
    named = [p for p in points if not crowd or p in ahead or p.role in ("teacher", "baseline")]
    for on_left in (False, True):
        side = sorted((p for p in named if (xs(p.x) > 55) == on_left), key=lambda p: up(p.y))
        for p, y in zip(side, _apart([up(p.y) + 4 for p in side], 15, height), strict=True):
            share = xs(p.x) / 100 if on_left else 1 - xs(p.x) / 100
            name = svg.cut(p.name, int((share * svg.PHONE_PX - 12) / svg.LETTER_PX))
            drawn.append(svg.text(xs(p.x), y, name, "end" if on_left else "start", -12 if on_left else 12, "over"))
    return svg.plot("".join(drawn), height, said, (12, 14, 42, 44))


@dataclass(frozen=True)
class Bar:
    """A line of stacked bars: part -> seconds."""

    name: str
    parts: dict[str, float]


def bars(rows: Sequence[Bar], order: Sequence[str], said: str) -> str:
    """One bar a row over a common axis of seconds, cut into the parts in their order; the total beside it."""
    most = max(sum(row.parts.values()) for row in rows)
    lines = []
    for row in rows:
        at, drawn = 0.0, []
        for part in (p for p in order if p in row.parts):
            wide, seconds = 100 * row.parts[part] / most, row.parts[part]
            told = f"<title>{esc(part)}: {seconds:.3g} s, {seconds / sum(row.parts.values()):.0%}</title>"
            place = f'x="{at:.2f}%" y="4" width="{wide:.2f}%" height="{ROW_PX - 8}"'
            drawn.append(f'<rect class="part {part}" {place}>{told}</rect>')
            at += wide
        total = f"{1000 * sum(row.parts.values()):.0f} ms"
        lines.append(
            f'<span class="name">{esc(row.name)}</span><svg width="100%" height="{ROW_PX}">{"".join(drawn)}</svg>'
            f'<span class="value">{total}</span>'
        )
    there = [part for part in order if any(part in row.parts for row in rows)]
    box = '<svg width="14" height="14"><rect class="part {}" width="12" height="12" y="1"/></svg>'
    keys = "".join(f"<span>{box.format(part)} {part}</span>" for part in there)
    shares = "; ".join(f"{r.name}: {', '.join(f'{p} {s:.3g} s' for p, s in r.parts.items())}" for r in rows)
    legend = f'<p class="legend">{keys}</p>'
    return f'{legend}<div class="dots" role="img" aria-label="{esc(f"{said}. {shares}")}">{"".join(lines)}</div>'


def heat(cells: dict[tuple[int, int], float], said: str, own: tuple[int, int] | None = None) -> str:
    """Shares by (frames, side in px), as a table whose cells are the fuller the higher; `own` is framed."""
    frames, sides = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    low, high = min(cells.values()), max(cells.values())
    head = "".join(f"<th>{px} px</th>" for px in sides)
    body = ""
    for t in frames:
        line = ""
        for px in sides:
            value = cells.get((t, px))
            if value is None:
                line += "<td></td>"
                continue
            full = 8 + 52 * (value - low) / (high - low) if high > low else 30
            frame = " own" if (t, px) == own else ""
            line += f'<td class="warm{frame}" style="--full:{full:.0f}%">{100 * value:.1f}</td>'
        body += f"<tr><th>{t} frames</th>{line}</tr>"
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="heat" role="img" aria-label="{esc(said)}">{table}</div>'


def _apart(places: list[float], gap: float, end: float) -> list[float]:
    """The ascending places, moved so that no two are closer than `gap`, the last one before `end` where it can be."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    over = max(moved[-1] - end, 0) if moved else 0
    return [place - over for place in moved]


Curve = list[tuple[float, float]]  # (step, value)


def curves(title: str, seeds: Sequence[Curve], role: str, height: float = 110) -> str:
    """One light line a seed, and over them their mean, smoothed over a twentieth of the run."""
    clean = [[(x, y) for x, y in c if math.isfinite(y)] for c in seeds]
    clean = [c for c in clean if c]
    if not clean:
        return ""
    mean = _smooth(_mean(clean))
    xs = Scale(0, max(1, *(c[-1][0] for c in clean)))
    values = sorted(y for c in clean for _, y in c)
    low, high = min(values[0], 0.0), values[min(int(0.995 * len(values)), len(values) - 1)]  # a spike is not the curve
    ys = Scale(low, max(high, mean[0][1]) if high > low else low + 1)

    def place(curve: Curve) -> Curve:
        return [(xs(x), min(ys(y), 100)) for x, y in _thin(curve)]

    drawn = "".join(svg.curve(place(c), f"seed {role}") for c in clean) + svg.curve(place(mean), f"mean {role}")
    inside = (
        svg.grid_x(xs, height, [(v, svg.number(v)) for v in xs.ticks(3)])
        + svg.grid_y(ys, height, [(v, svg.number(v)) for v in ys.ticks(3)])
        + svg.stretched(drawn)
    )
    said = f"{title}: from {mean[0][1]:.3g} to {mean[-1][1]:.3g}"
    return f'<figure class="curve"><figcaption>{esc(title)}</figcaption>{svg.plot(inside, height, said)}</figure>'


def _mean(seeds: list[Curve]) -> Curve:
    """Over the seeds, at the steps that all of them have."""
    found = [dict(c) for c in seeds]
    steps = sorted(set.intersection(*(set(c) for c in found))) or sorted(found[0])
    return [(s, sum(c[s] for c in found if s in c) / sum(s in c for c in found)) for s in steps]


def _smooth(points: Curve) -> Curve:
    half = len(points) // 40
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(p[0], sum(y for _, y in w) / len(w)) for p, w in zip(points, windows, strict=True)]


def _thin(points: Curve) -> Curve:
    """At most POINTS of them, the last one included; each the mean of those it stands for."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0] if len(g) > 1 else g[0][0], sum(y for _, y in g) / len(g)) for g in groups]


def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str], said: str) -> str:
    """Rows are the true classes, columns the answers; each row as shares of its videos."""
    k = len(classes)
    cell = max(min(34.0, 440 / k), 4.0)
    named = k <= MOST_LABELS
    drawn = []
    for i, row in enumerate(matrix):
        total = sum(row)
        if named:
            drawn.append(svg.text(0, (i + 0.5) * cell + 4, svg.cut(classes[i], 14), "end", -6, "tick"))
        for j, count in enumerate(row):
            if total and (share := count / total) >= 0.005:
                told = f"<title>{esc(classes[i])} taken for {esc(classes[j])}: {share:.0%}</title>" if named else ""
                place = f'x="{100 * j / k:.2f}%" y="{i * cell:.1f}" width="{100 / k:.2f}%" height="{cell:.1f}"'
                kind = "right" if i == j else "wrong"
                drawn.append(f'<rect class="{kind}" {place} fill-opacity="{share**0.7:.2f}">{told}</rect>')
                if k <= 10:
                    tone = "on" if share > 0.55 else ""
                    drawn.append(svg.text(100 * (j + 0.5) / k, (i + 0.5) * cell + 4, f"{100 * share:.0f}", "middle",
                                          kind=f"tick {tone}"))  # fmt: skip
    if named:
        for j, name in enumerate(classes):
            turn = "rotate(-55)" if k <= 12 else "rotate(-90)"
            turned = f'<text class="tick" text-anchor="end" transform="{turn}" dy="{4 if k > 12 else 8}">'
            turned += f"{esc(svg.cut(name, 14))}</text>"
            drawn.append(f'<svg x="{100 * (j + 0.5) / k:.2f}%" y="{k * cell + 4:.1f}">{turned}</svg>')
    frame = f'<rect class="frame" x="0" y="0" width="100%" height="{k * cell:.1f}"/>'
    padding = (4, 8, 84, 96) if named else (4, 8, 8, 8)
    return svg.plot(frame + "".join(drawn), k * cell, said, padding)
