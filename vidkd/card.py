"""What a trained student says about itself: to programs (`Card`, in the weights file) and to people (MODEL_CARD.md)."""

from typing import Any, Literal

import torch

import vidkd
from vidkd.config import ClipSpec, Run, ViewSpec
from vidkd.models import attention
from vidkd.models.attention import AttentionSection
from vidkd.section import Section
from vidkd.taps import Tapped


class Card(Section):
    """What the weights say about themselves."""

    network: str
    options: dict[str, Any]
    attention: AttentionSection | None = None
    classes: tuple[str, ...]
    input: dict[str, Any]  # taps.Input: the normalisation and the limits
    clip: ClipSpec  # the span of source frames
    view: ViewSpec  # what the network is given of it; frames is never None here
    short: Literal["loop", "hold"]  # what a video shorter than the span does
    fps: float | None = None  # the rate that videos are read at; None: their own
    task: dict[str, Any] = {"kind": "recognition"}  # what it was trained for


def model_card(tapped: Tapped, run: Run, card: Card, results: dict[str, Any] | None) -> str:
    """MODEL_CARD.md: for whom finds the folder and nothing else."""
    assert card.view.frames is not None
    figures = (results or {}).get("student", {})
    price = figures.get("cost") or attention.costs(tapped, card.view.frames, card.view.size_px)
    methods = ", ".join(method.kind for method in run.methods)
    how = f"distilled from `{run.teacher.name}`" if run.teacher else "trained without a teacher"
    how += f" by {methods}" if methods else ""
    paragraphs = [
        f"# {run.name}",
        f"`{card.network}` for {len(card.classes)} classes, {how}; seed {run.seed}.",
        f"**{_protocol(figures, price)}**",
        _usage(run),
        "## Figures",
        _table(figures) or "Not evaluated.",
        "## What it sees",
        f"Clips of {card.clip.frames} frames, {card.clip.stride} apart, of which {card.view.frames} are used, at "
        f"{card.view.size_px} px a side (short side resized, centre cropped). {_kind(card)}, mean "
        f"{card.input['mean']}, std {card.input['std']}: `load_student` applies them. "
        "How it does on other kinds of video is not known.",
        "## How it was made",
        f"`accelerate launch -m vidkd.train config.yaml`, with {_versions(results)}.",
        "## Classes",
        ", ".join(card.classes),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _kind(card: Card) -> str:
    return {2: "Optical flow (`python -m data_prep flow`)", 3: "RGB"}.get(len(card.input["mean"]), "Features")


def _usage(run: Run) -> str:
    return (
        "```python\nimport vidkd\n"
        f'student = vidkd.load_student("{run.out_dir.as_posix()}")\n'
        "logits = student(video)  # [B, 3, T, H, W], uint8 or float in 0..1\n```\n\n"
        f"or `python -m vidkd.predict VIDEO --model {run.out_dir.as_posix()}`"
    )


def _protocol(figures: dict[str, Any], price: dict[str, Any]) -> str:
    """One line that holds all a figure depends on."""
    size = attention.said(price)
    if not (p := figures.get("protocol")):
        return f"Not evaluated; {size}."
    return (
        f"{figures['headline']}: {p['data_set']}, {p['split']}, {p['part']}, "
        f"{p['coverage']['scored']} of {p['coverage']['expected']} videos; "
        f"{p['frames']} x {p['stride']} frames at {p['size_px']} px, "
        f"{p['clips']} x {p['crops']} views, {figures.get('aggregation', 'no aggregation')}; {size}."
    )


def _table(figures: dict[str, Any]) -> str:
    """Every figure that is one number, and its interval where it has one."""
    rows = []
    for name, value in figures.items():
        if isinstance(value, int | float):
            interval = figures.get(f"{name}_interval")
            between = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            rows.append(f"| {name} | {value if isinstance(value, int) else f'{value:.4f}'} | {between} |")
    return "\n".join(["| figure | value | 95 % interval |", "|---|---|---|", *rows]) if rows else ""


def _versions(results: dict[str, Any] | None) -> str:
    made = (results or {}).get("environment", {})
    packages = {"vidkd": made.get("vidkd", vidkd.__version__)} | made.get("packages", {"torch": torch.__version__})
    commit = f" (commit {made['git_commit']})" if made.get("git_commit") else ""
    return ", ".join(f"{name} {version}" for name, version in packages.items()) + commit
