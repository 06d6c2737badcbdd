"""A light network over time alone, for features that another network has computed before (vidkd.extract): long videos
are then a matter of seconds, and a detector sees minutes of them at once.

    name: detector
    options: {backbone: sequence, backbone_options: {channels: 1024}, frames: 512, size_px: 1, width: 256}

[B, C, T, 1, 1] gives early and middle [B, width, T, 1, 1] and late [B, width, T/2, 1, 1]; pictures of more than a pixel
are averaged first. With 1,024 channels and width 256: 1.4 M parameters, 0.9 GMACs for 768 features.
"""

from torch import nn

from vidkd.errors import ConfigError
from vidkd.models._chain import Chain
from vidkd.taps import Input, Tap, Tapped


def _stage(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv3d(c_in, c_out, (kernel, 1, 1), (stride, 1, 1), padding=(kernel // 2, 0, 0))
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(c_out // 16, c_out), nn.ReLU())


def sequence(num_classes: int, *, channels: int = 3, width: int = 256) -> Tapped:
    """`channels` of a feature; `width`, a multiple of 16, of the maps."""
    if channels < 1 or width < 16 or width % 16:
        raise ConfigError(f"sequence: channels is at least 1 and width a multiple of 16, not {channels} and {width}")
    net = Chain()
    net.add_module("point", nn.AdaptiveAvgPool3d((None, 1, 1)))
    net.add_module("early", _stage(channels, width, 1))
    net.add_module("middle", _stage(width, width, 3))
    net.add_module("late", _stage(width, width, 3, stride=2))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()))
    net.add_module("head", nn.Linear(width, num_classes))
    taps = {name: Tap(name, width) for name in ("early", "middle", "late")}
    taps["late_signed"] = Tap("late.2", width, listen="input")
    return Tapped("sequence", net, taps, Input((0.0,) * channels, (1.0,) * channels), head="head")


NETWORKS = {"sequence": sequence}
