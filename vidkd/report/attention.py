"""The section that shows attention: which stretches of real clips the networks give weight to."""

import torch
from torch import Tensor

from vidkd import distiller, export
from vidkd.data import clips
from vidkd.errors import VidkdError
from vidkd.report import svg, videos
from vidkd.report.material import Cell, Material
from vidkd.report.svg import Scale, esc
from vidkd.taps import Tapped

SHOWN = 4  # videos
HEIGHT = 80  # of a plot, px


def attention(m: Material) -> str:
    """Frames of a few scored videos, and under them every network's attention, mean over channels; "" without one."""
    source = next((cell for cell in m.best.cells if cell.results), None)
    if source is None or source.run.student.attention is None:
        return ""
    student = export.load_student(source.dir)
    networks = _teacher(source, len(student.classes)) | {"student": student.tapped}
    roles = {who: "teacher" if who == "teacher" else m.best.role for who in networks}
    part, run = videos.part_of(source), source.run
    boxes = []
    for k in range(min(SHOWN, len(part))):
        i = k * len(part) // min(SHOWN, len(part))
        views = clips.TestClips(part, run.data, run.views()).load((0, i)).views
        lam = {roles[who]: mean_attention(network, views[who]) for who, network in networks.items()}
        span_s = run.data.clip.frames * run.data.clip.stride / (part[i].fps or 25.0)
        strip = videos.webp(videos.strip(videos.frames(views["teacher" if "teacher" in views else "student"])))
        boxes.append(
            f'<div class="video"><h4>{esc(student.classes[part[i].label])}</h4><p><span class="tick">'
            f'{esc(part[i].name)}</span></p><img class="attended" alt="frames of the clip, side by side" src="{strip}">'
            f"{plot(lam, span_s)}</div>"
        )
    legend = svg.legend((roles[who], who) for who in networks)
    note = '<p class="note">Mean over channels, in the clip’s seconds; the networks weigh features by it.</p>'
    return f'{note}{legend}<div class="videos">{"".join(boxes)}</div>'


def mean_attention(network: Tapped, views: Tensor) -> list[float]:
    """The attention of the middle one of the views [V, 3, T, H, W], mean over channels: one number a time step."""
    with torch.no_grad():
        lam = network(views[len(views) // 2].unsqueeze(0)).taps["attention"]
    return lam[0].mean(dim=0).tolist()


def plot(lam: dict[str, list[float]], span_s: float) -> str:
    """A line for every role: each of its numbers over its own part of the span."""
    values = [v for line in lam.values() for v in line]
    room = max(0.1 * (max(values) - min(values)), 0.005)
    x, y = Scale(0, span_s), Scale(min(values) - room, max(values) + room)
    drawn = ""
    for role, line in lam.items():
        edges = [100 * j / len(line) for j in range(len(line) + 1)]
        points = [(edge, y(v)) for j, v in enumerate(line) for edge in edges[j : j + 2]]
        drawn += svg.curve(points, f"mean {role}")
    inside = (
        svg.grid_x(x, HEIGHT, [(v, svg.number(v)) for v in x.ticks(4)])
        + svg.grid_y(y, HEIGHT, [(v, svg.number(v)) for v in y.ticks(3)])
        + svg.stretched(drawn)
    )
    said = "; ".join(f"{role}: {', '.join(f'{v:.3f}' for v in line)}" for role, line in lam.items())
    return svg.plot(inside, HEIGHT, f"attention over time: {said}")


def _teacher(cell: Cell, num_classes: int) -> dict[str, Tapped]:
    """The teacher, where it carries an attention and its weights are still where they were."""
    run = cell.run
    if run.teacher is None or run.teacher.attention is None:
        return {}
    try:
        return {"teacher": distiller.build_network(run.teacher, num_classes, run.data.clip.frames)[0].eval()}
    except VidkdError:
        return {}
