"""Plots by hand, as SVG inside HTML, that are fluid: places are percent of the width, text and marks are pixels.

So a plot is as wide as its column, on a phone and on paper, and its text keeps its size. Colours are CSS classes, so
that light, dark and print are the page's business. What lies outside of the plot's box (labels of axes) is drawn into
its padding: overflow is visible.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LETTER_PX = 6.4  # mean width of a letter of the 12 px text
PHONE_PX = 270  # a plot is that wide at least


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


@dataclass(frozen=True)
class Scale:
    """Numbers to percent of the width (or height)."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        a, b, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return 100 * (v - a) / (b - a)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers inside."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = math.log10(self.high / self.low)
            found = [
                m * 10.0**d for d in decades for m in ((1, 2, 5) if wide < 1.5 else (1, 3) if wide < 2.5 else (1,))
            ]
        else:
            step = nice_step((self.high - self.low) / about)
            found = [
                i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        room = 1e-9 * (self.high - self.low)
        return [v for v in found if self.low - room <= v <= self.high + room]


def cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def nice_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def shares(values: Iterable[float | None]) -> Scale:
    """A scale for shares in 0..1 that leaves some room and ends on tenths (twentieths where they lie close)."""
    known = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    step = 0.1 if max(known) - min(known) > 0.15 else 0.05
    low, high = math.floor(min(known) / step - 0.1) * step, math.ceil(max(known) / step + 0.1) * step
    return Scale(max(low, 0.0), min(max(high, low + step), 1.0))


def positives(values: Iterable[float]) -> Scale:
    """A logarithmic scale with room at both ends."""
    known = [v for v in values if v > 0] or [1.0]
    return Scale(min(known) / 1.6, max(known) * 1.6, log=True)


def number(value: float) -> str:
    """For an axis: 0.05, 2, 300, 20k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def line(x1: float, x2: float, y1: float, y2: float, kind: str) -> str:
    """x in percent, y in pixels."""
    return f'<line class="{kind}" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def mark(role: str, x: float, y: float, radius: float = 5, title: str = "") -> str:
    """A role has a shape and a colour: the baseline a ring, a teacher a diamond, everything else a disc."""
    told = f"<title>{esc(title)}</title>" if title else ""
    if role == "teacher":
        d = f"M0 {-radius * 1.25:g}L{radius * 1.25:g} 0L0 {radius * 1.25:g}L{-radius * 1.25:g} 0z"
        return f'<svg x="{x:.2f}%" y="{y:.1f}"><path class="mark {role}" d="{d}">{told}</path></svg>'
    return f'<circle class="mark {role}" cx="{x:.2f}%" cy="{y:.1f}" r="{radius:g}">{told}</circle>'


def text(x: float, y: float, said: str, anchor: str = "start", dx: float = 0, kind: str = "") -> str:
    """x in percent plus `dx` pixels, y in pixels (the baseline of the letters)."""
    return f'<text class="{kind}" x="{x:.2f}%" y="{y:.1f}" dx="{dx:g}" text-anchor="{anchor}">{esc(said)}</text>'


def curve(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A polyline; x and y both in percent of the plot, y upwards."""
    path = " ".join(f"{x:.1f},{100 - y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def stretched(curves: str) -> str:
    """Curves, stretched to the whole plot."""
    return f'<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{curves}</svg>'


def plot(inside: str, height: float, said: str, padding: tuple[int, int, int, int] = (8, 14, 24, 44)) -> str:
    """`said` describes it to who cannot see it; padding (top, right, bottom, left) in pixels holds the labels."""
    room = " ".join(f"{p}px" for p in padding)
    return (
        f'<div class="plot" style="padding:{room}">'
        f'<svg role="img" aria-label="{esc(said)}" width="100%" height="{height:g}">{inside}</svg></div>'
    )


def grid_x(scale: Scale, height: float, labels: Iterable[tuple[float, str]]) -> str:
    """Vertical lines, with their labels under the plot."""
    marks = [
        line(scale(v), scale(v), 0, height, "grid") + text(scale(v), height + 16, said, "middle", kind="tick")
        for v, said in labels
    ]
    return "".join(marks)


def grid_y(scale: Scale, height: float, labels: Iterable[tuple[float, str]]) -> str:
    """Horizontal lines, with their labels left of the plot."""
    marks = []
    for v, said in labels:
        y = height * (1 - scale(v) / 100)
        marks.append(line(0, 100, y, y, "grid") + text(0, y + 4, said, "end", -6, "tick"))
    return "".join(marks)


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """(role, name) pairs."""
    items = "".join(
        f'<span><svg width="14" height="14">{mark(role, 50, 7)}</svg> {esc(name)}</span>' for role, name in entries
    )
    return f'<p class="legend">{items}</p>'
