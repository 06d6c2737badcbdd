"""A method of the tests: two heads of its own that learn in turn while the student learns from both."""

import torch
from torch import Tensor, nn

from vidkd.methods._base import BaseMethod, MethodSection
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, View


class Config(MethodSection):
    """No keys of its own."""


class Method(BaseMethod[Config]):
    def __init__(self, config: Config, student: Tapped, teacher: Tapped, num_classes: int) -> None:
        super().__init__(config, student, teacher, num_classes)
        channels = student.taps["late"].channels
        self.heads = nn.ModuleList(nn.Linear(channels, num_classes) for _ in range(2))
        self.scale = nn.BatchNorm1d(channels)  # a buffer that a checkpoint must hold too

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        pooled = self.scale(student.taps["late"].mean((2, 3, 4)))
        pooled = nn.functional.dropout(pooled, 0.2, self.training)
        answers = [torch.log_softmax(head(pooled), 1) for head in self.heads]
        return {f"head{k}": -(teacher.logits.softmax(1) * a).sum(1).mean() for k, a in enumerate(answers)}

    def learns(self, name: str, step: int) -> bool:
        return ".heads." not in name or f".heads.{step % 2}." in name
