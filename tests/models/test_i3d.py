"""I3D and its relatives: counts, shapes, padding, the head, temporal collapse, and real clips."""

import copy
import csv

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vidkd import models
from vidkd.data.decode import open_video
from vidkd.errors import ConfigError
from vidkd.models import cost, i3d, weights

# 101 classes: parameters, the same without logits, GMACs at 64 x 224 x 224, and at 256 x 96 x 96 without logits
COSTS = {
    "i3d": (12_390_789, 12_287_264, 111.15, 81.66),
    "i3d_top": (10_532_613, 10_429_088, 45.36, 33.32),
    "i3d_bottom": (7_561_605, 7_458_080, 102.68, 75.44),
    "i3d_2d": (5_703_429, 5_599_904, 36.89, 27.10),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_and_shapes(name):
    every, bare, gmacs, gmacs_long = COSTS[name]
    with torch.device("meta"):
        network = models.build(name, 101)
    assert cost.parameters(network.net) == every
    assert every - cost.parameters(network.net.get_submodule("logits")) == bare
    assert cost.gmacs(network, 64, 224) == pytest.approx(gmacs, abs=0.01)
    assert cost.gmacs(network, 256, 96) - 31 * 1024 * 101 / 1e9 == pytest.approx(gmacs_long, abs=0.01)
    shapes = cost.tap_shapes(network, 64, 224)
    assert shapes == {
        "early": (480, 32, 28, 28),
        "middle": (832, 16, 14, 14),
        "late": (1024, 8, 7, 7),
        "late_signed": (1024, 8, 7, 7),
        "step_logits": (101, 7, 1, 1),
    }
    shapes = cost.tap_shapes(network, 256, 96)
    assert (shapes["middle"], shapes["late"]) == ((832, 64, 6, 6), (1024, 32, 3, 3))


def test_batch_norm_is_that_of_the_ported_weights():
    with torch.device("meta"):
        norms = [m for m in models.build("i3d", 5).modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert len(norms) == 57
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("n", "kernel", "stride", "front", "behind"),
    [
        (8, 7, 2, 2, 3),
        (7, 7, 2, 3, 3),
        (8, 3, 2, 0, 1),
        (7, 3, 2, 1, 1),
        (8, 3, 1, 1, 1),
        (8, 2, 2, 0, 0),
        (7, 2, 2, 0, 1),
    ],
)
def test_same_padding_of_an_axis(n, kernel, stride, front, behind):
    x, (t, h, w) = i3d.pad_same(torch.ones(1, 1, n, 4, 4), (kernel, 1, 1), (stride, 1, 1))
    assert (h, w) == (0, 0)
    assert [t + x.shape[2] - n, t] in ([front + behind, 0], [front, front])
    if not t:
        assert x[0, 0, :front].eq(0).all()
        assert x[0, 0, front : front + n, 0, 0].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 1, 1)), ((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)),
     ((2, 2, 2), (2, 2, 2))],
)  # fmt: skip
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 5, 3), (4, 7, 8), (5, 14, 9)])
def test_the_pool_in_its_faster_layout_is_torchs_to_the_bit(grid, kernel, stride, dtype):
    """Values and gradients, where many of the maxima are shared zeros."""
    video = torch.randn(2, 16, *grid).relu().to(dtype)
    found, expected = (video.clone().requires_grad_() for _ in range(2))
    ours = i3d.Pool(kernel, stride)(found)
    padded, padding = i3d.pad_same(expected, kernel, stride)
    torchs = F.max_pool3d(padded, kernel, stride, padding)
    assert torch.equal(ours, torchs) and ours.is_contiguous()
    assert ours.shape[2:] == tuple(-(-n // s) for n, s in zip(grid, stride, strict=True))
    (ours.float() ** 2).sum().backward()
    (torchs.float() ** 2).sum().backward()
    assert torch.equal(found.grad, expected.grad)


@pytest.mark.parametrize("frames", [8, 2, 1])
def test_head_is_the_published_one_at_224_px(frames):
    """AvgPool 2 x 7 x 7 at stride 1, logits, and their mean over the steps."""
    network = models.build("i3d_2d", 11).eval()
    features = torch.rand(2, 1024, frames, 7, 7)
    logits = network.net.get_submodule("logits.conv3d")
    with torch.no_grad():
        published = logits(F.avg_pool3d(features, (min(2, frames), 7, 7), stride=1)).squeeze((3, 4)).mean(2)
        torch.testing.assert_close(network.net.classify(features), published)


def test_the_answer_is_the_mean_of_the_step_logits():
    view = models.build("i3d_top", 5).eval()(torch.rand(1, 3, 24, 32, 32))
    assert view.taps["step_logits"].shape == (1, 5, 2, 1, 1)
    torch.testing.assert_close(view.logits, view.taps["step_logits"].mean((2, 3, 4)))


@pytest.mark.parametrize("frames", [1, 5, 6, 7])
@pytest.mark.parametrize("size_px", [33, 34])
def test_gradient_of_short_clips_is_that_of_the_reference_convolution(frames, size_px):
    """oneDNN writes outside its memory for a kernel of 7 with padding 3 at these lengths."""
    stem = i3d.Unit(3, 16, (7, 7, 7), (2, 2, 2), plain=True)
    video = torch.randn(2, 3, frames, size_px, size_px)
    stem(video).square().mean().backward()
    ours = stem.conv3d.weight.grad
    exact = copy.deepcopy(stem).double()  # oneDNN has no part in float64
    exact.zero_grad()
    exact(video.double()).square().mean().backward()
    assert ours is not None
    torch.testing.assert_close(ours.double(), exact.conv3d.weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["i3d_top", "i3d_2d"])
def test_a_flat_stem_of_stride_2_is_blind_to_odd_frames(name):
    torch.manual_seed(0)
    network = models.build(name, 3).eval()
    video = torch.rand(1, 3, 16, 32, 32, requires_grad=True)
    seen = network(video).logits
    seen.square().sum().backward()
    assert video.grad is not None
    by_frame = video.grad.abs().sum((0, 1, 3, 4))
    assert by_frame[1::2].eq(0).all()
    assert by_frame[0::2].gt(0).all()

    every = models.build(name, 3, stem_stride_t=1).eval()
    every.load_state_dict(network.state_dict())
    torch.testing.assert_close(every(video[:, :, ::2]).logits, seen, rtol=0, atol=0)


def test_a_deep_stem_sees_every_frame():
    video = torch.rand(1, 3, 16, 32, 32, requires_grad=True)
    models.build("i3d_bottom", 3).eval()(video).logits.square().sum().backward()
    assert video.grad is not None
    assert video.grad.abs().sum((0, 1, 3, 4)).gt(0).all()


def test_stride_of_the_stem_is_1_or_2():
    with pytest.raises(ConfigError, match="stem_stride_t is 1 or 2, not 3"):
        models.build("i3d", 3, stem_stride_t=3)


def replicating_pad(x, kernel, stride):
    """`pad_same`, with the frames at both ends repeated in the place of zeros."""
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    (t, *_), (_, h, w) = totals, totals
    x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2, 0, 0))
    return F.pad(x, (0, 0, 0, 0, t // 2, t - t // 2), mode="replicate"), (0, 0, 0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """i3d with random weights and lively batch statistics, in float64; and the file of its weights."""
    torch.manual_seed(0)
    network = models.build("i3d", 7).double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.5)
        network.train()(torch.rand(2, 3, 8, 48, 48))
    path = tmp_path_factory.mktemp("i3d") / "teacher.safetensors"
    save_file(network.net.state_dict(), path)
    return network.eval(), path


@pytest.mark.parametrize(("name", "collapsed"), [("i3d_top", 10), ("i3d_bottom", 10), ("i3d_2d", 20)])
def test_collapse_keeps_what_a_still_clip_says(name, collapsed, teacher, monkeypatch):
    """With the ends of time repeated; zeros there would differ, since a summed kernel never meets them."""
    network, path = teacher
    student = models.build(name, 7).double().eval()
    account = weights.load(student, path, adapt="collapse")
    assert len(account.collapsed) == collapsed
    assert f"{collapsed} kernels collapsed over time" in str(account)
    still = torch.rand(1, 3, 1, 48, 48, dtype=torch.float64).expand(-1, -1, 16, -1, -1)
    monkeypatch.setattr(i3d, "pad_same", replicating_pad)
    with torch.no_grad():
        a, b = network(still), student(still)
    torch.testing.assert_close(b.logits, a.logits, rtol=1e-5, atol=1e-9)
    for tap in a.taps:
        assert a.taps[tap].abs().max() > 0.01
        torch.testing.assert_close(b.taps[tap], a.taps[tap], rtol=1e-5, atol=1e-9)


def test_inflating_a_collapsed_network_keeps_it_too(teacher, tmp_path, monkeypatch):
    flat = models.build("i3d_2d", 7).double().eval()
    weights.load(flat, teacher[1], adapt="collapse")
    save_file(flat.net.state_dict(), tmp_path / "flat.safetensors")
    deep = models.build("i3d", 7).double().eval()
    account = weights.load(deep, tmp_path / "flat.safetensors", adapt="inflate")
    assert len(account.inflated) == 20
    still = torch.rand(1, 3, 1, 48, 48, dtype=torch.float64).expand(-1, -1, 8, -1, -1)
    monkeypatch.setattr(i3d, "pad_same", replicating_pad)
    with torch.no_grad():
        torch.testing.assert_close(deep(still).logits, flat(still).logits, rtol=1e-5, atol=1e-9)


def test_kinetics_weights_load_whole(shared):
    network = models.build("i3d", 400)
    account = weights.load(network, shared / "weights" / "i3d_rgb_k400.safetensors")
    assert len(account.loaded) == len(network.net.state_dict()) == 344
    assert not account.missing + account.skipped + account.mismatched
    assert account.classes == weights.k400_classes()
    assert account.classes[:2] == ("abseiling", "air drumming")


KINETICS = {
    "Archery": "archery",
    "BasketballDunk": "dunking basketball",
    "HorseRace": "riding or walking with horse",
    "PlayingPiano": "playing piano",
    "PlayingViolin": "playing violin",
    "Surfing": "surfing water",
}


@pytest.mark.slow
def test_kinetics_weights_know_real_clips(shared):
    """Top-1 among all 400 classes, 32 frames from the middle at 224 px: about 24 of 36 are expected."""
    network = models.build("i3d", 400).eval()
    account = weights.load(network, shared / "weights" / "i3d_rgb_k400.safetensors")
    assert account.classes is not None
    folder = shared / "data" / "ucf101_6"
    with (folder / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = 0
    for label, name in KINETICS.items():
        clips = [row["clip"] for row in rows if row["label"] == label]
        for clip in clips[:: len(clips) // 6][:6]:
            with open_video(folder / clip) as video:
                start = max(0, (video.frames - 32) // 2)
                frames = video.get([(start + i) % video.frames for i in range(32)])
            scale = 224 / min(frames.shape[2:])
            size = [round(side * scale) for side in frames.shape[2:]]
            frames = F.interpolate(frames.float() / 255, size=size, mode="bilinear", antialias=True).clamp(0, 1)
            top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
            frames = frames[:, :, top : top + 224, left : left + 224]
            with torch.no_grad():
                logits = network(frames.transpose(0, 1).unsqueeze(0)).logits
            right += account.classes[int(logits.argmax())] == name
    print(f"{right} of 36")
    assert right >= 20
