"""How the answers to several views, of several networks, or at several steps of a clip become one."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["mean_probability", "mean_logit"]


def aggregate(logits: Tensor, how: Aggregation) -> Tensor:
    """[N, V, K] logits of views -> [N, K] float32: the log of the mean probability, or the mean logit."""
    if how == "mean_logit":
        return logits.double().mean(dim=1).float()
    log_p = logits.double().log_softmax(dim=2)
    return (log_p.logsumexp(dim=1) - math.log(logits.shape[1])).float()


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """[V, K] logits of each network -> [V, K] float32: the log of the mean of their probabilities; of one its own."""
    return aggregate(torch.stack(list(logits), 1), "mean_probability") if len(logits) > 1 else logits[0]


def joint_steps(logits: Sequence[Tensor]) -> Tensor:
    """[V, K, S, 1, 1] step logits of each network -> [V, K] float32: the log of the mean over the steps of the softmax
    of their sum."""
    log_p = torch.stack(list(logits)).double().sum(0).flatten(2).log_softmax(dim=1)
    return (log_p.logsumexp(dim=2) - math.log(log_p.shape[2])).float()


def step_probabilities(logits: Tensor) -> Tensor:
    """[B, K, S, 1, 1] logits of S steps -> [B, K]: the sum over the steps of their softmax.

    The official code of generative attention distillation (AAAI 2024) hands this, in 0..S, to cross-entropy as if it
    were logits. The loss then has a floor of log(1 + (K - 1) exp(-S)): 0.0873 for 101 classes and 7 steps.
    """
    return logits.softmax(dim=1).sum(dim=(2, 3, 4))
