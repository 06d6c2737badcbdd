"""What is particular to one family of networks."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidkd import models
from vidkd.errors import ConfigError
from vidkd.models import cost, frame2d, pytorchvideo_zoo, torchvision_video


def test_s3d_answers_as_torchvision_does_at_224_px():
    features = torch.rand(2, 1024, 4, 7, 7)
    pooled = torchvision_video.StepPool()(features)
    torch.testing.assert_close(pooled, nn.AvgPool3d((2, 7, 7), stride=1)(features))


def test_x3d_answers_as_pytorchvideo_does_on_its_own_clip():
    hub = pytest.importorskip("pytorchvideo.models.hub")
    torch.manual_seed(0)
    network = models.build("x3d_xs", 6).eval()
    published = hub.x3d_xs(model_num_class=6, head_activation=None).eval()
    published.load_state_dict(network.net.state_dict())
    video = torch.rand(1, 3, 4, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(network(video).logits, published(network.normalise(video)))


def test_slowfast_packs_every_fourth_frame_from_first_to_last():
    clip = torch.arange(32.0).view(1, 1, 32, 1, 1).expand(2, 3, 32, 5, 5)
    ((slow, fast),) = pytorchvideo_zoo.pack_pathways(nn.Identity(), (clip,))
    assert fast is clip
    assert slow.shape == (2, 3, 8, 5, 5)
    assert slow[0, 0, :, 0, 0].tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


def test_slowfast_has_taps_on_both_pathways():
    with torch.device("meta"):
        network = models.build("slowfast_r50", 5)
    shapes = cost.tap_shapes(network, 32, 224)
    assert (shapes["late"], shapes["fast_late"]) == ((2048, 8, 7, 7), (256, 32, 7, 7))
    assert (shapes["early"], shapes["fast_early"]) == ((640, 8, 28, 28), (64, 32, 28, 28))
    with pytest.raises(ConfigError, match="multiple of 4 frames, not 30"):
        cost.tap_shapes(network, 30, 224)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s", "mvit_base"])
def test_mvit_is_built_for_one_length_and_size(name):
    network = models.build(name, 5, frames=4, size_px=48)
    assert cost.tap_shapes(network, 4, 48)["late"] == (768, 2, 2, 2)
    with pytest.raises(ConfigError, match="takes 4 frames, not 8; takes 48 px a side, not 64"):
        cost.tap_shapes(network, 8, 64)
    with pytest.raises(ConfigError, match="frames must be even, not 5"):
        models.build(name, 5, frames=5)
    with pytest.raises(ConfigError, match="multiple of 16 from 32 on, not 100"):
        models.build(name, 5, size_px=100)


def test_mvit_v2_keeps_its_weights_at_another_size():
    small, large = models.build("mvit_v2_s", 5, frames=4, size_px=64), models.build("mvit_v2_s", 5)
    small.net.load_state_dict(large.net.state_dict())
    with torch.no_grad():
        assert torch.isfinite(small.eval()(torch.rand(1, 3, 4, 64, 64)).logits).all()


def test_the_late_tap_of_mvit_reaches_the_logits():
    """In the last block only the class token does: a tap there would show tokens that no loss ever saw."""
    network = models.build("mvit_v1_b", 5, frames=2, size_px=32).eval()
    tokens: dict[str, torch.Tensor] = {}
    for path in (network.taps["late"].path, "blocks.15"):
        network.net.get_submodule(path).register_forward_hook(
            lambda _, __, out, path=path: tokens.update({path: out[0]})
        )
    answer = network(torch.rand(1, 3, 2, 32, 32)).logits.square().sum()
    tapped, last = torch.autograd.grad(answer, list(tokens.values()))
    assert tapped[:, 1:].abs().sum() > 0
    assert last[:, 1:].abs().sum() == 0


def test_unknown_sizes_are_refused_in_one_sentence():
    """A clip that passes the limits and fails in a layer: named with the layer's reason."""
    network = models.build("tiny4", 3)
    network.net.get_submodule("pool")[0] = nn.AvgPool3d((1, 9, 9))
    with pytest.raises(ConfigError, match=r"tiny4 cannot take 2 frames of 8 px: .*kernel"):
        cost.tap_shapes(network, 2, 8)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": "wide"}, "option 'width' is of type int, not 'wide'"),
        ({"width": 16.5}, "option 'width' is of type int, not 16.5"),
        ({"depth": True}, "option 'depth' is of type int, not True"),
        ({"dropout": 1.5}, "cannot be built with {'dropout': 1.5}: .*between 0 and 1"),
        ({"widht": 8}, "no option 'widht'; did you mean 'width'"),
        ({"num_classes": 8}, "no option 'num_classes'"),
        ({"name": 8}, "no option 'name'"),
        ({"width": 10**12}, "cannot be built with"),  # torch cannot allocate it
    ],
)
def test_options_that_cannot_be_taken(options, match):
    with pytest.raises(ConfigError, match=match):
        models.build("small_r3d", 3, **options)


def test_a_whole_number_will_do_for_a_fraction():
    models.build("small_r3d", 3, dropout=0)


