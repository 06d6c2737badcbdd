"""Distillation of the class distribution: the student matches the teacher's softened logits.

`form: kd` is Hinton et al. (2015), section 2. `form: dkd` is decoupled distillation, Zhao et al. (CVPR 2022),
equations 4 to 7: the binary part (target class or not) and the rest, weighted apart.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vidkd.methods._base import BaseMethod, MethodSection
from vidkd.types import ClipBatch, View


class Config(MethodSection):
    form: Literal["kd", "dkd"] = "kd"
    temperature: float = Field(default=4.0, gt=0)

    def default_weight(self, term: str) -> float:
        return {"kd": 0.9, "target": 1.0, "non_target": 8.0}.get(term, 1.0)


class Method(BaseMethod[Config]):
    def terms(self) -> list[str]:
        return ["kd"] if self.config.form == "kd" else ["target", "non_target"]

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        if self.config.form == "kd":
            return {"kd": kd_loss(student.logits, teacher.logits, self.config.temperature)}
        # A mixed clip has two labels: its target class is the one that holds more of it.
        label = batch.label if batch.target is None else batch.target.argmax(dim=1)
        target, non_target = dkd_losses(student.logits, teacher.logits, label, self.config.temperature)
        return {"target": target, "non_target": non_target}


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of logits [B, K] softened by `temperature`, mean over B, times temperature squared.

    The factor keeps the gradient's size independent of the temperature. In float32 whatever the autocast.
    """
    log_s = F.log_softmax(student.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


def dkd_losses(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two parts of KL(teacher || student): logits [B, K], label [B] -> (target class, non-target classes).

    First the KL between (p_label, 1 - p_label); then the KL between the distributions over the other K - 1 classes.
    Both are means over B times temperature squared; kd = target + (1 - p_teacher(label)) * non_target, clip by clip.
    """
    s, t = student.float() / temperature, teacher.float() / temperature
    others = F.one_hot(label, s.shape[1]).logical_not()

    def binary(logits: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1)
        own = log_p.gather(1, label[:, None])
        # log(1 - p) as a sum over the others stays exact when p is close to 1
        rest = log_p[others].view(len(label), -1).logsumexp(dim=1, keepdim=True)
        return torch.cat([own, rest], dim=1)

    def rest(logits: Tensor) -> Tensor:
        return F.log_softmax(logits[others].view(len(label), -1), dim=1)

    def kl(log_s: Tensor, log_t: Tensor) -> Tensor:
        return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2

    return kl(binary(s), binary(t)), kl(rest(s), rest(t))
