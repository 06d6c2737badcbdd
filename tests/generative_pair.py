"""A small student and teacher with attention, and generative attention distillation between them."""

import torch

from vidkd import models
from vidkd.methods import generative_attention as ga
from vidkd.models import attention
from vidkd.models.attention import AttentionSection
from vidkd.taps import Frozen
from vidkd.types import ClipBatch

FRAMES, SIZE_PX = 4, 16
BATCH = ClipBatch({"student": torch.zeros(2, 3, 1, 1, 1)}, torch.tensor([0, 1]), ("a", "b"))


def network(name="tiny16", **section):
    return attention.attach(models.build(name, 3), AttentionSection(**section), FRAMES, SIZE_PX)


def made(student="tiny16", teacher="tiny16", **options):
    """A method, and the views of a student and a teacher of one clip batch; the student's in its graph."""
    torch.manual_seed(0)
    own, theirs = network(student), None if teacher is None else network(teacher)
    method = ga.Method(ga.Config(kind="generative_attention", **options), own, theirs, 3)
    video = torch.rand(2, 3, FRAMES, SIZE_PX, SIZE_PX)
    return method, own, own(video), None if theirs is None else Frozen(theirs)(video)
