"""Figures of classification: by arithmetic, by their laws, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from vidkd import metrics


@pytest.fixture(params=[0, 1, 2])
def answers(request):
    """Scores [N, K] without ties, labels [N], K."""
    rng = torch.Generator().manual_seed(request.param)
    k = (2, 7, 30)[request.param]
    return torch.randn(200, k, generator=rng) * 2, torch.randint(k, (200,), generator=rng), k


def test_rank_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2], [0.1, 0.7, 0.2]])
    assert metrics.rank(scores, torch.tensor([1, 2, 0])).tolist() == [0, 1, 2]


def test_the_lower_index_wins_a_tie():
    scores = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert metrics.order(scores).tolist() == [[0, 1, 2], [1, 2, 0]]
    assert metrics.rank(scores, torch.tensor([0, 2])).tolist() == [0, 1]
    assert metrics.rank(scores, torch.tensor([2, 1])).tolist() == [2, 0]


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_rank_is_the_place_in_the_order_however_many_tie(levels):
    rng = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (300, 9), generator=rng).float()
    label = torch.randint(9, (300,), generator=rng)
    place = (metrics.order(scores) == label[:, None]).int().argmax(dim=1)
    assert torch.equal(metrics.rank(scores, label), place)


def test_accuracies_against_torchmetrics(answers):
    scores, label, k = answers
    found = metrics.summary(label, metrics.rank(scores, label), metrics.confidence(scores), k)
    for name, options in {
        "top1": {"average": "micro"},
        "top5": {"average": "micro", "top_k": min(5, k)},
        "mean_class_accuracy": {"average": "macro"},
    }.items():
        theirs = multiclass_accuracy(scores, label, num_classes=k, **options)
        assert found[name] == pytest.approx(float(theirs), abs=1e-6), name
    assert found["correct"] == round(found["top1"] * 200)


def test_calibration_against_torchmetrics(answers):
    scores, label, k = answers
    ours = metrics.expected_calibration_error(metrics.confidence(scores), metrics.rank(scores, label) == 0)
    theirs = multiclass_calibration_error(scores.softmax(1), label, num_classes=k, n_bins=15, norm="l1")
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_by_hand():
    # two bins: (0.25: right), (0.9: right, 0.7: wrong) -> |1 - 0.25| * 1/3 + |0.5 - 0.8| * 2/3
    confidence, right = torch.tensor([0.25, 0.9, 0.7]), torch.tensor([True, True, False])
    assert metrics.expected_calibration_error(confidence, right, bins=2) == pytest.approx(0.25 + 0.2)


def test_a_bin_holds_its_upper_edge():
    # 0.5 belongs to the first of two bins: alone it errs by 0.5, together with 0.75 it would be 0.125
    confidence, right = torch.tensor([0.5, 0.75, 0.0]), torch.tensor([True, False, False])
    assert metrics.expected_calibration_error(confidence, right, bins=2) == pytest.approx((0.5 + 0.75) / 3)


def test_a_perfect_forecast_is_calibrated():
    assert metrics.expected_calibration_error(torch.ones(9), torch.ones(9, dtype=torch.bool)) == 0


def test_mean_class_accuracy_leaves_out_classes_that_do_not_occur():
    label, right = torch.tensor([0, 0, 0, 2]), torch.tensor([True, True, False, False])
    assert metrics.mean_class_accuracy(right, label, 4) == pytest.approx((2 / 3 + 0) / 2)


def test_confusion_by_hand_and_against_torchmetrics(answers):
    label, prediction = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    assert metrics.confusion_matrix(prediction, label, 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    scores, label, k = answers
    prediction = metrics.order(scores)[:, 0]
    theirs = multiclass_confusion_matrix(prediction, label, num_classes=k)
    assert torch.equal(metrics.confusion_matrix(prediction, label, k), theirs)


def test_per_class_by_hand():
    rows = metrics.per_class(torch.tensor([[3, 1], [0, 0]]), ("a", "b"))
    assert [(r["class"], r["n"], r["correct"], r["accuracy"]) for r in rows] == [("a", 4, 3, 0.75), ("b", 0, 0, None)]
    assert rows[0]["interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert rows[1]["interval"] == [0, 1]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_wilson_by_hand(correct, n, low, high):
    assert metrics.wilson_interval(correct, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_ends_solve_their_equation():
    """At an end p of the interval, the observed share is z standard errors of p away."""
    for correct, n in [(3, 17), (40, 41), (500, 1000)]:
        for p in metrics.wilson_interval(correct, n):
            assert abs(correct / n - p) == pytest.approx(metrics.Z_95 * math.sqrt(p * (1 - p) / n))


def test_bootstrap():
    right = torch.arange(400) % 4 > 0
    low, high = metrics.bootstrap_interval(right, 500)
    assert (low, high) == metrics.bootstrap_interval(right, 500)
    assert (low, high) == pytest.approx(metrics.wilson_interval(300, 400), abs=0.015)
    assert metrics.bootstrap_interval(torch.ones(5, dtype=torch.bool), 10) == (1, 1)


def test_agreement_by_hand():
    before = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    after = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 2]])
    found = metrics.agreement(before, after, torch.tensor([0, 0, 0, 1]))
    same = {k: found[k] for k in ("n", "same", "both_right", "fixed", "broken", "both_wrong")}
    assert same == {"n": 4, "same": 2, "both_right": 1, "fixed": 1, "broken": 1, "both_wrong": 1}
    assert found["agreement"] == 0.5
    # the two that changed swap a probability p of logit 2 with one q of logit 0: KL = (p - q) * 2
    p, q = math.exp(2) / (math.exp(2) + 2), 1 / (math.exp(2) + 2)
    assert found["mean_kl"] == pytest.approx(2 * (p - q) * 2 / 4)


def test_agreement_with_itself(answers):
    scores, label, _ = answers
    found = metrics.agreement(scores, scores + 3, label)
    assert found["agreement"] == 1
    assert found["fixed"] == found["broken"] == 0
    assert found["mean_kl"] == pytest.approx(0, abs=1e-6)


def test_one_class():
    scores, label = torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)
    found = metrics.summary(label, metrics.rank(scores, label), metrics.confidence(scores), 1)
    assert (found["top1"], found["top5"], found["mean_class_accuracy"], found["ece"]) == (1, 1, 1, 0)
