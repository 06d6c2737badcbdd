"""The detector: its pooling against a slow reference, its sizes against the published ones, and its answers."""

import pytest
import torch

from vidkd import models
from vidkd.errors import ConfigError, DataError
from vidkd.models import _heads, cost, weights
from vidkd.models._boundary import boundary_max_pool

K = 5
SMALL = {"backbone": "tiny4", "frames": 16, "size_px": 16, "width": 32, "levels": 3}


def slow_pool(x, segments):
    """[B, C, K], one query after the other: the value at the first maximum."""
    b, c, t = x.shape
    rows = []
    for i in range(b):
        for k in range(segments.shape[1]):
            for channel in range(c):
                low, high = segments[i, k, :2] if channel < c // 2 else segments[i, k, 2:]
                low, high = (min(max(int(bound), 0), t - 1) for bound in (low.item(), high.item()))
                best = low
                for at in range(low, max(low, high) + 1):
                    if x[i, channel, at] > x[i, channel, best]:
                        best = at
                rows.append(x[i, channel, best])
    return torch.stack(rows).view(b, segments.shape[1], c).transpose(1, 2)


@pytest.mark.parametrize("seed", range(200))
def test_pooling_is_the_slow_reference_with_its_gradient(seed):
    """Ties, bounds turned around and out of range."""
    rng = torch.Generator().manual_seed(seed)
    b, c, t, k = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((1, 3), (1, 3), (1, 18), (1, 6)))
    x = torch.randint(0, 4, (b, 2 * c, t), generator=rng).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    segments = torch.rand(b, k, 4, generator=rng) * 1.6 * t - 0.3 * t
    segments.requires_grad_()
    weight = torch.randn(b, 2 * c, k, generator=rng).double()
    got, expected = boundary_max_pool(x, segments), slow_pool(y, segments)
    assert torch.equal(got, expected)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert segments.grad is None


def test_pooling_by_hand():
    x = torch.tensor([[[1.0, 3, 3, 2], [0, 4, 1, 5]]], requires_grad=True)
    segments = torch.tensor([[[0.9, 2.7, 3.5, 1], [-5, -1, 2, 99], [-0.5, 3, 0.2, 1.9]]])
    pooled = boundary_max_pool(x, segments)
    assert pooled[0].tolist() == [[3, 1, 3], [5, 5, 4]]
    pooled[0, :, 0].sum().backward()
    assert x.grad is not None and x.grad[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_pooling_in_bf16_and_of_wrong_shapes():
    x, segments = torch.randn(2, 4, 9), torch.rand(2, 3, 4) * 9
    low = boundary_max_pool(x.bfloat16(), segments)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, boundary_max_pool(x.bfloat16().float(), segments).bfloat16())
    for wrong in (torch.randn(2, 3, 9), torch.randn(1, 4, 9)):
        with pytest.raises(ValueError, match=r"even C, T\] and segments \[B, K, 4\]"):
            boundary_max_pool(wrong, segments)


@pytest.mark.parametrize(("backbone", "trunk", "gmacs"), [("i3d", 12_287_264, 81.66), ("i3d_top", 10_429_088, 33.32)])
def test_sizes_are_the_published_ones(backbone, trunk, gmacs):
    with torch.device("meta"):
        made = models.build("detector", 20, backbone=backbone)
    assert cost.parameters(made.net.backbone) == trunk
    assert cost.parameters(made.net.heads) == 32_458_805
    own = cost.gmacs(made.net.backbone, 256, 96)
    assert own == pytest.approx(gmacs, abs=0.01)
    assert cost.gmacs(made, 256, 96) - own == pytest.approx(2.56, abs=0.01)
    shapes = cost.tap_shapes(made, 256, 96)
    assert (shapes["middle"], shapes["late"]) == ((832, 64, 6, 6), (1024, 32, 3, 3))
    assert shapes["reach"] == (2, 126)
    assert shapes["frame_boundary"] == (2, 256)
    assert made.num_classes() == 20


@pytest.fixture
def small():
    torch.manual_seed(0)
    return models.build("detector", K, **SMALL)


