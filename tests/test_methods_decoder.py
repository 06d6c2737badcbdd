"""FDD: the decoder and the distances by themselves (../shared/methods/fmd.md, sections 2, 3.1 to 3.3 and 8)."""

import pytest
import torch
from torch.nn import functional as F

from fdd_pair import decoder, gradient_of
from fmd_reference import Reference
from vidkd import models
from vidkd.data.decode import open_video
from vidkd.methods import feature_decoder as fdd


def test_the_released_decoder_to_the_parameter():
    net = decoder()
    assert sum(p.numel() for p in net.parameters()) == 94_611
    out = net(torch.randn(2, 96, 1, 22, 22), (1, 92, 92))
    assert out.shape == (2, 3, 1, 92, 92)
    assert out.min() >= 0


def as_published(net, picture, side):
    """Section 2 word for word, with the weights of `net`: [B, 96, 22, 22] -> [B, 3, side, side]."""

    def conv(module, x):
        return F.conv2d(x, module.weight[:, :, 0], module.bias, padding=1)

    x = picture
    for before, after in zip(net.before, net.after, strict=True):
        x = F.relu(F.pixel_shuffle(F.relu(conv(before, x)), 2))
        x = x + F.relu(conv(after, x))
    x = F.interpolate(F.relu(conv(net.tail, x)), (side, side), mode="nearest")
    x = x + F.relu(conv(net.residual, x))
    return F.relu(conv(net.last, x))


def test_the_released_decoder_layer_by_layer():
    torch.manual_seed(0)
    net, maps = decoder(), torch.randn(2, 96, 22, 22)
    with torch.no_grad():
        net.last.bias += 0.2  # else the last ReLU leaves next to nothing of torch's own initialisation
        for module in (net.residual, net.tail, *net.before, *net.after):
            module.weight *= 3
        expected = as_published(net, maps, 92)
        assert (expected > 0).float().mean() > 0.1 and expected.std() > 1e-3
        torch.testing.assert_close(net(maps[:, :, None], (1, 92, 92))[:, :, 0], expected)


@pytest.mark.parametrize(("residuals", "parameters"), [(0, 1_388_807), (4, 9_235_079), (8, 17_081_351)])
def test_the_published_networks_to_the_parameter(residuals, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in Reference(residuals).parameters()) == parameters


def test_the_published_maps_have_the_published_sizes_and_the_decoder_hardly_moves_their_student():
    """Section 3.3, on the original networks: 0.1 FDD against 0.2 of the label loss, at the start, in the gradient."""
    torch.manual_seed(0)
    student, net = Reference(0), decoder()
    picture = F.interpolate(torch.randn(2, 3, 6, 6), (92, 92), mode="bilinear")
    shallow, deep, logits = student(F.interpolate(picture, (44, 44), mode="bilinear"))
    assert (shallow.shape[1:], deep.shape[1:]) == ((96, 22, 22), (160, 11, 11))
    assert min(shallow.min(), deep.min()) < 0
    with torch.no_grad():
        large = student(picture)
    assert (large[0].shape[1:], large[1].shape[1:]) == ((96, 46, 46), (160, 23, 23))
    decoded = net(shallow[:, :, None], (1, 92, 92))
    fdd_pull = gradient_of(0.1 * fdd.gram_batch_distance(decoded, picture[:, :, None], True), student)
    assert fdd_pull < 1e-3 * gradient_of(0.2 * F.cross_entropy(logits, torch.tensor([0, 1])), student)


def test_the_effective_decoder_is_linear_at_its_end():
    net = decoder(faithful=False)
    out = net(torch.randn(2, 96, 1, 22, 22), (1, 92, 92))
    assert out.shape == (2, 3, 1, 88, 88)  # no resize: the target comes to the decoder
    assert out.min() < 0
    he = (2 / (6 * 9)) ** 0.5
    assert net.residual.weight.std().item() == pytest.approx(he, rel=0.25)
    assert net.last.weight.std().item() == pytest.approx(0.1 * he, rel=0.35)
    assert not net.last.bias.any()


@pytest.mark.parametrize("upsample", ["subpixel", "interp"])
def test_over_time_the_volume_is_stretched_too(upsample):
    net = decoder([(2, 2, 2), (1, 2, 2), (2, 1, 1)], 3, upsample, faithful=False, channels=32)
    assert net(torch.randn(1, 32, 2, 5, 5), (8, 20, 20)).shape == (1, 3, 8, 20, 20)
    assert net.entry.out_channels == 6 * 64  # 32 does not divide into 64 parts


def test_subpixel_without_time_is_pixel_shuffle_on_frames():
    x = torch.randn(2, 24, 3, 5, 7)
    by_frame = F.pixel_shuffle(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (2, 3)).transpose(1, 2)
    assert torch.equal(fdd.subpixel(x, (1, 2, 2)), by_frame)


def test_subpixel_in_time_by_index():
    x = torch.arange(2 * 8 * 3.0).view(1, 16, 3, 1, 1)
    out = fdd.subpixel(x, (2, 2, 2))
    for c in range(2):
        for p in range(2):
            for q in range(2):
                for r in range(2):
                    assert torch.equal(out[0, c, p::2, q, r], x[0, ((c * 2 + p) * 2 + q) * 2 + r, :, 0, 0])


