"""Boundary max pooling (Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization,
CVPR 2021, section 3.3) in PyTorch alone: for any device, dtype and autograd, with no compiled part."""

import torch
from torch import Tensor


def boundary_max_pool(x: Tensor, segments: Tensor) -> Tensor:
    """x [B, C, T] with C even, segments [B, K, 4] in samples of T -> [B, C, K].

    Output k of the first half of the channels is their maximum over samples segments[k, 0] to segments[k, 1], of the
    second half over segments[k, 2] to segments[k, 3]. Bounds are truncated towards zero, then clamped to 0..T - 1; both
    ends count; where the end comes before the start, it is the sample at the start. Of equal maxima the first takes
    the whole gradient. No gradient flows to `segments`.

    A table of maxima over windows of 1, 2, 4, ... samples answers every query with two look-ups, so the memory is that
    of x, not of one copy of it a query. ValueError for an odd C or other shapes.
    """
    b, channels, t = x.shape
    if channels % 2 or segments.ndim != 3 or segments.shape[0] != b or segments.shape[2] != 4:
        raise ValueError(f"x [B, even C, T] and segments [B, K, 4], got {tuple(x.shape)} and {tuple(segments.shape)}")
    halves = x.reshape(b, 2, channels // 2, t)
    best = _argmax_over(halves.detach(), *_bounds(segments.detach(), t))
    return halves.gather(-1, best).reshape(b, channels, -1)


def _bounds(segments: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """[B, K, 4] -> first and last sample, each [B, 2, K]."""
    whole = segments.float().trunc().clamp(0, t - 1).long()
    low, high = whole[..., 0::2].transpose(1, 2), whole[..., 1::2].transpose(1, 2)
    return low, torch.maximum(low, high)


def _argmax_over(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x [B, 2, C, T]; low and high [B, 2, K] -> [B, 2, C, K]: where the first maximum of each range is."""
    b, two, c, t = x.shape
    queries = (b, two, c, low.shape[2])
    length = high - low + 1
    depths = max(t.bit_length(), 1)
    powers = 2 ** torch.arange(depths, device=x.device)
    level = (length[..., None] >= powers).sum(-1) - 1  # floor(log2(length)), exactly
    table = torch.arange(t, device=x.device).expand(b, two, c, t)  # where the maximum of each window is
    found = torch.zeros(queries, dtype=torch.long, device=x.device)
    width = 1
    for depth in range(depths):
        most = table.shape[-1] - 1
        left = table.gather(-1, low.clamp(max=most)[:, :, None].expand(queries))
        right = table.gather(-1, (high - width + 1).clamp(0, most)[:, :, None].expand(queries))
        found = torch.where((level == depth)[:, :, None], _better(x, left, right), found)
        if 2 * width > t:
            break
        table = _better(x, table[..., :-width], table[..., width:])
        width *= 2
    return found


def _better(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Of two positions in x, the one with the larger value; the left one where they are equal."""
    return torch.where(x.gather(-1, right) > x.gather(-1, left), right, left)
