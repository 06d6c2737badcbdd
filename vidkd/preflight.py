"""A teacher that is wrong is noticed before the first step, not after the last."""

import math
from itertools import zip_longest

import torch
from torch import Tensor

from vidkd.config import Run
from vidkd.data import clips
from vidkd.data.index import Part
from vidkd.errors import ConfigError, DataError
from vidkd.export import read_card
from vidkd.metrics import wilson_interval
from vidkd.taps import Frozen
from vidkd.tasks._base import BaseTask

ABOVE_CHANCE = 0.05  # of the way from chance to perfect: where the interval must lie above


def check_teacher(run: Run, teacher: Frozen, part: Part, task: BaseTask, device: torch.device) -> str:
    """Score the teacher on labelled training clips through this very loader; what was found, in one sentence.

    ConfigError, unless teacher.allow_weak, if its accuracy is at or near chance, or if its weights were made for
    another normalisation or clip length. DataError if it answers with something that is not a number.
    """
    assert run.teacher is not None
    complaints = _differences(run, teacher, task.classes)
    n = min(run.teacher.preflight_clips, len(part))
    verdict = "the teacher was not scored (teacher.preflight_clips: 0)"
    if n and len(answers := torch.cat(_right(run, teacher, part, task, n, device))):
        right, n, chance = int(answers.sum()), len(answers), 1 / len(task.classes)
        low, high = wilson_interval(right, n)
        verdict = (
            f"the teacher is right on {right} of {n} training clips "
            f"({right / n:.1%}, 95 % interval {low:.1%} to {high:.1%}; chance {chance:.1%})"
        )
        if low <= chance + ABOVE_CHANCE * (1 - chance):
            complaints.append(f"{verdict}: that is at or near chance")
    if complaints and not run.teacher.allow_weak:
        raise ConfigError(
            "the teacher does not look fit to teach: " + "; ".join(complaints) + ". Check teacher.weights, its view "
            "and data.clip; teacher.allow_weak=true goes on all the same"
        )
    return "; ".join([verdict, *complaints])


def _right(run: Run, teacher: Frozen, part: Part, task: BaseTask, n: int, device: torch.device) -> list[Tensor]:
    """What the task finds right and wrong in the teacher's answers to `n` clips, a tensor a batch."""
    positions = [int(i) for i in torch.linspace(0, len(part) - 1, n).round()]  # over all of the part, so all classes
    size = run.train.eval_batch_size or run.train.batch_size
    portions = [[(0, i) for i in positions[j : j + size]] for j in range(0, n, size)]
    views = {"teacher": run.views()["teacher"]}
    found = []
    for batch in clips.train_loader(part, run.data, views, portions, run.seed):
        batch = batch.to(device)
        view = teacher(batch.seen_by("teacher"))
        if not torch.isfinite(view.logits).all():
            raise DataError(f"teacher {teacher.tapped.name}: its logits are not finite on {', '.join(batch.clip)}")
        found.append(task.right(batch, view).cpu())
    return found


def _differences(run: Run, teacher: Frozen, classes: tuple[str, ...]) -> list[str]:
    """Where the run shows the teacher something else than it was trained on, as far as its weights say."""
    assert run.teacher is not None
    card = read_card(run.teacher.weights) if run.teacher.weights else {}
    said = []
    for name in ("mean", "std"):
        declared = card.get("input", {}).get(name)
        ours = getattr(teacher.tapped.input, name)
        if declared and any(not math.isclose(a, b, abs_tol=1e-4) for a, b in zip(declared, ours, strict=True)):
            said.append(f"its weights were made for input {name} {declared}, this run gives {list(ours)}")
    frames = run.teacher.view.frames or run.data.clip.frames
    if (declared := card.get("frames")) and declared != frames:
        said.append(f"its weights were made for clips of {declared} frames, this run shows {frames}")
    if (declared := teacher.tapped.classes) and (other := _first_unlike(declared, classes)):
        said.append(f"its weights were made for other classes, or for these in another order ({other})")
    return said


def _first_unlike(declared: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """The first class that differs, whatever its case and whether its words are joined; "" if none does."""
    for i, (theirs, ours) in enumerate(zip_longest(declared, classes, fillvalue="none")):
        if theirs.casefold().replace("_", " ") != ours.casefold().replace("_", " "):
            return f"output {i} is {theirs!r} in the weights, {ours!r} in the data set"
    return ""
