"""What a student says of a video over time, as text and as a picture."""

import io
import math
import string
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SYMBOLS = string.ascii_uppercase + string.ascii_lowercase + string.digits
BLOCKS = " ▁▂▃▄▅▆▇█"
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#9A8700")  # told apart by everyone
OTHER = "#B9BEC4"
INK, FAINT = "#22262B", "#6B7280"


@dataclass(frozen=True)
class Timeline:
    """Class probabilities [n, K] of n windows, window i from start_s[i] to end_s[i]; both ascending."""

    classes: tuple[str, ...]
    start_s: Tensor  # [n] float64
    end_s: Tensor
    probabilities: Tensor  # [n, K] float64
    duration_s: float

    def overall(self) -> Tensor:
        """[K]: the mean over all windows."""
        return self.probabilities.mean(dim=0)

    def ruling(self, slots: int) -> tuple[Tensor, Tensor]:
        """Of each of `slots` equal parts of the video: the class with the highest mean probability over the windows
        that overlap it (-1 where none does), and that probability; both [slots]."""
        edges = torch.linspace(0, self.duration_s, slots + 1, dtype=torch.float64)
        first = torch.searchsorted(self.end_s, edges[:-1], right=True)
        after = torch.searchsorted(self.start_s, edges[1:])
        nothing = torch.zeros(1, len(self.classes), dtype=torch.float64)
        sums = torch.cat([nothing, self.probabilities.cumsum(dim=0)])
        n = (after - first).clamp(min=0)
        mean = (sums[after] - sums[first]) / n.clamp(min=1)[:, None]
        best, which = mean.max(dim=1)
        return torch.where(n > 0, which, -1), torch.where(n > 0, best.clamp(0, 1), 0.0)

    def leaders(self, slots: int) -> list[tuple[int, float]]:
        """Every class that rules somewhere and its share of the looked-at time, the longest first."""
        ruling = self.ruling(slots)[0]
        seen = ruling[ruling >= 0]
        counts = torch.bincount(seen, minlength=len(self.classes))
        order = counts.sort(descending=True, stable=True).indices.tolist()
        return [(k, int(counts[k]) / max(len(seen), 1)) for k in order if counts[k]]

    def stretches(self, slots: int) -> list[tuple[int, int, int, float]]:
        """(first slot, slot after the last, class, mean certainty) of every stretch of time that one class rules."""
        which, sure = self.ruling(slots)
        runs, counts = which.unique_consecutive(return_counts=True)
        ends = counts.cumsum(dim=0).tolist()
        spans = zip([0, *ends[:-1]], ends, runs.tolist(), strict=True)
        return [(start, end, k, float(sure[start:end].mean())) for start, end, k in spans if k >= 0]

    def top(self, row: Tensor, count: int) -> list[tuple[str, float]]:
        """The best `count` classes of one row [K] of probabilities."""
        values, order = row.sort(descending=True, stable=True)
        return [(self.classes[k], p) for k, p in zip(order[:count].tolist(), values[:count].tolist(), strict=True)]


def of_events(
    classes: tuple[str, ...], events: list[tuple[float, float, str, float]], duration_s: float, slots: int = 600
) -> Timeline:
    """Events (start_s, end_s, class, score) as a line of time: of each of `slots` parts of the video, the highest score
    of each class that reaches into it. Where nothing happens is not on it; all of it is where there are no events."""
    edges = torch.linspace(0, duration_s, slots + 1, dtype=torch.float64)
    table = torch.zeros(slots, len(classes), dtype=torch.float64)
    number = {name: k for k, name in enumerate(classes)}
    for start, end, label, score in events:
        inside = (edges[1:] > start) & (edges[:-1] < end)
        table[inside, number[label]] = table[inside, number[label]].clamp(min=score)
    covered = table.amax(dim=1) > 0
    covered |= ~covered.any()
    return Timeline(classes, edges[:-1][covered], edges[1:][covered], table[covered], duration_s)


def clock(seconds: float) -> str:
    """12.34, 3:05.20, 1:02:03.00"""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest / 100:05.2f}"
    return f"{minutes}:{rest / 100:05.2f}" if minutes else f"{rest / 100:.2f}"


def text_bar(timeline: Timeline, width: int = 72) -> list[str]:
    """One letter a slot for the ruling class, how sure it is below, and what the letters mean."""
    which, sure = timeline.ruling(width)
    leaders = timeline.leaders(width)
    symbol = {k: SYMBOLS[i] if i < len(SYMBOLS) else "?" for i, (k, _) in enumerate(leaders)} | {-1: "."}
    end = clock(timeline.duration_s) + " s"
    lines = [
        "0 s".ljust(width - len(end)) + end,
        "".join(symbol[k] for k in which.tolist()),
        "".join(BLOCKS[math.ceil(p * 8)] for p in sure.tolist()),
    ]
    shown = leaders[: len(SYMBOLS)]
    lines += [f"  {symbol[k]}  {timeline.classes[k]}, {share:.0%} of the time" for k, share in shown]
    if len(leaders) > len(shown):
        lines.append(f"  ?  {len(leaders) - len(shown)} other classes")
    return lines + (["  .  not looked at"] if -1 in which else [])


