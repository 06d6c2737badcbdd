"""Mixup and CutMix of clips: the same partner, share and place in every view: both networks see one mixture."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidkd.config import Augment
from vidkd.errors import ConfigError
from vidkd.types import ClipBatch

Box = tuple[float, float, float, float]  # top, left, bottom, right, as shares of the picture's sides


def mix(batch: ClipBatch, augment: Augment, num_classes: int, generator: torch.Generator) -> ClipBatch:
    """Each clip mixed with a partner from the batch: views float in 0..1, soft labels in `target`.

    One method a batch, an equal chance for each where both are on. The batch itself where none is on, or where
    `mix_probability` says so.
    """
    methods = [m for m in ("mixup", "cutmix") if getattr(augment, f"{m}_alpha") > 0]
    if not methods:
        return batch
    if batch.extra:
        raise ConfigError(f"data.augment: {methods[0]} mixes labels, but this task's truth is {', '.join(batch.extra)}")
    chance, which, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    partner = torch.randperm(len(batch.label), generator=generator).to(batch.label.device)
    seed = int(torch.randint(2**62, (), generator=generator))
    if chance >= augment.mix_probability:
        return batch
    method = methods[int(which * len(methods))]
    alpha = getattr(augment, f"{method}_alpha")
    keep = float(np.random.default_rng(seed).beta(alpha, alpha))
    if method == "mixup":
        views = {name: keep * _float(v) + (1 - keep) * _float(v)[partner] for name, v in batch.views.items()}
    else:
        box = random_box(1 - keep, y, x)
        views = {name: paste(_float(v), partner, box) for name, v in batch.views.items()}
        keep = 1 - area(box, batch.views.get("student", next(iter(batch.views.values()))))
    labels = F.one_hot(batch.label, num_classes).float()
    return replace(batch, views=views, target=keep * labels + (1 - keep) * labels[partner])


def random_box(share: float, y: float, x: float) -> Box:
    """A box of the picture's own shape that takes `share` of its area, centred at (y, x); what sticks out is lost."""
    half = share**0.5 / 2
    return max(y - half, 0.0), max(x - half, 0.0), min(y + half, 1.0), min(x + half, 1.0)


def paste(video: Tensor, partner: Tensor, box: Box) -> Tensor:
    """video [B, 3, T, H, W] with each clip's partner inside the box, in every frame."""
    rows, columns = _pixels(box, video)
    video = video.clone()
    video[..., rows, columns] = video[partner][..., rows, columns]
    return video


def area(box: Box, video: Tensor) -> float:
    """The share of the pixels of `video` that lie in the box."""
    rows, columns = _pixels(box, video)
    height, width = video.shape[-2:]
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _pixels(box: Box, video: Tensor) -> tuple[slice, slice]:
    height, width = video.shape[-2:]
    top, left, bottom, right = box
    return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))


def _float(video: Tensor) -> Tensor:
    return video.float() / 255 if video.dtype == torch.uint8 else video
