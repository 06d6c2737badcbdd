"""What a detector learns from annotated windows: which location answers for which action, and every loss term.

Source: Lin et al. (AFSD), CVPR 2021, section 3.4, with the constants of its public code. Times are shares of the clip,
0 where it begins and 1 where it ends; lengths in frames only where said. All terms are float32 whatever the autocast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidkd.distributed import mean_total

TERMS = ("location", "class", "refined_location", "refined_class", "quality", "start", "end")  # those of `losses`
ClassOver = Literal["actions", "refined"]
ALPHA = (0.25, 0.75)  # of the focal loss: background, actions
EPSILON = 1e-6
MIN_BOUNDARY = 2.0  # frames that a boundary is long, at least; a tenth of the action if that is more


@dataclass(frozen=True, slots=True)
class Assigned:
    """What each location of a clip stands for."""

    label: Tensor  # [B, L] int64; 0 background, k + 1 class k
    segment: Tensor  # [B, L, 2] start and end of its action; of no meaning in the background

    @property
    def positive(self) -> Tensor:
        return self.label > 0


def centres(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """[L]: the places of all locations of levels with so many samples, the finest level first."""
    return torch.cat([(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in sizes])


def level_sizes(finest: int, locations: int) -> tuple[int, ...]:
    """The samples of each level: every one has half of those of the one before, rounded up."""
    sizes = [finest]
    while sum(sizes) < locations:
        sizes.append(-(-sizes[-1] // 2))
    if sum(sizes) != locations:
        raise ValueError(f"{locations} locations are no pyramid over {finest} samples")
    return tuple(sizes)


def assign(segments: Tensor, label: Tensor, centre: Tensor) -> Assigned:
    """Each location stands for the shortest action that holds its centre; of equally long ones for the first.

    segments [B, M, 2]; label [B, M], -1 where there is none; centre [L].
    """
    order = (segments[..., 1] - segments[..., 0]).argsort(dim=1, stable=True)
    segments = segments.gather(1, order[..., None].expand_as(segments))
    label = label.gather(1, order)
    inside = (segments[..., 0, None] <= centre) & (centre <= segments[..., 1, None]) & (label >= 0)[..., None]
    m = segments.shape[1]
    first = torch.where(inside, torch.arange(m, device=inside.device)[:, None], m).amin(dim=1)  # [B, L]
    picked = first.clamp(max=m - 1)
    own = torch.where(first < m, label.gather(1, picked) + 1, 0)
    return Assigned(own, segments.gather(1, picked[..., None].expand(-1, -1, 2)))


def coarse_segments(reach: Tensor, centre: Tensor, frames: int) -> Tensor:
    """reach [B, 2, L] in frames -> [B, L, 2] start and end."""
    share = reach.float() / frames
    return torch.stack([centre - share[:, 0], centre + share[:, 1]], dim=2)


def refined_segments(reach: Tensor, refinement: Tensor, centre: Tensor, frames: int) -> Tensor:
    """Both ends moved by the refinement, which is in halves of the coarse length: [B, L, 2]."""
    reach = reach.float()
    return coarse_segments(reach + 0.5 * reach.sum(1, keepdim=True) * refinement.float(), centre, frames)


def tiou(a: Tensor, b: Tensor) -> Tensor:
    """[..., 2] and [..., 2] -> [...]: intersection over union; of segments turned around, 0."""
    both = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - both
    return both / union.clamp(min=EPSILON)


def focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    """-alpha (1 - p)^2 log p of the label's probability, summed over all: logits [B, K + 1, L], label [B, L].

    alpha is 0.25 for the background and 0.75 for actions (Lin et al., ICCV 2017, in its softmax form).
    """
    p = logits.float().softmax(dim=1).gather(1, label[:, None])[:, 0] + EPSILON
    background, action = ALPHA
    alpha = torch.where(label > 0, action, background)
    return -(alpha * (1 - p) ** 2 * p.log()).sum()


def background_loss(logits: Tensor) -> Tensor:
    """What a detector says of maps without action, [B, K + 1, L]: the focal loss of the background at every location,
    summed over them, mean over clips (AAAI 2024: of the detector's loss nothing else is left where no action is)."""
    nothing = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.long, device=logits.device)
    return focal_loss(logits, nothing) / len(logits)


