"""What a detector learns of another's segments, by hand."""

import math

import pytest
import torch

from vidkd import models
from vidkd.errors import ConfigError
from vidkd.methods import localisation
from vidkd.methods.localisation import quality_loss, reach_loss
from vidkd.types import ClipBatch, View

K = 2
SMALL = {"backbone": "tiny4", "frames": 16, "size_px": 16, "width": 32, "levels": 3}
BATCH = ClipBatch({"student": torch.zeros(2, 3, 1, 1, 1)}, torch.tensor([0, 1]), ("a", "b"))


def test_one_less_tiou_of_both_segments_by_hand():
    """From the same place 4 to the left and 6 to the right, and 2 and 9: 8 of 13 frames are in both."""
    student, teacher = torch.tensor([[[4.0], [6.0]]]), torch.tensor([[[2.0], [9.0]]])
    assert reach_loss(student, teacher, torch.ones(1, 1)).item() == pytest.approx(1 - 8 / 13)
    assert reach_loss(teacher, teacher, torch.ones(1, 1)).item() == 0


def test_where_the_teacher_is_sure_of_the_background_nothing_is_learned():
    student = torch.tensor([[[4.0, 1.0], [6.0, 1.0]]], requires_grad=True)
    teacher = torch.tensor([[[2.0, 5.0], [9.0, 5.0]]])
    loss = reach_loss(student, teacher, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(1 - 8 / 13)
    loss.backward()
    assert student.grad is not None and student.grad[0, :, 0].all() and not student.grad[0, :, 1].any()
    assert reach_loss(student, teacher, torch.zeros(1, 2)).item() == 0


def test_the_mean_is_over_all_clips_and_weighted():
    student, teacher = torch.ones(2, 2, 3), torch.ones(2, 2, 3)
    teacher[1, :, 2] = 3.0  # tIoU 1/3
    sure = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 1.0]])
    assert reach_loss(student, teacher, sure).item() == pytest.approx((2 / 3) / 5)


def test_qualities_are_compared_as_probabilities():
    student, teacher = torch.tensor([[[0.0]]]), torch.tensor([[[math.log(3)]]])  # 1/2, 3/4
    assert quality_loss(student, teacher, torch.tensor([[0.5]])).item() == pytest.approx(0.5 * 0.25**2)  # of at least 1
    assert quality_loss(student, teacher, torch.tensor([[2.0]])).item() == pytest.approx(0.25**2)


def test_it_teaches_every_segment_and_the_weights_are_as_the_detectors_own():
    torch.manual_seed(0)
    student, teacher = (models.build("detector", K, **SMALL) for _ in range(2))
    method = localisation.Method(localisation.Config(kind="localisation"), student, teacher, K)
    assert (method.config.weight("reach", 0), method.config.weight("quality", 0)) == (10.0, 1.0)
    video = torch.rand(2, 3, 16, 16, 16)
    with torch.no_grad():
        seen = teacher(video)
    terms = method(BATCH, student(video), seen)
    assert set(terms) == set(method.terms())
    for name, layer in (("reach", student.net.heads.reach), ("quality", student.net.heads.quality)):
        found = torch.autograd.grad(terms[name], layer.conv.weight, retain_graph=True)[0]
        assert found.abs().max() > 0
    own = method(BATCH, seen, seen)
    assert own["reach"] == own["quality"] == 0


def test_what_cannot_be_compared():
    student, other = models.build("detector", K, **SMALL), models.build("tiny4", K)
    config = localisation.Config(kind="localisation")
    for pair in ((student, other), (other, student)):
        with pytest.raises(ConfigError, match="between detectors; tiny4 is none"):
            localisation.Method(config, *pair, K)
    method = localisation.Method(config, student, student, K)
    taps = {"reach": torch.ones(2, 2, 28), "quality": torch.zeros(2, 1, 28)}
    shorter = {name: t[..., :12] for name, t in taps.items()}
    with pytest.raises(ConfigError, match="need the same frames, levels and classes; answers: "):
        method(BATCH, View(torch.zeros(2, K + 1, 28), taps), View(torch.zeros(2, K + 1, 12), shorter))
