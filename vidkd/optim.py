"""Optimisers and learning rates. A learning rate is a function of the step: there is no scheduler to save."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from vidkd.errors import ConfigError
from vidkd.section import Section, Span


class Warmup(Span):
    """How long the learning rate climbs to its value, from `start` times it."""

    start: float = Field(default=0.0, ge=0, le=1)


class Constant(Section):
    kind: Literal["constant"]


class Cosine(Section):
    kind: Literal["cosine"] = "cosine"
    # Of the full learning rate, where the curve ends: after the last step, as in torch's CosineAnnealingLR with T_max =
    # steps. The last step is one short of it, so that with 0 it still learns.
    final: float = Field(default=0.0, ge=0, le=1)


class StepDecay(Section):
    kind: Literal["step"]
    at: tuple[Annotated[float, Field(gt=0, lt=1)], ...]  # fractions of the training, ascending
    factor: float = Field(default=0.1, gt=0, lt=1)


class Optim(Section):
    """SGD (Nesterov by default), Adam or AdamW; vectors (biases, norms) are not decayed."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    warmup: Warmup | None = None
    schedule: Annotated[Constant | Cosine | StepDecay, Field(discriminator="kind")] = Cosine()
    lr_scale: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)  # by name prefix; 0: frozen
    max_grad_norm: float | None = Field(default=None, gt=0)
    max_grad_value: float | None = Field(default=None, gt=0)  # element-wise, before the norm


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then constant, step decay, or half a cosine.

    The cosine would come to `final` at step `steps`, the first that is not made (SGDR, arXiv:1608.03983, section 3).
    """
    warmup = optim.warmup.count() if optim.warmup else 0
    if optim.warmup and step < warmup:
        start = optim.warmup.start
        return optim.lr * (start + (1 - start) * (step + 1) / warmup)
    if isinstance(optim.schedule, Constant):
        return optim.lr
    if isinstance(optim.schedule, StepDecay):
        return optim.lr * optim.schedule.factor ** sum(step >= at * steps for at in optim.schedule.at)
    done = (step - warmup) / max(1, steps - warmup)
    return optim.lr * (optim.schedule.final + (1 - optim.schedule.final) * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer(optim: Optim, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer | None:
    """An optimiser over the parameters that learn; None if there are none. Each group carries its `lr_scale`.

    ConfigError for a prefix in `lr_scale` that no parameter has.
    """
    named = list(named)
    names = [name for name, _ in named]
    for prefix in optim.lr_scale:
        if not any(name.startswith(prefix) for name in names):
            tops = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(f"lr_scale: no parameter starts with {prefix!r}; they start with: {', '.join(tops)}")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        prefixes = [p for p in optim.lr_scale if name.startswith(p)]
        scale = optim.lr_scale[max(prefixes, key=len)] if prefixes else 1.0
        if scale == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    if not groups:
        return None
    made = [
        {"params": params, "lr_scale": scale, "weight_decay": optim.weight_decay if decayed else 0.0}
        for (scale, decayed), params in groups.items()
    ]
    if optim.kind == "sgd":
        nesterov = optim.nesterov and optim.momentum > 0
        return torch.optim.SGD(made, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov)
    kind = torch.optim.Adam if optim.kind == "adam" else torch.optim.AdamW
    return kind(made, lr=optim.lr, betas=optim.betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
