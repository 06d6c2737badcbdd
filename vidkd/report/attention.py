"""The section that shows attention: which stretches of real clips the networks give weight to."""

import torch
from torch import Tensor

from vidkd import distiller, export
from vidkd.errors import VidkdError
from vidkd.models import attention as carried
from vidkd.report import cards, pictures, svg
from vidkd.report.material import Cell, Material
from vidkd.report.svg import Scale
from vidkd.taps import Tapped

SHOWN = 4  # videos
HEIGHT = 80  # of a plot, px
FLAT = 0.06  # share of the mean: what stays within it is not to look like a peak


def attention(m: Material) -> str:
    """Frames of a few scored videos, and under them every network's attention, mean over channels, of the best row that
    has one; "" without any."""
    row = cards.best_with(m, lambda run: run.student.attention is not None)
    if row is None:
        return ""
    source = cards.shown(m, row)
    student = export.load_student(source.cell.dir)
    networks = _teacher(source.cell, len(student.classes)) | {"student": student.tapped}
    roles = {who: "teacher" if who == "teacher" else row.role for who in networks}

    def drawn(i: int, views: cards.Views) -> str:
        lam = {roles[who]: lam_of(network, views[who]) for who, network in networks.items()}
        seen = pictures.frames(views["teacher" if "teacher" in views else "student"])
        strip = pictures.webp(pictures.strip(seen))
        figures = "".join(f"<p>{svg.esc(line)}</p>" for line in said(dict(zip(networks, lam.values(), strict=True))))
        return (
            f'<img class="attended" alt="frames of the clip, side by side" src="{strip}">'
            f"{plot({role: weights(each) for role, each in lam.items()}, source.span_s(i))}{figures}"
        )

    legend = svg.legend((roles[who], who) for who in networks)
    note = (
        '<p class="note">What a network weighs each stretch of the clip by: its attention, mean over channels, as a '
        f"share of the clip’s mean. In the clip’s seconds. {source.said()}</p>"
    )
    return f"{note}{legend}{cards.cards(source, SHOWN, drawn)}"


def lam_of(network: Tapped, views: Tensor) -> Tensor:
    """The attention [C, T] of the middle one of the views [V, 3, T, H, W]. Of several attentions the last, that of the
    deepest map."""
    *_, tap = carried.every(network)
    with torch.no_grad():
        return network(views[len(views) // 2].unsqueeze(0)).taps[carried.name(tap)][0]


def weights(lam: Tensor) -> list[float]:
    """[C, T] -> one number a time step: the mean over channels, 1 where it is the clip's mean."""
    return (lam.mean(0) / lam.mean()).tolist()


def said(lam: dict[str, Tensor]) -> list[str]:
    """What the plot leaves out of the attentions [C, T]: their means, and whether the two agree channel by channel."""
    lines = ["mean: " + ", ".join(f"{who} {each.mean():.2f}" for who, each in lam.items())]
    if len({each.shape for each in lam.values()}) < len(lam):
        r = torch.corrcoef(torch.stack([each.flatten() for each in lam.values()]))[0, 1]
        lines.append(f"correlation of the two over channels and time: {r:.2f}")
    return lines


def plot(weighed: dict[str, list[float]], span_s: float) -> str:
    """A line for every role: each of its numbers over its own part of the span."""
    off = max(FLAT, 1.2 * max(abs(v - 1) for line in weighed.values() for v in line))
    x, y = Scale(0, span_s), Scale(1 - off, 1 + off)
    drawn = ""
    for role, line in weighed.items():
        edges = [100 * j / len(line) for j in range(len(line) + 1)]
        points = [(edge, y(v)) for j, v in enumerate(line) for edge in edges[j : j + 2]]
        drawn += svg.curve(points, f"mean {role}")
    inside = (
        svg.grid_x(x, HEIGHT, [(v, svg.number(v)) for v in x.ticks(4)])
        + svg.grid_y(y, HEIGHT, [(v, svg.number(v)) for v in y.ticks(3)])
        + svg.stretched(drawn)
    )
    told = "; ".join(f"{role}: {', '.join(f'{v:.3f}' for v in line)}" for role, line in weighed.items())
    return svg.plot(inside, HEIGHT, f"attention over time: {told}")


def _teacher(cell: Cell, num_classes: int) -> dict[str, Tapped]:
    """The teacher, where it carries an attention and its weights are still where they were."""
    run = cell.run
    if run.teacher is None or run.teacher.attention is None:
        return {}
    try:
        return {"teacher": distiller.build_network(run.teacher, num_classes, run.data.clip.frames)[0].eval()}
    except VidkdError:
        return {}
