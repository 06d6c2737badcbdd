"""When each action begins and ends, as a picture: one lane a class, one bar a detection, below frames of the video."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vidkd.timeline import COLORS, FAINT, INK, OTHER, clock, film_strip, png, time_axis

Event = tuple[float, float, str, float]  # start_s, end_s, class, score
LANES = 10  # classes that are drawn, those with the surest detections
LETTERS = 118  # of a bar's text, fit side by side over the whole width


def lanes(events: Sequence[Event]) -> tuple[list[str], int]:
    """The classes to draw, by the time of their first detection, and how many there were besides."""
    best: dict[str, float] = {}
    for *_, label, score in events:
        best[label] = max(best.get(label, 0.0), score)
    chosen = sorted(best, key=lambda name: -best[name])[:LANES]
    first = {name: min(start for start, _, label, _ in events if label == name) for name in chosen}
    return sorted(chosen, key=lambda name: first[name]), len(best) - len(chosen)


def shade(lane: int) -> str:
    """The colour of a lane."""
    return COLORS[lane] if lane < len(COLORS) else OTHER


def picture(
    events: Sequence[Event], title: str, subtitle: str, frames: list[tuple[float, Tensor]], duration_s: float
) -> bytes:
    """A PNG of the events over time; `frames` of the video as (seconds, [3, h, w] uint8). The surer, the stronger."""
    names, more = lanes(events)
    height = 2.9 + 0.46 * max(len(names), 1)

    def draw(figure: Any) -> None:
        top, bottom = 1 - 0.75 / height, 0.55 / height
        film, axes = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1.35, 0.46 * max(len(names), 1)]})
        figure.subplots_adjust(left=0.17, right=0.975, top=top, bottom=bottom, hspace=0.04)
        figure.text(0.025, 1 - 0.38 / height, title, fontsize=15, fontweight="bold", color=INK)
        others = f"; {more} less certain classes are not drawn" if more else ""
        figure.text(0.025, 1 - 0.62 / height, subtitle + others, fontsize=10, color=FAINT)
        film_strip(film, frames, duration_s)
        _lanes(axes, events, names, duration_s)

    return png(draw, height)


def _lanes(axes: Any, events: Sequence[Event], names: list[str], duration_s: float) -> None:
    for lane in range(max(len(names), 1)):
        axes.axhspan(lane - 0.36, lane + 0.36, color="#F3F4F6", linewidth=0)
    for start, end, label, score in sorted(events, key=lambda event: event[3]):  # the surest on top
        if label in names:
            lane = names.index(label)
            axes.barh(lane, end - start, 0.72, start, color=shade(lane), alpha=strength(score), linewidth=0)
            axes.plot([start, end], [lane, lane], "|", color=shade(lane), markersize=19, markeredgewidth=1.6)
            said = f"{clock(start)} to {clock(end)} s, {score:.0%}"
            room = (end - start) / duration_s * LETTERS if _on_top(events, (start, end, label, score)) else 0
            text = next((t for t in (said, f"{score:.0%}") if room > len(t) + 1), "")
            ink = "white" if strength(score) > 0.6 else INK
            axes.text((start + end) / 2, lane, text, ha="center", va="center", fontsize=9, color=ink)
    if not names:
        axes.text(duration_s / 2, 0, "nothing is sure enough", ha="center", va="center", color=FAINT)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [name if len(name) <= 22 else f"{name[:21]}…" for name in names])
    axes.tick_params(colors=INK, length=0)
    axes.tick_params(axis="x", colors=FAINT)
    time_axis(axes, duration_s)


def _on_top(events: Sequence[Event], event: Event) -> bool:
    """Whether no surer bar of the lane covers any of it."""
    start, end, label, score = event
    return not any(k == label and p > score and s < end and start < e for s, e, k, p in events)


def strength(score: float) -> float:
    """How opaque a bar of that score is: 0.15 to 1."""
    return 0.15 + 0.85 * min(max(score, 0.0), 1.0)
