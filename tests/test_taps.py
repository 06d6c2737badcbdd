"""A layer is named once, and every layout comes to the same grid."""

import pytest
import torch
from torch import nn

from vidkd import models
from vidkd.errors import ConfigError
from vidkd.taps import Frozen, Input, Tap, Tapped, channels_last, class_token_and_grid, held, pathway


def tapped(net, taps, **limits):
    return Tapped("net", net, taps, Input(**limits), head="head")


def test_tap_reads_the_named_module():
    net = nn.Sequential(nn.Conv3d(3, 5, 1), nn.Conv3d(5, 7, 1))
    view = tapped(net, {"mid": Tap("0", 5)})(torch.ones(2, 3, 4, 6, 6))
    assert view.taps["mid"].shape == (2, 5, 4, 6, 6)


def test_a_wrong_path_suggests_the_right_one():
    net = nn.Sequential()
    net.add_module("layer3", nn.Identity())
    with pytest.raises(ConfigError, match="tap 'late': no submodule 'layr3'; did you mean 'layer3'"):
        tapped(net, {"late": Tap("layr3", 3)})


def test_a_wrong_channel_count_names_the_tap():
    net = nn.Sequential(nn.Conv3d(3, 5, 1))
    with pytest.raises(ConfigError, match=r"tap 'mid' at '0': expected \[B, 8, T, H, W\], got \(2, 5, 4, 6, 6\)"):
        tapped(net, {"mid": Tap("0", 8)})(torch.ones(2, 3, 4, 6, 6))


def signed_and_in_place():
    net = nn.Sequential(nn.Conv3d(3, 5, 1), nn.ReLU(inplace=True))
    return net, torch.linspace(-1, 1, 3 * 4).view(1, 3, 1, 2, 2)


def test_the_input_of_a_layer_is_heard_as_it_was_before_the_layer_changed_it():
    net, clip = signed_and_in_place()
    network = tapped(net, {"signed": Tap("1", None, listen="input")})
    view = network(clip)
    assert torch.equal(view.taps["signed"], net[0](view.video)) and view.taps["signed"].min() < 0


def test_a_map_that_a_later_layer_changes_in_place_is_refused():
    net, clip = signed_and_in_place()
    network = tapped(net, {"late": Tap("0", 5)})
    with pytest.raises(ConfigError, match=r"tap 'late' heard at '0' was changed in place.*input of that layer"):
        network(clip)


def test_a_submodule_that_gives_no_map_cannot_be_tapped():
    net = nn.Sequential(nn.Conv3d(3, 5, 1), nn.Flatten())
    with pytest.raises(ConfigError, match=r"tap 'own' at '1': expected \[B, C, T, H, W\], got \(2, 720\)"):
        tapped(net, {"own": Tap("1", None)})(torch.ones(2, 3, 4, 6, 6))


def test_a_tap_may_have_fewer_axes():
    class Attention(nn.Module):
        def forward(self, x):
            return x.mean(dim=(3, 4)).sigmoid()

    view = tapped(nn.Sequential(Attention()), {"when": Tap("0", 3, axes="BCT")})(torch.ones(2, 3, 4, 6, 6))
    assert view.taps["when"].shape == (2, 3, 4)


def test_every_layout_comes_to_the_same_grid():
    t, h, w, c = 2, 3, 4, 5
    grid = torch.arange(c * t * h * w).reshape(1, c, t, h, w)
    last = grid.permute(0, 2, 3, 4, 1)
    tokens = torch.cat([torch.full((1, 1, c), -1), last.reshape(1, -1, c)], dim=1)
    assert torch.equal(channels_last(last), grid)
    assert torch.equal(class_token_and_grid((tokens, (t, h, w))), grid)
    assert torch.equal(pathway(1)([None, grid]), grid)


def test_bytes_and_fractions_are_normalised_alike():
    network = models.build("tiny4", 3)
    video = torch.randint(0, 256, (1, 3, 2, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(network.normalise(video), network.normalise(video.float() / 255))
    grey = torch.full((1, 3, 1, 1, 1), 0.45)
    torch.testing.assert_close(network.normalise(grey), torch.zeros_like(grey))


def test_a_teacher_cannot_be_put_in_train_mode_nor_thawed():
    owner = nn.Sequential(Frozen(models.build("tiny4", 3)))
    owner.train()
    owner.requires_grad_(True)
    owner[0].requires_grad_(True)
    assert not any(m.training for m in owner[0].modules())
    assert (
        not any(p.requires_grad for p in owner[0].parameters())
        or owner[0](torch.rand(1, 3, 4, 8, 8)).logits.grad_fn is None
    )
    assert not owner[0](torch.rand(1, 3, 4, 8, 8)).logits.requires_grad


def test_held_passes_gradient_through_but_not_in():
    x, layer = torch.ones(1, 3, requires_grad=True), nn.Linear(3, 2)
    with held(layer):
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


def test_a_tap_the_network_lacks_is_named_with_those_it_has():
    with pytest.raises(ConfigError, match="tiny4: no tap 'layte'; did you mean 'late'"):
        models.build("tiny4", 4).taps["layte"]


@pytest.mark.parametrize(
    ("limits", "frames", "size_px", "message"),
    [
        ({"frames": 16}, 8, 224, "takes 16 frames, not 8$"),
        ({"size_px": 224}, 8, 112, "takes 224 px a side, not 112"),
        ({"min_frames": 4}, 2, 112, "needs at least 4 frames, not 2$"),
        ({"frames_multiple": 8}, 12, 112, "needs a multiple of 8 frames, not 12"),
        ({"min_size_px": 32}, 8, 16, "needs at least 32 px a side, not 16"),
    ],
)
def test_clips_a_network_cannot_take(limits, frames, size_px, message):
    with pytest.raises(ConfigError, match=message):
        Input(**limits).check("net", frames, size_px)


def test_unknown_networks_and_options_are_named():
    with pytest.raises(ConfigError, match="no network 'tiny5'; did you mean 'tiny4'"):
        models.build("tiny5", 3)
    with pytest.raises(ConfigError, match="no option 'depth'"):
        models.build("tiny4", 3, depth=3)
