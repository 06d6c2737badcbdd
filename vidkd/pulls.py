"""How hard each weighted loss term pulls at the student: the norm of its gradient beside that of the labels."""

from dataclasses import dataclass

import torch

from vidkd import distiller, trainer
from vidkd.config import Run
from vidkd.distiller import Trainee
from vidkd.section import Ramp, Weighted
from vidkd.taps import Frozen
from vidkd.tasks._base import BaseTask
from vidkd.trained import Accelerator
from vidkd.types import ClipBatch

FELT = 0.01  # of the labels' pull: a term below it moves next to nothing
SHARE = 0.1  # of the labels' pull, which the advice brings a term to


@dataclass(frozen=True, slots=True)
class Pull:
    """A weighted term: its name, the override that weighs it, its largest weight in the run, and the Euclidean norm of
    its gradient with respect to the student's parameters at that weight."""

    name: str
    key: str
    weight: float
    norm: float
    supervised: bool
    ramp: Ramp | None = None

    def override(self, weight: float) -> str:
        """What weighs it so; a ramp keeps its length."""
        said = f"{weight:g}" if self.ramp is None else f"{{to: {weight:g}, steps: {self.ramp.count()}}}"
        return f"{self.key}={said}"


def measure(
    run: Run, trainee: Trainee, teacher: Frozen | None, task: BaseTask, batch: ClipBatch, accelerator: Accelerator
) -> list[Pull]:
    """The pulls of all terms that weigh anything in `run` (lengths in steps), for one batch on the device, in the mode
    that the trainee is in. Supervised terms first."""
    address = (run.seed, 0, accelerator.process_index)
    batch = trainer.mixed(run, task, batch, address, accelerator.device)
    torch.manual_seed(run.seed)
    with accelerator.autocast():
        seen = None if teacher is None else trainer.teach(teacher, batch)
        student, distilled = trainee(batch, seen)
    supervised = task.losses(batch, student)
    owners = distiller.owners(run, supervised, distilled)
    weights = {name: largest(run, section, own) for name, (_, section, own) in owners.items()}
    terms = {name: term for name, term in {**supervised, **distilled}.items() if weights[name]}
    made = []
    for name, gradient in distiller.gradients(terms, trainee.student).items():
        where, section, own = owners[name]
        ramp = section.weights.get(own)
        made.append(
            Pull(
                name,
                f"{where}.weights.{own}",
                weights[name],
                weights[name] * float(gradient.norm()),
                name in supervised,
                ramp if isinstance(ramp, Ramp) else None,
            )
        )
    return made


def largest(run: Run, section: Weighted, term: str) -> float:
    """The largest weight that the run gives a term: ramps are straight, so it is that of the first or the last step."""
    return max(section.weight(term, step) for step in (0, run.train.count()))


def reference(pulls: list[Pull]) -> Pull:
    """What the others are compared with: the strongest of the task's own terms; of all, where these weigh nothing."""
    return max([p for p in pulls if p.supervised] or pulls, key=lambda p: p.norm)


def said(pulls: list[Pull]) -> list[str]:
    """A line with every pull, then one for each method's term that the student will hardly feel, with the weight that
    mends it."""
    against = reference(pulls)
    every = ", ".join(f"{p.name} {p.norm:.3g}" for p in pulls)
    lines = [f"pull at the student (norm of the gradient of each weighted term, at its largest weight): {every}"]
    if silent := [p.name for p in pulls if not p.norm]:
        lines[0] += f"; {', '.join(silent)}: none, so only what the method itself holds learns from it"
    for p in pulls:
        if p.supervised or not 0 < p.norm < FELT * against.norm:
            continue
        advised = float(f"{p.weight * SHARE * against.norm / p.norm:.1g}")
        lines.append(
            f"careful: {p.name} pulls at the student with {p.norm / against.norm:.2g} of the pull of {against.name}, "
            f"and can hardly be felt at weight {p.weight:g}; {p.override(advised)} would give it about {SHARE:g} of it"
        )
    return lines
