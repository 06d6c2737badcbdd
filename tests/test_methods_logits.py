"""Distillation of the class distribution: by hand, by its laws, and where labels are mixed."""

import math

import pytest
import torch
import torch.nn.functional as F

from vidkd import models
from vidkd.methods import logits
from vidkd.types import ClipBatch, View

TEMPERATURES = [1.0, 4.0, 10.0]


@pytest.fixture
def pair():
    """Student's and teacher's logits [6, 5], labels [6]."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(6, 5, generator=rng) * 2, torch.randn(6, 5, generator=rng) * 4, torch.arange(6) % 5


def method(**options):
    tiny = models.build("tiny4", 5)
    return logits.Method(logits.Config(kind="logits", **options), tiny, tiny, 5)


def terms(options, student, teacher, label, target=None):
    views = {"student": torch.zeros(len(label), 3, 1, 1, 1)}
    batch = ClipBatch(views, label, tuple(map(str, range(len(label)))), target)
    return method(**options)(batch, View(student, {}), View(teacher, {}))


def test_kd_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2."""
    found = logits.kd_loss(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), 1.0)
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_temperature_softens_and_its_square_keeps_the_size():
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    soft = logits.kd_loss(student, teacher, 2.0)
    assert float(soft) == pytest.approx(4 * float(logits.kd_loss(student, teacher / 2, 1.0)), rel=1e-6)


def test_kd_is_a_mean_over_clips(pair):
    student, teacher, _ = pair
    alone = [logits.kd_loss(student[i : i + 1], teacher[i : i + 1], 4.0) for i in range(6)]
    assert torch.allclose(logits.kd_loss(student, teacher, 4.0), torch.stack(alone).mean())


def test_the_mean_over_all_entries_hides_a_share_of_the_classes(pair):
    """FMD's release takes that mean: its weight 0.8 for 7 classes is 0.8 / 7 here, whatever the number of classes."""
    student, teacher, _ = pair
    t = 20.0
    every = t * t * F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="none")
    assert torch.allclose(every.mean(), logits.kd_loss(student, teacher, t) / student.shape[1])


def test_gradient_at_a_high_temperature_is_a_difference_of_centred_logits(pair):
    """Hinton et al., section 2: for a temperature far above the logits, (z - v) / K per clip, both centred."""
    student, teacher, _ = pair
    student, teacher = (x - x.mean(dim=1, keepdim=True) for x in (student, teacher))
    student.requires_grad_()
    logits.kd_loss(student, teacher, 2000.0).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, (student.detach() - teacher) / 5 / 6, atol=2e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_parts_make_up_kd_clip_by_clip(pair, temperature):
    student, teacher, label = pair
    p_label = (teacher / temperature).softmax(dim=1).gather(1, label[:, None])[:, 0]
    for i in range(6):
        one = slice(i, i + 1)
        target, non_target = logits.dkd_losses(student[one], teacher[one], label[one], temperature)
        whole = logits.kd_loss(student[one], teacher[one], temperature)
        assert torch.allclose(whole, target + (1 - p_label[i]) * non_target, rtol=1e-5)


def test_dkd_by_hand():
    """Teacher (1/2, 3/8, 1/8), student uniform, label 0."""
    student, teacher = torch.zeros(1, 3), torch.tensor([[4.0, 3.0, 1.0]]).log()
    target, non_target = logits.dkd_losses(student, teacher, torch.tensor([0]), 1.0)
    assert float(target) == pytest.approx(0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3)))
    assert float(non_target) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


@pytest.mark.parametrize("form", ["kd", "dkd"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_answers_cost_nothing(pair, form, temperature):
    _, teacher, label = pair
    for value in terms({"form": form, "temperature": temperature}, teacher + 7, teacher, label).values():
        assert float(value) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("form", ["kd", "dkd"])
def test_unequal_answers_cost_something_and_descent_lowers_it(pair, form):
    student, teacher, label = pair
    moved = student.clone().requires_grad_()
    before = sum(terms({"form": form}, moved, teacher, label).values())
    before.backward()
    assert moved.grad is not None
    after = sum(terms({"form": form}, student - 0.1 * moved.grad, teacher, label).values())
    assert 0 < float(after) < float(before.detach())


@pytest.mark.parametrize("form", ["kd", "dkd"])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits_stay_finite(pair, form, size):
    """A teacher that is as good as sure: p = 1 in float32."""
    student, teacher, label = pair
    student = (student * size).requires_grad_()
    found = terms({"form": form, "temperature": 1.0}, student, teacher * size, label)
    sum(found.values()).backward()
    assert all(torch.isfinite(value) for value in found.values())
    assert torch.isfinite(student.grad).all()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", ["kd", "dkd"])
def test_half_precision_in_float32_out(pair, form):
    student, teacher, label = pair
    found = terms({"form": form}, student.half(), teacher.bfloat16(), label)
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_names_of_terms_and_their_weights():
    assert logits.Config(kind="logits").weight("kd", 0) == 0.9
    assert logits.Config(kind="logits", form="dkd").weight("non_target", 0) == 8.0


def test_a_mixed_clip_belongs_to_the_class_that_holds_more_of_it(pair):
    student, teacher, label = pair
    other = (label + 1) % 5
    target = 0.3 * F.one_hot(label, 5) + 0.7 * F.one_hot(other, 5)
    assert terms({"form": "dkd"}, student, teacher, label, target) == terms({"form": "dkd"}, student, teacher, other)
    assert terms({"form": "kd"}, student, teacher, label, target) == terms({"form": "kd"}, student, teacher, label)
