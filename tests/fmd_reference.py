"""The image networks of FMD, built from ../shared/methods/fmd.md, section 2: what the published figures are about."""

import torch
from torch import Tensor, nn

STAGES = (4, 4, 7)  # blocks


class Edge(nn.Module):
    """x [B, C, H, W] beside 16 new channels: [B, C + 16, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 16, 3, padding=1),
            nn.BatchNorm2d(16),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.change = nn.Sequential(conv[0], nn.BatchNorm2d(channels), nn.ReLU(), conv[1], nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


class Reference(nn.Module):
    """[B, 3, H, W] -> (shallow map, deep map, logits), the maps signed. `residuals` blocks end each stage of a teacher;
    the student has none."""

    def __init__(self, residuals: int, num_classes: int = 7) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.MaxPool2d(3, 2, 1))
        stages, channels = [], 32
        for blocks in STAGES:
            edges = [Edge(channels + 16 * i) for i in range(blocks)]
            channels += 16 * blocks
            stages.append(nn.Sequential(*edges, *(Residual(channels) for _ in range(residuals))))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (9 * module.out_channels)) ** 0.5)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shallow = self.stages[0](self.stem(picture))
        deep = self.stages[1](nn.functional.avg_pool2d(shallow, 2))
        last = self.stages[2](nn.functional.avg_pool2d(deep, 2))
        return shallow, deep, self.head(last.relu().mean((2, 3)))