def test_every_parameter_learns_and_shapes_are_right(small):
    view = small(torch.randint(0, 256, (2, 3, 16, 16, 16), dtype=torch.uint8))
    assert view.logits.shape == (2, K + 1, 16 + 8 + 4)
    assert {"early", "middle", "late", *_heads.outputs(K, 32)} - view.taps.keys() == {"logits"}
    assert [tuple(view.taps[f"pyramid_{i}"].shape) for i in range(3)] == [(2, 32, t, 1, 1) for t in (16, 8, 4)]
    assert view.taps["frame_boundary"].min() >= 0 and view.taps["frame_boundary"].max() <= 1
    assert (view.taps["reach"] > 0).all()
    said = [view.logits, *(view.taps[name] for name in _heads.outputs(K, 32) if name != "logits")]
    sum(s.square().mean() for s in said).backward()
    assert [name for name, p in small.named_parameters() if p.grad is None] == []


def test_maps_with_signs(small):
    """Of the backbone and of each level: what the ReLU has cut."""
    view = small(torch.randint(0, 256, (2, 3, 16, 16, 16), dtype=torch.uint8))
    assert view.taps["late_signed"].min() < 0
    assert torch.equal(view.taps["late_signed"].relu(), view.taps["late"])
    for i in (1, 2):
        assert torch.equal(view.taps[f"signed_{i}"].relu(), view.taps[f"pyramid_{i}"])
    assert (view.taps["signed_0"].relu() <= view.taps["pyramid_0"]).all()  # to which level 1 is added


def test_a_batch_is_its_clips(small):
    """In eval mode, and with gradients at the boundaries of none but the features."""
    video = torch.randint(0, 256, (4, 3, 16, 16, 16), dtype=torch.uint8)
    small.eval()
    together, alone = small(video), [small(v[None]) for v in video]
    for name, tap in together.taps.items():
        torch.testing.assert_close(tap, torch.cat([a.taps[name] for a in alone]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.logits, torch.cat([a.logits for a in alone]), atol=1e-5, rtol=1e-4)


def test_bf16(small):
    with torch.autocast("cpu", torch.bfloat16):
        view = small(torch.rand(2, 3, 16, 16, 16))
    assert torch.isfinite(view.logits).all()
    assert view.taps["reach"].dtype == torch.float32


def test_where_it_looks():
    """Centre 10, reaching 4 and 6: start 6, end 16, length 10; a tenth outwards is at least one sample."""
    reach = torch.tensor([[[4.0, 20.0], [6.0, 20.0]]])
    centre = torch.tensor([10.0, 100.0])
    assert _heads.windows(centre, reach)[0].tolist() == [[5, 8, 14, 17], [76, 90, 110, 124]]
    assert _heads.windows(centre, reach, inclusive=True)[0].tolist() == [[5, 9, 13, 17], [76, 90, 110, 124]]


def test_weights_of_a_recognition_network_go_into_the_backbone(tmp_path, small):
    from vidkd import export
    from vidkd.config import Run

    teacher = models.build("tiny4", 9)
    said = {"name": "x", "task": {"kind": "recognition"}, "data": {"root": ".", "clip": {"frames": 8}},
            "student": {"name": "tiny4", "view": {"size_px": 16}}, "optim": {"kind": "sgd", "lr": 0.1},
            "train": {"steps": 1, "batch_size": 1}}  # fmt: skip
    export.save_student(tmp_path / "run", teacher, Run.model_validate(said), tuple("abcdefghi"), None)
    account = weights.load(small, tmp_path / "run", reset_head=True)
    assert set(account.skipped) == {"head.weight", "head.bias"}
    assert torch.equal(small.net.backbone.net.late[0].weight, teacher.net.late[0].weight)
    with pytest.raises(DataError, match="tensors are missing"):
        weights.load(small, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 40}, "width is a multiple of 32"),
        ({"levels": 6}, "6 levels need 16 of it"),
        ({"fine": "late"}, "the second must be half as long"),
        ({"fine": "lat"}, "no tap 'lat'; did you mean 'late'"),
        ({"backbone": "tiny5"}, "no network 'tiny5'"),
        ({"backbone_options": {"wide": 3}}, "no option 'wide'"),
    ],
)
def test_detectors_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        models.build("detector", K, **{**SMALL, **options})
