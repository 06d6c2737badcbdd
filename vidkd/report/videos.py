"""The section that shows videos: what the networks see of those that distillation fixed and broke."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidkd.errors import VidkdError
from vidkd.report import cards, pictures
from vidkd.report.cards import Shown
from vidkd.report.material import LeftOut, Material, Row
from vidkd.report.svg import esc

EACH = 4  # videos of a kind
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
    source = cards.shown(m)
    kinds = _changed(m) if m.is_bench else _single(m.best)
    names = source.part.names()
    left, parts = MOST_BYTES, []
    for title, examples in kinds:
        boxes = []
        for example in examples:
            box = _box(source, names, example)
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
    base, before, after = m.baseline.name, stack_of(m.baseline, "student"), stack_of(m.best, "student")
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
    own, teacher = stack_of(row, "student"), _stack_or_none(row)

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


def stack_of(row: Row, who: str) -> Stack:
    """LeftOut where predictions are missing, or are not of the same videos."""
    read = [cell.predictions(who) for cell in row.cells if who in cell.results]
    if not read or any(p["video"] != read[0]["video"] for p in read):
        raise LeftOut(f"the predictions of {row.name} are missing, or not of the same videos.")
    right = [[a == b for a, b in zip(p["label"], p["prediction"], strict=True)] for p in read]
    return Stack(read[0]["video"], read[0]["label"], [p["prediction"] for p in read], np.array(right, dtype=float))


def _stack_or_none(row: Row) -> Stack | None:
    try:
        return stack_of(row, "teacher")
    except LeftOut:
        return None


def _box(source: Shown, names: list[str], example: Example) -> str:
    """One video; "" where it cannot be read."""
    if example.name not in names:
        return ""
    i = names.index(example.name)
    try:
        views = source.views(i)
    except VidkdError:
        return ""
    drawn = "".join(_seen(who, views[who], source.span_s(i)) for who in ("teacher", "student") if who in views)
    said = "".join(f"{esc(who)}: {_answers(counts, example.label)}<br>" for who, counts in example.said)
    return cards.card(example.label, example.name, drawn, said)


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
    seen, side = pictures.frames(views), views.shape[3]
    kind = "pixels" if side <= 64 else ""
    few = seen[:: -(-len(seen) // MOST_FRAMES)]
    moving = pictures.webp(
        few[0], save_all=True, append_images=few[1:], duration=round(1000 * span_s / len(few)), loop=0
    )
    still = pictures.webp(pictures.strip(seen))
    caption = f"{who}: {len(seen)} frames of {side} px"
    return (
        f'<figure class="seen"><figcaption>{caption}</figcaption>'
        f'<img class="moving {kind}" alt="the clip, moving" src="{moving}">'
        f'<img class="strip {kind}" alt="frames of the clip, side by side" src="{still}"></figure>'
    )
