"""The few values that travel between packages. They check themselves at the border; the interior trusts them.

Shape letters, the same in every file:
    B clips   C channels   T frames   H height   W width   K classes   V test views
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """What a loader yields: the same clips as each network sees them."""

    views: dict[str, Tensor]  # network -> [B, 3, T, H, W], uint8 in 0..255 or float in 0..1 (after mixing)
    label: Tensor  # [B] int64
    clip: tuple[str, ...]  # B names, unique in the index
    target: Tensor | None = None  # [B, K] soft labels, where mixup or CutMix made some
    address: Tensor | None = (
        None  # [B, 2] int64, (address epoch, position in the part): what a teacher cache is keyed by
    )
    extra: dict[str, Tensor] = field(default_factory=dict)  # what a task adds: "saliency": [B, T, H, W] in 0..1

    def __post_init__(self) -> None:
        for name, video in self.views.items():
            if video.ndim != 5 or video.shape[0] != len(self.label):
                raise ValueError(f"view {name!r} must be [{len(self.label)}, 3, T, H, W], got {tuple(video.shape)}")
        if self.label.ndim != 1 or len(self.clip) != len(self.label):
            raise ValueError(f"{len(self.clip)} clip names for labels of shape {tuple(self.label.shape)}")

    def seen_by(self, network: str) -> Tensor:
        """The view made for `network`; ValueError if the loader was not asked for it."""
        if network not in self.views:
            raise ValueError(f"the batch has no view {network!r}; it has: {', '.join(sorted(self.views))}")
        return self.views[network]

    def to(self, device: torch.device) -> "ClipBatch":
        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}

        target = None if self.target is None else self.target.to(device)
        return replace(self, views=move(self.views), label=self.label.to(device), target=target, extra=move(self.extra))


@dataclass(frozen=True, slots=True)
class View:
    """What one network made of one batch."""

    logits: Tensor  # [B, K]
    taps: dict[str, Tensor]  # tap name -> the tap's axes, [B, C, T, H, W] unless it says otherwise
    video: Tensor | None = None  # [B, 3, T, H, W] the normalised input; None where it was replayed from a cache