def picture(timeline: Timeline, title: str, subtitle: str, frames: list[tuple[float, Tensor]]) -> bytes:
    """A PNG: frames of the video (their seconds and [3, h, w] uint8), the ruling class, the probabilities over time."""
    return png(lambda figure: _draw(figure, timeline, title, subtitle, frames), 6.4)


def png(draw: Callable[[Any], None], height: float) -> bytes:
    """What `draw` puts on a matplotlib figure of 12 x `height` inches, at 150 px an inch."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a $ in a name is a $
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(12, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png")
    return out.getvalue()


def _draw(figure: Any, timeline: Timeline, title: str, subtitle: str, frames: list[tuple[float, Tensor]]) -> None:
    film, bar, lines = figure.subplots(
        3, 1, gridspec_kw={"height_ratios": [2.2, 0.55, 3.6], "hspace": 0.12, "left": 0.065, "right": 0.975}
    )
    figure.subplots_adjust(top=0.86, bottom=0.19)
    figure.text(0.065, 0.945, title, fontsize=15, fontweight="bold", color=INK)
    figure.text(0.065, 0.9, subtitle, fontsize=10, color=FAINT)
    slots = 600
    shown = [k for k, _ in timeline.leaders(slots)[: len(COLORS)]]
    for k in timeline.overall().sort(descending=True, stable=True).indices.tolist():  # more to compare with
        if len(shown) < min(5, len(timeline.classes)) and k not in shown:
            shown.append(k)
    color = {k: COLORS[i] for i, k in enumerate(shown)}
    film_strip(film, frames, timeline.duration_s)
    _bar(bar, timeline, color, slots)
    _lines(lines, timeline, color)
    figure.legend(
        handles=lines.get_lines(),
        labels=[timeline.classes[k] for k in color],
        loc="lower left",
        bbox_to_anchor=(0.055, 0.01),
        ncols=4,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )


def film_strip(axes: Any, frames: list[tuple[float, Tensor]], duration_s: float) -> None:
    """The frames side by side, each cut to the shape of its place."""
    axes.set_xlim(0, duration_s)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    box = axes.get_window_extent()
    shape = box.width / max(len(frames), 1) / box.height  # width / height of a place
    for i, (_, frame) in enumerate(frames):
        _, h, w = frame.shape
        height, width = min(h, round(w / shape)), min(w, round(h * shape))
        top, left = (h - height) // 2, (w - width) // 2
        pixels = frame[:, top : top + max(height, 1), left : left + max(width, 1)].permute(1, 2, 0).numpy()
        at, step = i * duration_s / len(frames), duration_s / len(frames)
        axes.imshow(pixels, extent=(at, at + step * 0.985, 0, 1), aspect="auto", interpolation="antialiased")
    axes.set_xlim(0, duration_s)


def _bar(axes: Any, timeline: Timeline, color: dict[int, str], slots: int) -> None:
    """One coloured piece for every stretch that a class rules, with its name where there is room."""
    axes.set_xlim(0, slots)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    for start, end, k, _ in timeline.stretches(slots):
        axes.axvspan(start, end, facecolor=color.get(k, OTHER), edgecolor="white", linewidth=0.8)
        name = timeline.classes[k]
        if (end - start) / slots * 130 > len(name) + 1:  # 130 letters fit side by side
            ink = "white" if k in color else INK
            axes.text((start + end) / 2, 0.46, name, ha="center", va="center", fontsize=10, color=ink)


def _lines(axes: Any, timeline: Timeline, color: dict[int, str]) -> None:
    """The probability of each class at the middle of every window."""
    middle = ((timeline.start_s + timeline.end_s) / 2).numpy()
    dots, width = ("o", 1.8) if len(middle) <= 60 else ("", 1.8 if len(middle) <= 200 else 0.9)
    for k, shade in color.items():
        values = 100 * timeline.probabilities[:, k].numpy()
        axes.fill_between(middle, values, color=shade, alpha=0.08, linewidth=0)
        axes.plot(middle, values, color=shade, linewidth=width, marker=dots, markersize=3.5)
    axes.set_ylim(0, 102)
    axes.set_ylabel("probability, %", color=FAINT)
    time_axis(axes, timeline.duration_s)
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0)


def time_axis(axes: Any, duration_s: float) -> None:
    """The lower axis: seconds, or minutes and seconds from two minutes on; no other frame."""
    axes.set_xlim(0, duration_s)
    axes.set_xlabel("s" if duration_s < 120 else "min:s", color=FAINT, loc="right")
    if duration_s >= 120:
        axes.set_xticks(ticks(duration_s))
        axes.xaxis.set_major_formatter(lambda x, _: f"{int(x) // 60}:{int(x) % 60:02}")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#D1D5DB")


def ticks(duration_s: float) -> list[int]:
    """Round numbers of seconds from 0 on, some ten of them."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((s for s in steps if duration_s / s <= 12), 14400)
    return list(range(0, math.floor(duration_s) + 1, step))