def test_cost_by_hand():
    """tiny4 on 2 frames of 8 px: kernels of 27 x 3 x 4 and 27 x 4 x 4 at 32 places, 27 x 4 x 8 at 4, and 8 x 3."""
    network = models.build("tiny4", 3)
    by_hand = 27 * (3 * 4 * 32 + 4 * 4 * 32 + 4 * 8 * 4) + 8 * 3
    assert cost.gmacs(network, 2, 8) == pytest.approx(by_hand / 1e9, rel=1e-12)
    assert cost.parameters(network.net) == 27 * (12 + 16 + 32) + 3 * (4 + 4 + 8) + 8 * 3 + 3
    expected = {"early": (4, 2, 4, 4), "middle": (4, 2, 4, 4), "late": (8, 1, 2, 2), "late_signed": (8, 1, 2, 2)}
    assert cost.tap_shapes(network, 2, 8) == expected


LOWRES = {  # as the docstring of lowres.py says, under 6 classes: parameters, GMACs at 8 x 32, 8 x 56, 16 x 64 px
    "small_r3d": (228_406, 0.068, 0.208, 0.543),
    "small_r2p1d": (444_390, 0.133, 0.406, 1.062),
    "medium_r3d": (2_027_670, 0.567, 1.737, 4.537),
}


@pytest.mark.parametrize("name", LOWRES)
def test_small_networks_cost_what_they_say(name):
    parameters, *gmacs = LOWRES[name]
    network = models.build(name, 6)
    assert cost.parameters(network.net) == parameters
    for (frames, size_px), expected in zip(((8, 32), (8, 56), (16, 64)), gmacs, strict=True):
        assert cost.gmacs(network, frames, size_px) == pytest.approx(expected, abs=0.0006)


def test_small_networks_keep_time_until_the_last_stage():
    network = models.build("small_r3d", 6, width=8, depth=2, dropout=0.5)
    shapes = [cost.tap_shapes(network, *clip) for clip in ((8, 32), (7, 45))]
    assert [found.pop("late_signed") for found in shapes] == [(32, 4, 4, 4), (32, 4, 6, 6)]
    assert shapes == [
        {"early": (8, 8, 16, 16), "middle": (16, 8, 8, 8), "late": (32, 4, 4, 4)},
        {"early": (8, 7, 23, 23), "middle": (16, 7, 12, 12), "late": (32, 4, 6, 6)},
    ]
    with pytest.raises(ConfigError, match="at least 1, not 0 and 1"):
        models.build("small_r3d", 6, width=0)


def drifting(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """[count, 3, 6, 16, 16] textures that drift right, left, down or up: no single frame tells which."""
    label = torch.randint(0, 4, (count,), generator=generator)
    steps = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[label]
    texture = torch.rand(count, 3, 16, 16, generator=generator)

    def clip(i: int) -> torch.Tensor:
        return torch.stack([texture[i].roll(tuple((steps[i] * k).tolist()), (1, 2)) for k in range(6)], dim=1)

    return torch.stack([clip(i) for i in range(count)]), label


@pytest.mark.parametrize(("name", "width"), [("small_r3d", 8), ("small_r2p1d", 16)])
def test_small_networks_learn_motion(name, width):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = models.build(name, 4, width=width)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 40)
        video, label = drifting(16, generator)
        optimizer.zero_grad()
        F.cross_entropy(network(video).logits, label).backward()
        optimizer.step()
    video, label = drifting(64, generator)
    with torch.no_grad():
        assert (network.eval()(video).logits.argmax(1) == label).float().mean() > 0.9


def test_shift_by_hand():
    """8 channels, so one comes from the frame before, one from the frame behind, six stay; two clips of 3 frames."""
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 8, 1, 1)
    shifted = frame2d.shift(x, frames=3).flatten(1)
    assert shifted[:, 0].tolist() == [0, 0, 1, 0, 3, 4]
    assert shifted[:, 1].tolist() == [1, 2, 0, 4, 5, 0]
    for channel in range(2, 8):
        assert shifted[:, channel].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100", "convnext_atto"])
@pytest.mark.parametrize("temporal", ["pool", "shift"])
def test_only_shift_sees_the_order_of_frames(backbone, temporal):
    torch.manual_seed(0)
    network = models.build("frame2d", 3, backbone=backbone, temporal=temporal).double().eval()
    for parameter in network.parameters():  # timm starts residual branches at 0 or 1e-6, which would hide the shift
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    video = torch.rand(1, 3, 4, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        forth, back = network(video).logits, network(video.flip(2)).logits
    differ = ((forth - back).abs().max() / forth.abs().max()).item()
    assert differ < 1e-12 if temporal == "pool" else differ > 1e-8


@pytest.mark.usefixtures("timm")
def test_backbones_that_cannot_be_used():
    with pytest.raises(ConfigError, match="no network 'resnet81'; did you mean"):
        models.build("frame2d", 3, backbone="resnet81")
    with pytest.raises(ConfigError, match="no temporal 'shfit'; did you mean 'shift'"):
        models.build("frame2d", 3, temporal="shfit")
    with pytest.raises(ConfigError, match="use temporal: pool"):
        models.build("frame2d", 3, backbone="vit_tiny_patch16_224", temporal="shift")


@pytest.mark.usefixtures("timm")
def test_backbones_of_one_size_say_so():
    assert models.build("frame2d", 3, backbone="vit_tiny_patch16_224").input.size_px == 224


def test_without_timm_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install 'vidkd\\[timm\\]'"):
        models.build("frame2d", 3)


def test_the_zoo_imports_no_heavy_library():
    """pytorchvideo and timm are imported by the networks that need them, when they are built."""
    import subprocess

    code = "import sys, vidkd.models as m; m.names(); print([n for n in ('pytorchvideo', 'timm') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
