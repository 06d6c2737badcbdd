"""Learning boundaries without labels of them: an action is cut in two, and background is put between the parts.

Source: Lin et al. (AFSD), CVPR 2021, section 3.4 (boundary contrastive learning). Where the first part ends and the
second begins the action only pauses, so the two look alike; the background in between begins otherwise.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vidkd.distributed import mean_total
from vidkd.models._boundary import boundary_max_pool
from vidkd.models._heads import windows

MARGIN = 1.0
OF_BRANCHES = 0.1  # the weight of each branch's features beside those of the frames
NO_CUT = (0, 0, 0, 0, 0)
Span = tuple[float, float]


def cut(own: Sequence[Span], every: Sequence[Span], shortest: float, frames: int, rng: torch.Generator) -> list[int]:
    """(start, end, at, moved, length) in frames of a window of `frames`: the action from `start` to `end` is cut before
    frame `at`, and the `length` frames of background from `moved` on go there; `NO_CUT` where that cannot be done.

    `own`: the actions that may be cut, `every`: all that happens, in frames of the window. `shortest`: how long the
    shortest action of the video is; what is moved is as long, rounded up. An action is cut that is more than twice as
    long, at least so far from both its ends. What is moved touches nothing of `every`, and lies inside the window.
    """
    length = max(math.ceil(shortest), 1)
    whole = [(max(math.ceil(start), 0), min(math.floor(end), frames)) for start, end in own]
    able = [(start, end) for start, end in whole if end - start > 2 * length]
    free = [
        moved
        for moved in range(frames - length + 1)
        if all(moved + length <= start or end <= moved for start, end in every)
    ]
    if not able or not free:
        return list(NO_CUT)
    start, end = able[_pick(len(able), rng)]
    at = start + length + _pick(end - start - 2 * length + 1, rng)
    return [start, end, at, free[_pick(len(free), rng)], length]


def order(cuts: Tensor, frames: int) -> Tensor:
    """cuts [B, 5 or more] -> [B, frames] int64: which frame of the clip stands at each place of the altered one."""
    at, moved, length = (cuts[:, i, None] for i in (2, 3, 4))
    frame = torch.arange(frames, device=cuts.device).expand(len(cuts), frames)
    taken = (moved <= frame) & (frame < moved + length)
    return torch.where(taken, at - 0.5, frame.double()).argsort(dim=1, stable=True)


def parts(cuts: Tensor) -> Tensor:
    """cuts [B, 5 or more] -> [B, 3, 2] begin and end, in frames of the altered clip, of the action's
    first part, of its second part and of the background between them."""
    start, end, at, moved, length = cuts[:, :5].unbind(1)
    before = torch.where(moved < at, length, 0)  # background from before the action: its first part comes earlier
    first = torch.stack([start - before, at - before], dim=1)
    second = torch.stack([at - before + length, end - before + length], dim=1)
    between = torch.stack([at - before, at - before + length], dim=1)
    return torch.stack([first, second, between], dim=1)


def triplet_loss(frame: Tensor, level: Tensor, cuts: Tensor) -> Tensor:
    """The triplet loss of what is pooled at three boundaries of altered clips: the end of the first part is to be
    closer to the start of the second one than to the start of the background, by 1 (Euclidean).

    frame [B, C, T] and level [B, 4C, T_0], the detector's features; mean over the clips that were cut, on whichever
    process (`mean_total`), 0 if none was.
    The two branches' features on the finest level count a tenth of those of the frames.
    """
    kept = cuts[:, 4] > 0
    count = mean_total(kept.sum())  # asked of every process, also of one that has none
    if not kept.any():
        return frame.new_zeros((), dtype=torch.float32)
    spans, frames = parts(cuts[kept]).float(), frame.shape[2]
    terms = [_triplet(frame[kept], spans, inclusive=True)]
    scaled = spans * (level.shape[2] / frames)
    terms += [OF_BRANCHES * _triplet(branch, scaled, inclusive=False) for branch in level[kept].chunk(2, dim=1)]
    return torch.stack(terms).sum() / count


def _triplet(features: Tensor, spans: Tensor, inclusive: bool) -> Tensor:
    """The sum over clips: features [B, C, T] with the channels of starts first; spans [B, 3, 2] in samples of T."""
    reach = torch.stack([-spans[..., 0], spans[..., 1]], dim=1)
    where = windows(torch.zeros(3, device=spans.device), reach, inclusive)
    starts, ends = boundary_max_pool(features.float(), where).chunk(2, dim=1)
    return F.triplet_margin_loss(ends[..., 0], starts[..., 1], starts[..., 2], margin=MARGIN, reduction="sum")


def _pick(n: int, rng: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=rng))
