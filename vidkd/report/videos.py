"""The section that shows videos: what the networks see of those that distillation fixed and broke."""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidkd.data import clips, index
from vidkd.data.index import Part
from vidkd.errors import VidkdError
from vidkd.report.material import Cell, LeftOut, Material, Row
from vidkd.report.svg import esc

EACH = 4  # videos of a kind
IN_STRIP = 6  # frames
LARGEST_PX = 112  # side of an embedded picture
MOST_FRAMES = 16  # of a moving one
MOST_BYTES = 1_700_000  # of pictures on the page, as base64


@dataclass(frozen=True)
class Example:
    """One test video, and what is said of it: a name and the answers of every seed."""

    name: str
    label: str
    said: tuple[tuple[str, Counter[str]], ...]


@dataclass(frozen=True)
class Stack:
    """The predictions of a row's seeds. right [seeds, videos]."""

    names: list[str]
    labels: list[str]
    answers: list[list[str]]
    right: NDArray[np.float64]

    def counted(self, i: int) -> Counter[str]:
        return Counter(of_seed[i] for of_seed in self.answers)


def videos(m: Material) -> str:
    """The kinds of examples there are, each with a few videos."""
    source = next((cell for cell in m.best.cells if cell.results), None)
    if source is None:
        raise LeftOut("no run is finished.")
    kinds = _changed(m) if m.is_bench else _single(m.best)
    part = part_of(source)
    left, parts = MOST_BYTES, []
    for title, examples in kinds:
        boxes = []
        for example in examples:
            box = _box(source, part, example)
            if box and len(box) < left:
                left -= len(box)
                boxes.append(box)
        none = '<p class="absent">None of them can be shown.</p>' if examples else '<p class="absent">None.</p>'
        shown = f'<div class="videos">{"".join(boxes)}</div>' if boxes else none
        parts.append(f"<h3>{esc(title)}</h3>{shown}")
    return "".join(parts)


def _changed(m: Material) -> list[tuple[str, list[Example]]]:
    """The videos that more seeds get right, and fewer, than without distillation: those that changed most first."""
    if m.baseline is None or m.best is m.baseline:
        raise LeftOut("there is no row to compare with the baseline.")
    base, before, after = m.baseline.name, _stack(m.baseline, "student"), _stack(m.best, "student")
    if before.names != after.names:
        raise LeftOut("the rows were not scored on the same videos.")
    teacher = _stack_or_none(m.best)
    change = after.right.mean(axis=0) - before.right.mean(axis=0)
    order = np.argsort(-np.abs(change), kind="stable")

    def example(i: int) -> Example:
        said = [(base, before.counted(i)), (m.best.name, after.counted(i))]
        said += [("teacher", Counter([teacher.answers[0][i]]))] if teacher else []
        return Example(after.names[i], after.labels[i], tuple(said))

    fixed, broken = [int(i) for i in order if change[i] > 0], [int(i) for i in order if change[i] < 0]
    of = f"of {len(change)} videos"
    return [
        (f"Fixed: more seeds right with {m.best.name}, {len(fixed)} {of}", [example(i) for i in _varied(fixed, after)]),
        (f"Broken: fewer seeds right, {len(broken)} {of}", [example(i) for i in _varied(broken, after)]),
    ]


def _single(row: Row) -> list[tuple[str, list[Example]]]:
    """Of one run: some videos that are wrong and some that are right."""
    own, teacher = _stack(row, "student"), _stack_or_none(row)

    def example(i: int) -> Example:
        said = [("student", own.counted(i))] + ([("teacher", Counter([teacher.answers[0][i]]))] if teacher else [])
        return Example(own.names[i], own.labels[i], tuple(said))

    wrong, right = (np.flatnonzero(own.right[0] == v).tolist() for v in (0, 1))
    return [
        (f"Wrong: {len(wrong)} of {len(own.names)} videos", [example(i) for i in _varied(wrong, own)]),
        (f"Right: {len(right)}", [example(i) for i in _varied(right, own)]),
    ]


def _varied(ordered: list[int], stack: Stack) -> list[int]:
    """EACH of the videos, from the front, of different classes as far as there are."""
    taken: list[int] = []
    classes = Counter[str]()
    for limit in (1, EACH):
        for i in ordered:
            if len(taken) < EACH and i not in taken and classes[stack.labels[i]] < limit:
                taken.append(i)
                classes[stack.labels[i]] += 1
    return taken


