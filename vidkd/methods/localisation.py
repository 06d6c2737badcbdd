"""Distillation of where a detector sees actions: the student's segments match the teacher's, location by location.

The teacher's answers count by how sure it is that something happens there: what its segments of the background are,
nothing has taught it. The distance of two segments is 1 - tIoU, as in the detector's own loss (AFSD, CVPR 2021,
section 3.4); learning from a teacher's boundaries beside its classes is Zheng et al., CVPR 2022 (LD), in pictures.
"""

import torch
from torch import Tensor

from vidkd.distributed import mean_total
from vidkd.errors import ConfigError
from vidkd.methods._base import BaseMethod, MethodSection
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, View

TAPS = ("reach", "quality")


class Config(MethodSection):
    def default_weight(self, term: str) -> float:
        return {"reach": 10.0}.get(term, 1.0)


class Method(BaseMethod[Config]):
    def __init__(self, config: Config, student: Tapped, teacher: Tapped, num_classes: int) -> None:
        super().__init__(config, student, teacher, num_classes)
        for network in (student, teacher):
            if not set(TAPS) <= network.taps.keys():
                raise ConfigError(f"it is distilled between detectors; {network.name} is none")

    def teacher_taps(self) -> list[str]:
        return list(TAPS)

    def terms(self) -> list[str]:
        return list(TAPS)

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        if student.logits.shape != teacher.logits.shape:
            shapes = f"{list(student.logits.shape)} and {list(teacher.logits.shape)}"
            raise ConfigError(
                f"localisation: both detectors need the same frames, levels and classes; answers: {shapes}"
            )
        sure = 1 - teacher.logits.float().softmax(dim=1)[:, 0]
        return {
            "reach": reach_loss(student.taps["reach"], teacher.taps["reach"], sure),
            "quality": quality_loss(student.taps["quality"], teacher.taps["quality"], sure),
        }


def reach_loss(student: Tensor, teacher: Tensor, sure: Tensor) -> Tensor:
    """1 - tIoU of the segments that reach [B, 2, L] (frames to both sides, positive) from each location; the mean over
    all B x L, on every process (`mean_total`), weighted by `sure` [B, L] in 0..1."""
    s, t = student.float(), teacher.float()
    both, either = torch.minimum(s, t).sum(dim=1), torch.maximum(s, t).sum(dim=1)
    return (sure * (1 - both / either)).sum() / mean_total(sure.sum())


def quality_loss(student: Tensor, teacher: Tensor, sure: Tensor) -> Tensor:
    """Squared difference of the probabilities of logits [B, 1, L], the mean weighted as above."""
    gap = (student.float().sigmoid() - teacher.float().sigmoid())[:, 0] ** 2
    return (sure * gap).sum() / mean_total(sure.sum())