def boundary_labels(segments: Tensor, label: Tensor, frames: int) -> Tensor:
    """[B, 2, T]: 1 for frames within half a boundary of a start (row 0) or an end (row 1); segments [B, M, 2].

    A boundary is a tenth of its action long, at least two frames.
    """
    at = segments * frames
    half = ((at[..., 1] - at[..., 0]) / 10).clamp(min=MIN_BOUNDARY) / 2
    frame = torch.arange(frames, device=segments.device) + 0.5
    near = (frame - at[..., None]).abs() <= half[..., None, None]  # [B, M, 2, T]
    return (near & (label >= 0)[..., None, None]).any(dim=1).float()


def boundary_loss(strength: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of probabilities with labels of the same shape, mean over all."""
    with torch.autocast(strength.device.type, enabled=False):
        return F.binary_cross_entropy(strength.float().clamp(0, 1), target)


def losses(
    said: Mapping[str, Tensor],
    segments: Tensor,
    label: Tensor,
    refined_from: float,
    pooled: bool,
    class_over: ClassOver = "refined",
) -> dict[str, Tensor]:
    """Every term, unweighted. `said` holds the detector's logits and taps; segments [B, M, 2], label [B, M].

    `refined_from`: the tIoU of a coarse segment from which its refinement counts as an action. `pooled`: labels of
    boundaries come to the finest level by their maximum, so that none is lost; else every n-th is taken. `class_over`:
    what the sum of refined_class, over all locations, is divided by: how many locations are to be refined, at least 1
    ("refined", AFSD's code); or how many stand for an action, as the coarse class is ("actions"). Both are counted over
    the clips of all processes (`mean_total`). Of the former there
    are none at first, and the background of all locations then pulls many times as hard as any other term: classes
    begin to be learned later, by some 100 steps of a small detector without weights, and end as well.
    """
    frames, finest = said["frame_boundary"].shape[2], said["level_boundary"].shape[2]
    centre = centres(level_sizes(finest, said["logits"].shape[2]), segments.device)
    own = assign(segments, label, centre)
    coarse = coarse_segments(said["reach"], centre, frames)
    refined = refined_segments(said["reach"], said["refinement"], centre, frames)
    overlap = tiou(coarse, own.segment)
    positive, good = own.positive, own.positive & (overlap.detach() >= refined_from)
    n, n_good = mean_total(positive.sum()), mean_total(good.sum())
    length = (coarse[..., 1] - coarse[..., 0]).detach()[..., None]
    # ends move outwards by their refinement: the start to the left, the end to the right
    wanted = (own.segment - coarse.detach()) * torch.tensor([-1.0, 1.0], device=centre.device) / (0.5 * length)
    miss = (said["refinement"].float().transpose(1, 2) - wanted).abs().sum(dim=2)
    worth = tiou(refined, own.segment).detach()
    guess = F.binary_cross_entropy_with_logits(said["quality"][:, 0].float(), worth, reduction="none")
    at_frames = boundary_labels(segments, label, frames)
    at_level = _shorter(at_frames, finest, pooled)
    level = said["level_boundary"].unflatten(1, (2, 2))  # branch, side
    terms = {
        "location": ((1 - overlap) * positive).sum() / n,
        "class": focal_loss(said["coarse_logits"], own.label) / n,
        "refined_location": (miss * good).sum() / n_good,
        "refined_class": focal_loss(said["logits"], torch.where(good, own.label, 0))
        / (n if class_over == "actions" else n_good),
        "quality": (guess * positive).sum() / n,
    }
    for side, name in enumerate(("start", "end")):
        branches = sum(boundary_loss(level[:, b, side], at_level[:, side]) for b in range(2))
        terms[name] = boundary_loss(said["frame_boundary"][:, side], at_frames[:, side]) + 0.1 * branches
    return terms


def _shorter(labels: Tensor, samples: int, pooled: bool) -> Tensor:
    """[B, 2, T] -> [B, 2, samples]."""
    if pooled:
        return F.adaptive_max_pool1d(labels, samples)
    return F.interpolate(labels, size=samples)
