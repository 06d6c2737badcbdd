"""What every network of the zoo must do. A new one is picked up by its name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidkd import models
from vidkd.errors import ConfigError
from vidkd.models import cost, detector
from vidkd.taps import Tapped
from zoo import BIG, smallest_clip, smallest_options

K = 5


@pytest.fixture(scope="module", params=sorted(set(models.names()) - set(detector.NETWORKS)))  # see test_detector
def network(request) -> Tapped:
    if request.param == "frame2d":
        pytest.importorskip("timm", reason="frame2d needs timm: pip install 'vidkd[timm]'")
    torch.manual_seed(0)
    with torch.device("meta" if request.param in BIG else "cpu"):
        return models.build(request.param, K, **smallest_options(request.param))


def test_taps_and_head_are_what_they_say(network):
    frames, size_px = smallest_clip(network)
    longer = frames if network.input.frames else frames + 2 * network.input.frames_multiple
    larger = size_px if network.input.size_px else size_px + 13
    for clip in ((frames, size_px), (longer, larger)):
        shapes = cost.tap_shapes(network, *clip)
        assert {"early", "middle", "late"} <= shapes.keys()
        for name, shape in shapes.items():
            assert len(shape) == 4
            assert shape[0] == network.taps[name].channels
            assert min(shape) >= 1
        assert shapes["early"][2] >= shapes["middle"][2] >= shapes["late"][2]
    assert network.num_classes() == K


def test_refuses_clips_beyond_its_limits(network):
    frames, size_px = smallest_clip(network)
    with pytest.raises(ConfigError, match=f"{size_px} px a side, not {size_px - 1}"):
        cost.tap_shapes(network, frames, size_px - 1)
    if frames > 1:
        with pytest.raises(ConfigError, match=f"frames, not {frames - 1}"):
            cost.tap_shapes(network, frames - 1, size_px)


def test_a_dry_run_leaves_no_trace():
    network = models.build("small_r3d", K).train()
    network.get_submodule("net.stage1").eval()
    before = {name: (t.device, t.data_ptr()) for name, t in network.state_dict().items()}
    assert cost.gmacs(network, 8, 32) > 0
    assert before == {name: (t.device, t.data_ptr()) for name, t in network.state_dict().items()}
    assert network.training
    assert not network.get_submodule("net.stage1").training
    assert not network._seen


def check_training_step(network: Tapped) -> None:
    frames, size_px = smallest_clip(network)
    video = torch.randint(0, 256, (2, 3, frames, size_px, size_px), dtype=torch.uint8)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.ones_(module.weight)  # pytorchvideo's residual branches begin at zero: no sign would be seen
    view = network(video)
    assert view.logits.shape == (2, K)
    for name, tap in view.taps.items():
        assert tap.shape[:2] == (2, network.taps[name].channels)
        assert tap.requires_grad
        assert torch.isfinite(tap).all()
    check_signs(network, view.taps)
    F.cross_entropy(view.logits, torch.tensor([0, 1])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # batch norm over two numbers makes enormous ones
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        assert torch.isfinite(network.eval()(video).logits).all()


UNSIGNED = {
    "s3d",  # the last ReLUs are four, one a branch
    "frame2d",  # what comes last differs from backbone to backbone
}


def check_signs(network: Tapped, taps: dict[str, Tensor]) -> None:
    """A late map that a ReLU has cut is offered before it too: `late_signed`."""
    if "late_signed" in taps:
        assert taps["late_signed"].min() < 0
        assert torch.equal(taps["late_signed"].relu(), taps["late"])
    elif network.name.partition("(")[0] not in UNSIGNED:
        assert taps["late"].min() < 0
    if "fast_late" in taps:
        assert torch.equal(taps["fast_late_signed"].relu(), taps["fast_late"])


def test_one_training_step(network, request):
    if request.node.callspec.params["network"] in BIG:
        pytest.skip("big: see test_one_training_step_of_the_big")
    check_training_step(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BIG))
def test_one_training_step_of_the_big(name):
    check_training_step(models.build(name, K))


@pytest.mark.parametrize("name", ["tiny4", "small_r3d", "slowfast_r50", "frame2d"])
def test_a_deep_copy_has_its_own_taps(name):
    """An exponential moving average of a network is a deep copy of it."""
    if name == "frame2d":
        pytest.importorskip("timm")
    with torch.device("meta"):
        original = models.build(name, K)
        copied = copy.deepcopy(original)
        taps = copied.eval()(torch.rand(1, 3, 8, 32, 32)).taps
    assert taps.keys() == original.taps.keys()
    assert not original._seen


# frames, px, GMACs, parameters in millions under 400 classes: the X3D paper, table 4; pytorchvideo's model zoo
PUBLISHED = {
    "x3d_s": (13, 160, 1.96, 3.79),
    "x3d_l": (16, 312, 18.37, 6.15),
    "slow_r50": (8, 256, 54.52, 32.45),
    "slowfast_r50": (32, 256, 65.71, 34.57),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_pytorchvideo_costs_what_it_publishes(name):
    frames, size_px, gmacs, millions = PUBLISHED[name]
    with torch.device("meta"):
        network = models.build(name, 400)
    assert cost.gmacs(network, frames, size_px) == pytest.approx(gmacs, abs=0.01)
    assert cost.parameters(network.net) / 1e6 == pytest.approx(millions, abs=0.006)


TORCHVISION = {
    "r3d_18": ("R3D_18_Weights", 16, 112),
    "mc3_18": ("MC3_18_Weights", 16, 112),
    "r2plus1d_18": ("R2Plus1D_18_Weights", 16, 112),
    "s3d": ("S3D_Weights", 16, 224),
    "mvit_v1_b": ("MViT_V1_B_Weights", 16, 224),
    "mvit_v2_s": ("MViT_V2_S_Weights", 16, 224),
    "swin3d_t": ("Swin3D_T_Weights", 16, 224),
    "swin3d_s": ("Swin3D_S_Weights", 16, 224),
    "swin3d_b": ("Swin3D_B_Weights", 16, 224),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_is_as_its_weights_want_it(name):
    """Parameters, GMACs and normalisation, by torchvision's own record of the weights."""
    from torchvision.models import video

    weights, frames, size_px = TORCHVISION[name]
    record = getattr(video, weights).KINETICS400_V1
    with torch.device("meta"):
        network = models.build(name, 400)
    assert cost.parameters(network.net) == record.meta["num_params"]
    assert cost.gmacs(network, frames, size_px) == pytest.approx(record.meta["_ops"], abs=0.01)
    presets = record.transforms()
    assert network.input.mean == tuple(presets.mean)
    assert network.input.std == tuple(presets.std)
