"""Every loss term of the detector against its specification (AFSD, CVPR 2021, section 3.4, with the constants of its
code), written out location by location with plain loops and numbers."""

import math

import pytest
import torch

from vidkd.tasks import _detection_losses as losses

K, FRAMES, SIZES = 3, 64, (16, 8, 4)
SEGMENTS = torch.tensor([[[0.1, 0.4], [0.15, 0.25]], [[0.3, 0.8], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
LABEL = torch.tensor([[0, 2], [1, -1], [-1, -1]])  # of the third clip nothing is said


def answers(seed):
    """What a detector may say of three clips: coarse segments near and far from right."""
    rng = torch.Generator().manual_seed(seed)
    n = sum(SIZES)

    def drawn(*shape):
        return torch.randn(3, *shape, generator=rng)

    return {
        "logits": drawn(K + 1, n), "coarse_logits": drawn(K + 1, n), "reach": (drawn(2, n) * 0.6 + 2).exp(),
        "refinement": 0.3 * drawn(2, n), "quality": drawn(1, n), "frame_boundary": drawn(2, FRAMES).sigmoid(),
        "level_boundary": drawn(4, SIZES[0]).sigmoid(),
    }  # fmt: skip


def iou(a, b):
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / ((a[1] - a[0]) + (b[1] - b[0]) - both)


def focal(logits, label):
    p = math.exp(logits[label]) / sum(math.exp(v) for v in logits) + 1e-6
    return -(0.75 if label else 0.25) * (1 - p) ** 2 * math.log(p)


def bce(p, y):
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def reference(said, refined_from, pooled, class_over):
    sums = dict.fromkeys(("location", "class", "refined_location", "refined_class", "quality"), 0.0)
    positives = good = 0
    for clip in range(3):
        actions = [
            (*(FRAMES * s).tolist(), k + 1) for s, k in zip(SEGMENTS[clip], LABEL[clip].tolist(), strict=True) if k >= 0
        ]
        centres = [(i + 0.5) / size * FRAMES for size in SIZES for i in range(size)]
        for at, centre in enumerate(centres):
            column = {name: said[name][clip, :, at].tolist() for name in said if not name.endswith("boundary")}
            own = min((a for a in actions if a[0] <= centre <= a[1]), key=lambda a: a[1] - a[0], default=None)
            sums["class"] += focal(column["coarse_logits"], own[2] if own else 0)
            left, right = column["reach"]
            fits = own is not None and iou((centre - left, centre + right), own) >= refined_from
            sums["refined_class"] += focal(column["logits"], own[2] if fits else 0)
            if own is None:
                continue
            positives += 1
            sums["location"] += 1 - iou((centre - left, centre + right), own)
            half = 0.5 * (left + right)
            move = column["refinement"]
            refined = (centre - left - half * move[0], centre + right + half * move[1])
            sums["quality"] += bce(1 / (1 + math.exp(-column["quality"][0])), iou(refined, own))
            if fits:
                good += 1
                wanted = ((centre - own[0]) - left) / half, ((own[1] - centre) - right) / half
                sums["refined_location"] += sum(abs(m - w) for m, w in zip(move, wanted, strict=True))
    over = {"class": positives, "location": positives, "quality": positives, "refined_location": good,
            "refined_class": positives if class_over == "actions" else good}  # fmt: skip
    assert positives > 20 and good > 5
    return {name: total / over[name] for name, total in sums.items()} | boundaries(said, pooled)


def boundaries(said, pooled):
    """The mean over frames and clips, and a tenth of that of each branch."""
    every, n = FRAMES // SIZES[0], SIZES[0]
    found = {"start": 0.0, "end": 0.0}
    for side, name in enumerate(found):
        frames, branches = [], [[], []]
        for clip in range(3):
            actions = [(FRAMES * s).tolist() for s, k in zip(SEGMENTS[clip], LABEL[clip], strict=True) if k >= 0]
            near = [
                any(abs(t + 0.5 - a[side]) <= max((a[1] - a[0]) / 10, 2) / 2 for a in actions) for t in range(FRAMES)
            ]
            frames += [bce(p, y) for p, y in zip(said["frame_boundary"][clip, side].tolist(), near, strict=True)]
            short = [any(near[i * every : (i + 1) * every]) if pooled else near[i * every] for i in range(n)]
            for branch in range(2):
                own = said["level_boundary"][clip, 2 * branch + side].tolist()
                branches[branch] += [bce(p, y) for p, y in zip(own, short, strict=True)]
        found[name] = sum(frames) / len(frames) + 0.1 * sum(sum(b) / len(b) for b in branches)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("class_over", ["refined", "actions"])
def test_every_term_of_a_batch_of_three(seed, pooled, class_over):
    said = answers(seed)
    found = losses.losses(said, SEGMENTS, LABEL, 0.3, pooled, class_over)
    expected = reference(said, 0.3, pooled, class_over)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-4)