def test_gram_matrices_have_the_size_they_should():
    a = torch.randn(2, 3, 4, 5, 6)
    assert fdd.gram(a.flatten(2)).shape == (2, 3, 3)
    assert fdd.gram(a.view(1, 6, -1)).shape == (1, 6, 6)
    assert torch.allclose(fdd.gram(torch.full((1, 2, 10), 3.0)), torch.full((1, 2, 2), 9.0))


def test_the_released_distance_against_loops():
    a, b = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    rows = [(x.transpose(1, 2).reshape(12, 16), x.reshape(6, 32)) for x in (a, b)]
    for k, per_frame in enumerate((True, False)):
        m, n = rows[0][k], rows[1][k]
        expected = (
            sum(
                (m[i] @ m[j] / m.shape[1] - n[i] @ n[j] / m.shape[1]) ** 2 for i in range(len(m)) for j in range(len(m))
            )
            / len(m) ** 2
        )
        torch.testing.assert_close(fdd.gram_batch_distance(a, b, per_frame), expected)


@pytest.mark.parametrize("per_frame", [True, False])
def test_the_default_distance_against_loops(per_frame):
    """Gram [c, c] by clip (or frame), smooth L1; far apart enough that it is not everywhere a parabola."""
    a, b = 2 * torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    clips = [(x.transpose(1, 2).flatten(0, 1) if per_frame else x).flatten(2) for x in (a, b)]
    losses = []
    for m, n in zip(*clips, strict=True):
        for i in range(3):
            for j in range(3):
                off = float(abs(m[i] @ m[j] - n[i] @ n[j]) / m.shape[1])
                losses.append(off**2 / 2 if off < 1 else off - 0.5)
    assert min(losses) < 0.5 < max(losses)
    assert fdd.gram_distance(a, b, per_frame).item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("per_frame", [True, False])
def test_the_released_distance_alone_depends_on_who_else_is_in_the_batch(per_frame):
    """Section 7.3: in two halves, as by accumulation or on two processes, it is another loss."""
    a, b = torch.randn(4, 3, 2, 4, 4), torch.randn(4, 3, 2, 4, 4)
    for name, loss in fdd.DISTANCES.items():
        whole = loss(a, b, per_frame)
        halves = (loss(a[:2], b[:2], per_frame) + loss(a[2:], b[2:], per_frame)) / 2
        assert torch.isclose(whole, halves) == (name != "gram_batch")


@pytest.mark.parametrize("distance", sorted(fdd.DISTANCES))
@pytest.mark.parametrize("per_frame", [True, False])
def test_distances_know_no_order_of_clips_and_are_zero_for_the_same(distance, per_frame):
    a, b, order = torch.randn(3, 3, 2, 4, 4), torch.randn(3, 3, 2, 4, 4), torch.tensor([2, 0, 1])
    loss = fdd.DISTANCES[distance]
    torch.testing.assert_close(loss(a, b, per_frame), loss(a[order], b[order], per_frame))
    assert loss(a, a, per_frame) == 0


def test_over_one_frame_the_two_forms_are_one():
    a, b = torch.randn(3, 3, 1, 4, 4), torch.randn(3, 3, 1, 4, 4)
    for loss in fdd.DISTANCES.values():
        torch.testing.assert_close(loss(a, b, True), loss(a, b, False))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["per_frame", "spatiotemporal"])
def test_the_default_decoder_learns_to_draw_what_the_teacher_saw(shared, form):
    """Section 8.11, on real clips: alone, 100 steps of 4; held-out L1 under 0.8 of an all-zero picture's."""
    paths = sorted((shared / "data" / "jhmdb21").rglob("*.mp4"))[::6]
    if not paths:
        pytest.skip(f"no jhmdb21 in {shared}/data")
    clips = torch.stack([first_frames(path) for path in paths])
    torch.manual_seed(0)
    student, normalise = models.build("small_r3d", 21), models.build("i3d", 21).normalise
    net = decoder(k_t=1 if form == "per_frame" else 3, faithful=False, channels=16)
    parameters = [*student.parameters(), *net.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def decoded(batch):
        return net(student(F.adaptive_avg_pool3d(batch, (8, 56, 56))).taps["early"], (8, 112, 112)), normalise(batch)

    for _ in range(100):
        out, target = decoded(clips[torch.randint(len(clips) * 4 // 5, (4,))])
        per_frame = form == "per_frame"
        loss = 0.1 * (fdd.gram_distance(out, target, per_frame) + fdd.l1_distance(out, target, per_frame))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_([p for p in parameters if p.grad is not None], 0.1)
        optimizer.step()
    student.eval()
    with torch.no_grad():
        out, target = decoded(clips[len(clips) * 4 // 5 :])
    assert fdd.l1_distance(out, target, True) < 0.8 * target.abs().mean()


def first_frames(path):
    """Eight frames, 112 px, in 0..1: [3, 8, 112, 112]."""
    with open_video(path) as video:
        frames = video.get(list(range(0, 15, 2))).float() / 255
    side = min(frames.shape[2:])
    return F.interpolate(frames[..., :side, :side], (112, 112), mode="bilinear", antialias=True).transpose(0, 1)


def test_standardised_maps_by_hand():
    maps = torch.randn(3, 4, 2, 5, 6) * 3 + 7
    own = fdd.standardised(maps)
    expected = torch.stack([(maps[:, c] - maps[:, c].mean()) / maps[:, c].std(correction=0) for c in range(4)], 1)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    assert not fdd.standardised(torch.full((1, 4, 1, 1, 1), 3.0)).any()  # one number has no variance
