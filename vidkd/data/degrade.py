"""What makes a view worse than its source: time taken from it, blur, lost resolution, noise, JPEG."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

from vidkd.config import Degrade
from vidkd.data import jpeg as codec


def degrade(frames: Tensor, spec: Degrade, rng: torch.Generator) -> Tensor:
    """frames [T, 3, H, W] uint8, made worse in the order of the section's fields; the same shape and type.

    After each step it is whole numbers again, as it would be in a file.
    """
    if spec.time == "shuffled":
        frames = frames[torch.randperm(len(frames), generator=rng)]
    elif spec.time == "static":
        frames = frames[len(frames) // 2].expand_as(frames)
    if spec.blur_sigma_px:
        frames = blur(frames, spec.blur_sigma_px)
    if spec.downscale > 1:
        frames = downscale(frames, spec.downscale)
    if spec.noise_std:
        noise = torch.randn(frames.shape, generator=rng) * (255 * spec.noise_std)
        frames = _whole(frames + noise)
    if spec.salt_pepper:
        frames = salt_and_pepper(frames, spec.salt_pepper, rng)
    if spec.jpeg_quality is not None:
        frames = jpeg(frames, spec.jpeg_quality)
    return frames


def blur(frames: Tensor, sigma_px: float) -> Tensor:
    """A Gaussian, cut off at three sigma or where the picture ends."""
    reach = min(math.ceil(3 * sigma_px), min(frames.shape[-2:]) - 1)
    return F.gaussian_blur(frames, [2 * reach + 1] * 2, [sigma_px] * 2) if reach else frames


def downscale(frames: Tensor, factor: float) -> Tensor:
    """The mean over areas, 1 / factor as many a side, and bilinear back to the old size."""
    height, width = frames.shape[-2:]
    small = functional.interpolate(
        frames.float(), (max(round(height / factor), 1), max(round(width / factor), 1)), mode="area"
    )
    return _whole(functional.interpolate(small.round(), (height, width), mode="bilinear"))


def salt_and_pepper(frames: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """`share` of the pixels of every frame, half of them white and half black."""
    t, _, height, width = frames.shape
    u = torch.rand(t, 1, height, width, generator=rng)
    return frames.masked_fill(u < share / 2, 0).masked_fill(u >= 1 - share / 2, 255)


def jpeg(frames: Tensor, quality: int) -> Tensor:
    """Every frame through JPEG."""
    pixels = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())
    worse = np.empty_like(pixels)
    for picture, target in zip(pixels, worse, strict=True):
        codec.decode(codec.encode(picture, quality), target)
    return torch.from_numpy(worse).permute(0, 3, 1, 2)


def _whole(frames: Tensor) -> Tensor:
    return frames.round().clamp(0, 255).to(torch.uint8)
