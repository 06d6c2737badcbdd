"""The detector's heads against their specification (AFSD, CVPR 2021, sections 3.2 and 3.3), written out location by
location with plain loops."""

import pytest
import torch
import torch.nn.functional as F

from vidkd import models

K, FRAMES, WIDTH = 3, 32, 32
SIZES = (32, 16, 8)
SMALL = {"backbone": "tiny4", "frames": FRAMES, "size_px": 16, "width": WIDTH, "levels": 3}


@pytest.fixture(scope="module")
def seen():
    """A detector whose segments are of all lengths, two clips, and what it says of them."""
    torch.manual_seed(0)
    network = models.build("detector", K, **SMALL).eval()
    heads = network.net.heads
    with torch.no_grad():
        heads.reach.conv.weight.mul_(6)
        heads.scales.copy_(torch.tensor([0.8, 1.0, 1.3]))
        for conv in (heads.reach, heads.refinement, heads.quality):
            conv.conv.bias.normal_(0.5, 0.5)
        view = network(torch.rand(2, 3, FRAMES, 16, 16))
    return heads, view


def conv(module, x):
    """[C, T] -> [C', T']: padded as TensorFlow does, an odd zero goes behind; group norm, 16 channels a group; ReLU."""
    kernel, stride = module.conv.kernel_size[0], module.conv.stride[0]
    samples = -(-x.shape[1] // stride)
    pad = max((samples - 1) * stride + kernel - x.shape[1], 0)
    padded = torch.cat([x.new_zeros(len(x), pad // 2), x, x.new_zeros(len(x), pad - pad // 2)], dim=1)
    rows = []
    for t in range(samples):
        window = padded[:, t * stride : t * stride + kernel]
        rows.append((module.conv.weight * window).sum((1, 2)) + module.conv.bias)
    made = torch.stack(rows, dim=1)
    if module.norm is None:
        return made
    groups = made.view(len(made) // 16, -1)
    groups = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    made = groups.view_as(made) * module.norm.weight[:, None] + module.norm.bias[:, None]
    return made.clamp(min=0)


def every(modules, x):
    for module in modules:
        x = conv(module, x)
    return x


def pooled(x, start, end, length):
    """[C, T] -> [C]: the greatest samples around the start, of half the channels; around the end, of the rest."""
    half, last = len(x) // 2, x.shape[1] - 1
    outside, inside = max(length / 10, 1.0), max(length / 4, 1.0)
    found = []
    for rows, low, high in ((x[:half], start - outside, start + inside), (x[half:], end - inside, end + outside)):
        low, high = (min(max(round(bound), 0), last) for bound in (low, high))
        found.append(rows[:, low : max(low, high) + 1].amax(dim=1))
    return torch.cat(found)


def test_the_pyramid(seen):
    """Level 0 is the finer map, one convolution over its whole picture, and level 1 repeated in time; level 1 is the
    coarser map; each other level comes from the one before."""
    heads, view = seen
    for clip in range(2):
        own = []
        for lateral, name in ((heads.fine, "middle"), (heads.coarse, "late")):
            made = F.conv3d(view.taps[name][clip, None], lateral.conv.weight, lateral.conv.bias)[0, :, :, 0, 0]
            made = F.group_norm(made[None], WIDTH // 16, lateral.norm.weight, lateral.norm.bias)[0]
            own.append(made.clamp(min=0))
        levels = [own[0] + own[1].repeat_interleave(2, dim=1), own[1]]
        levels.append(conv(heads.down[0], levels[1]))
        for i, level in enumerate(levels):
            torch.testing.assert_close(view.taps[f"pyramid_{i}"][clip, :, :, 0, 0], level, rtol=1e-4, atol=1e-5)


def test_every_location(seen):
    """Its coarse segment and class, where it then looks for the boundaries (on its level, and on the frames), and what
    it says when it has looked."""
    heads, view = seen
    lengths = []
    for clip in range(2):
        levels = [view.taps[f"pyramid_{i}"][clip, :, :, 0, 0] for i in range(3)]
        frame = every(heads.frame, levels[0].repeat_interleave(FRAMES // SIZES[0], dim=1))
        torch.testing.assert_close(view.taps["frame_features"][clip], frame, rtol=1e-4, atol=1e-5)
        sides = torch.stack([half.tanh().mean(0) for half in frame.chunk(2)])
        torch.testing.assert_close(view.taps["frame_boundary"][clip], sides, rtol=1e-4, atol=1e-5)
        at = 0
        for number, level in enumerate(levels):
            t = level.shape[1]
            towers = [every(tower, level) for tower in heads.towers]
            reach = (heads.scales[number] * conv(heads.reach, towers[0])).exp()
            wide = [conv(branch.level, x) for branch, x in zip(heads.branches, towers, strict=True)]
            looked = []
            for branch, x, both in zip(heads.branches, towers, wide, strict=True):
                columns = []
                for i in range(t):
                    left, right = reach[:, i].tolist()
                    lengths.append(left + right)
                    scale, centre = t / FRAMES, (i + 0.5) / t * FRAMES
                    near = pooled(both, i - left * scale, i + right * scale, (left + right) * scale)
                    far = pooled(frame, centre - left, centre + right, left + right + 1)
                    columns.append(torch.cat([far, near]))
                found = torch.stack(columns, dim=1)
                own = torch.cat([conv(branch.frame, found[:WIDTH]), found[WIDTH:], conv(branch.own, x)])
                looked.append(conv(branch.joined, own))
            expected = {
                "reach": reach,
                "coarse_logits": conv(heads.coarse_class, towers[1]),
                "refinement": conv(heads.refinement, looked[0]),
                "quality": conv(heads.quality, looked[0]),
                "logits": conv(heads.refined_class, looked[1]),
            }
            for name, value in expected.items():
                said = view.logits if name == "logits" else view.taps[name]
                message = f"{name}, level {number}"
                torch.testing.assert_close(
                    said[clip, :, at : at + t], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=message: f"{n}: {m}"
                )
            if number == 0:
                strength = torch.cat([torch.stack([h.tanh().mean(0) for h in both.chunk(2)]) for both in wide])
                torch.testing.assert_close(view.taps["level_boundary"][clip], strength, rtol=1e-4, atol=1e-5)
            at += t
    assert min(lengths) < 3 and max(lengths) > 16  # windows of one sample, and of many
