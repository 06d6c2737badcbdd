"""Figures of classification, as pure functions of tensors.

`scores` are logits or log-probabilities [N, K]: only their order and their softmax count. Where scores tie, the class
with the lower index comes first, everywhere, so that equal files give equal figures.
"""

import math
from typing import Any

import torch
from torch import Tensor

Z_95 = 1.959963984540054  # of the standard normal distribution, two-sided
ECE_BINS = 15
BOOTSTRAP_SEED = 0


def order(scores: Tensor) -> Tensor:
    """[N, K] -> [N, K] class indices, the best first."""
    return scores.sort(dim=1, descending=True, stable=True).indices


def rank(scores: Tensor, label: Tensor) -> Tensor:
    """[N, K], [N] -> [N]: how many classes come before the label; 0 is a right answer, under 5 a right top 5."""
    own = scores.gather(1, label[:, None])
    tie_before = (scores == own) & (torch.arange(scores.shape[1]) < label[:, None])
    return ((scores > own) | tie_before).sum(dim=1)


def confidence(scores: Tensor) -> Tensor:
    """[N, K] -> [N] float32: the probability of the best class."""
    return scores.double().softmax(dim=1).amax(dim=1).float()


def mean_class_accuracy(right: Tensor, label: Tensor, num_classes: int) -> float:
    """The mean over the classes that occur of the share that is right; right [N] bool, label [N]."""
    n = torch.bincount(label, minlength=num_classes)
    correct = torch.bincount(label[right], minlength=num_classes)
    occurs = n > 0
    return float((correct[occurs].double() / n[occurs]).mean())


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = ECE_BINS) -> float:
    """The mean of |accuracy - mean confidence| over equal-width bins of confidence, weighted by how many fall in.

    confidence [N] in 0..1, right [N] bool. Bin i holds i/bins < confidence <= (i + 1)/bins; a 0 falls into the first.
    """
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    which = torch.bucketize(confidence.double(), edges)
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, which, right.double() - confidence.double())  # n_bin * (accuracy - mean confidence)
    return float(gap.abs().sum() / len(confidence))


def wilson_interval(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Where the true share lies (95 % by default) when `correct` of `n` independent trials went right."""
    if n == 0:
        return 0.0, 1.0
    share, shrink = correct / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def bootstrap_interval(right: Tensor, resamples: int, seed: int = BOOTSTRAP_SEED) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the share that is right over `resamples` draws of N from right [N]."""
    generator = torch.Generator().manual_seed(seed)
    values = right.double()
    means = torch.stack(
        [values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(resamples)]
    )
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """[N], [N] -> [K, K] counts: row is the label, column is the prediction."""
    cells = torch.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def per_class(confusion: Tensor, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a class: how many, how many right, their share (None where there are none) and its Wilson interval."""
    rows = []
    for name, n, correct in zip(classes, confusion.sum(dim=1).tolist(), confusion.diagonal().tolist(), strict=True):
        share = correct / n if n else None
        rows.append({"class": name, "n": n, "correct": correct, "accuracy": share})
        rows[-1]["interval"] = list(wilson_interval(correct, n))
    return rows


def summary(label: Tensor, rank: Tensor, confidence: Tensor, num_classes: int) -> dict[str, Any]:
    """The figures of N answers; label, rank, confidence [N]. All shares are in 0..1."""
    n, right = len(label), rank == 0
    correct, in_top5 = int(right.sum()), int((rank < min(5, num_classes)).sum())
    return {
        "top1": correct / n,
        "top1_interval": list(wilson_interval(correct, n)),
        "top5": in_top5 / n,
        "mean_class_accuracy": mean_class_accuracy(right, label, num_classes),
        "ece": expected_calibration_error(confidence, right),
        "n": n,
        "correct": correct,
        "correct_top5": in_top5,
    }


def agreement(before: Tensor, after: Tensor, label: Tensor) -> dict[str, Any]:
    """What became of the answers `before` (a teacher's, say) in the answers `after` (its student's).

    Scores [N, K] of the same N videos. `fixed`: wrong before, right after; `broken`: right before, wrong after;
    `mean_kl`: KL(before || after) in nats, mean over N. The rest are counts, but for `agreement`, a share.
    """
    first, second = order(before)[:, 0], order(after)[:, 0]
    was, now = first == label, second == label
    log_p, log_q = before.double().log_softmax(dim=1), after.double().log_softmax(dim=1)
    # 0 * log 0 is 0, also where the logarithm is minus infinity
    terms = torch.where(log_p.exp() > 0, log_p.exp() * (log_p - log_q), 0.0)
    same = int((first == second).sum())
    return {
        "n": len(label),
        "agreement": same / len(label),
        "same": same,
        "both_right": int((was & now).sum()),
        "fixed": int((~was & now).sum()),
        "broken": int((was & ~now).sum()),
        "both_wrong": int((~was & ~now).sum()),
        "mean_kl": float(terms.sum(dim=1).mean()),
    }