def _stack(row: Row, who: str) -> Stack:
    read = [cell.predictions(who) for cell in row.cells if who in cell.results]
    if not read or any(p["video"] != read[0]["video"] for p in read):
        raise LeftOut(f"the predictions of {row.name} are missing, or not of the same videos.")
    right = [[a == b for a, b in zip(p["label"], p["prediction"], strict=True)] for p in read]
    return Stack(read[0]["video"], read[0]["label"], [p["prediction"] for p in read], np.array(right, dtype=float))


def _stack_or_none(row: Row) -> Stack | None:
    try:
        return _stack(row, "teacher")
    except LeftOut:
        return None


def part_of(cell: Cell) -> Part:
    """The videos that were scored; LeftOut where they are no longer those."""
    protocol = cell.figures("student")["protocol"]
    try:
        data_set = index.read(cell.run.data.root)
        part = data_set.part(protocol["split"], protocol["part"])
    except VidkdError as error:
        raise LeftOut(f"the videos cannot be read: {error}") from None
    if data_set.checksum() != protocol["index_sha256"]:
        raise LeftOut(f"the data set in {cell.run.data.root} is no longer the one that was scored.")
    return part


def _box(cell: Cell, part: Part, example: Example) -> str:
    """One video; "" where it cannot be read."""
    run, names = cell.run, part.names()
    if example.name not in names:
        return ""
    i = names.index(example.name)
    try:
        views = clips.TestClips(part, run.data, run.views()).load((0, i)).views
    except VidkdError:
        return ""
    span_s = run.data.clip.frames * run.data.clip.stride / (part[i].fps or 25.0)
    pictures = "".join(_seen(who, views[who], span_s) for who in ("teacher", "student") if who in views)
    said = "".join(f"{esc(who)}: {_answers(counts, example.label)}<br>" for who, counts in example.said)
    return (
        f'<div class="video"><h4>{esc(example.label)}</h4><p>{said}<span class="tick">{esc(example.name)}</span></p>'
        f"{pictures}</div>"
    )


def _answers(counts: Counter[str], label: str) -> str:
    """right ×2, <wrong class> ×1"""
    parts = []
    for answer, n in counts.most_common():
        many = f" ×{n}" if sum(counts.values()) > 1 else ""
        tone = "good" if answer == label else "bad"
        parts.append(f'<span class="{tone}">{esc(answer)}{many}</span>')
    return ", ".join(parts)


def _seen(who: str, views: Tensor, span_s: float) -> str:
    """A moving picture and a strip of frames, of the middle one of the views [V, 3, T, H, W] uint8."""
    pictures, side = frames(views), views.shape[3]
    kind = "pixels" if side <= 64 else ""
    few = pictures[:: -(-len(pictures) // MOST_FRAMES)]
    moving = webp(few[0], save_all=True, append_images=few[1:], duration=round(1000 * span_s / len(few)), loop=0)
    caption = f"{who}: {len(pictures)} frames of {side} px"
    return (
        f'<figure class="seen"><figcaption>{caption}</figcaption>'
        f'<img class="moving {kind}" alt="the clip, moving" src="{moving}">'
        f'<img class="strip {kind}" alt="frames of the clip, side by side" src="{webp(strip(pictures))}"></figure>'
    )


def frames(views: Tensor) -> list[Image.Image]:
    """Those of the middle one of the views [V, 3, T, H, W] uint8, at most LARGEST_PX a side."""
    pictures = [Image.fromarray(f) for f in views[len(views) // 2].permute(1, 2, 3, 0).numpy()]
    if views.shape[3] > LARGEST_PX:
        pictures = [p.resize((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS) for p in pictures]
    return pictures


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Up to IN_STRIP frames side by side, from the first to the last."""
    n = min(IN_STRIP, len(pictures))
    chosen = [pictures[round(i * (len(pictures) - 1) / max(n - 1, 1))] for i in range(n)]
    w, h = chosen[0].size
    gap = max(w // 32, 1)
    strip = Image.new("RGBA", (n * (w + gap) - gap, h))
    for i, picture in enumerate(chosen):
        strip.paste(picture, (i * (w + gap), 0))
    return strip


def webp(picture: Image.Image, **options: Any) -> str:
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=75, method=4, **options)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"
