"""Small residual 3-D networks of our own, for clips of 8 to 16 frames and 32 to 112 px, fast on a CPU.

Dense convolutions alone: on a CPU depthwise ones take several times as long as their multiply-adds say. Time is kept
whole until the last stage, so that motion is seen frame by frame: the stem and two stages halve the side, the last
stage alone halves the frames. [B, 3, T, H, W] gives early [B, w, T, H/2, W/2], middle [B, 2w, T, H/4, W/4] and
late [B, 4w, T/2, H/8, W/8], each rounded up; late_signed is late before its ReLU.

Parameters, GMACs a clip, and CPU ms of one training step on 8 clips (fp32, 1 thread, an EPYC core; 6 classes):

|                          | parameters | 8 x 32 px      | 8 x 56 px       | 16 x 64 px       |
|--------------------------|------------|----------------|-----------------|------------------|
| small_r3d   (width 16)   |    228,406 | 0.068 G, 28 ms | 0.208 G,  83 ms | 0.543 G,  214 ms |
| small_r2p1d (width 32)   |    444,390 | 0.133 G, 79 ms | 0.406 G, 231 ms | 1.062 G,  781 ms |
| small_r3d, width 32      |    904,294 | 0.257 G, 71 ms | 0.787 G, 232 ms | 2.056 G,  619 ms |
| medium_r3d  (width 48)   |  2,027,670 | 0.567 G, 141 ms| 1.737 G, 416 ms | 4.537 G, 1211 ms |

medium_r3d is meant as a teacher of the others. Multiples of 16 are the cheap widths.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from vidkd.errors import ConfigError
from vidkd.models._chain import Chain
from vidkd.taps import Input, Tap, Tapped, channels_of

Triple = tuple[int, int, int]
Conv = Callable[[int, int, Triple], nn.Module]  # channels in, channels out, stride


def full(c_in: int, c_out: int, stride: Triple) -> nn.Module:
    """One 3 x 3 x 3 convolution."""
    return nn.Conv3d(c_in, c_out, 3, stride, padding=1, bias=False)


def factored(c_in: int, c_out: int, stride: Triple) -> nn.Module:
    """1 x 3 x 3, then 3 x 1 x 1, as in R(2+1)D (Tran et al., CVPR 2018), here with the outer width between them."""
    return nn.Sequential(
        nn.Conv3d(c_in, c_out, (1, 3, 3), (1, *stride[1:]), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(c_out, c_out, (3, 1, 1), (stride[0], 1, 1), padding=(1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """relu(shortcut(x) + two convolutions of x); where the shape changes, the shortcut averages and projects."""

    def __init__(self, c_in: int, c_out: int, stride: Triple, conv: Conv) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv(c_in, c_out, stride),
            nn.BatchNorm3d(c_out),
            nn.ReLU(inplace=True),
            conv(c_out, c_out, (1, 1, 1)),
            nn.BatchNorm3d(c_out),
        )
        self.shortcut = nn.Sequential()
        if stride != (1, 1, 1):
            self.shortcut.append(nn.AvgPool3d(stride, stride, ceil_mode=True))
        if c_in != c_out:
            self.shortcut.extend([nn.Conv3d(c_in, c_out, 1, bias=False), nn.BatchNorm3d(c_out)])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


def _stage(c_in: int, c_out: int, stride: Triple, depth: int, conv: Conv) -> nn.Sequential:
    rest = [Block(c_out, c_out, (1, 1, 1), conv) for _ in range(depth - 1)]
    return nn.Sequential(Block(c_in, c_out, stride, conv), *rest)


def _network(c_in: int, width: int, depth: int, num_classes: int, dropout: float, conv: Conv) -> Chain:
    net = Chain()
    stem = nn.Conv3d(c_in, width, (3, 5, 5), (1, 2, 2), padding=(1, 2, 2), bias=False)
    net.add_module("stem", nn.Sequential(stem, nn.BatchNorm3d(width), nn.ReLU(inplace=True)))
    net.add_module("stage1", _stage(width, width, (1, 1, 1), depth, conv))
    net.add_module("stage2", _stage(width, 2 * width, (1, 2, 2), depth, conv))
    net.add_module("stage3", _stage(2 * width, 4 * width, (2, 2, 2), depth, conv))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(dropout)))
    net.add_module("head", nn.Linear(4 * width, num_classes))
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _maker(name: str, conv: Conv, default_width: int) -> Callable[..., Tapped]:
    def make(
        num_classes: int,
        *,
        width: int = default_width,
        depth: int = 1,
        dropout: float = 0.0,
        modality: str = "rgb",
    ) -> Tapped:
        """`width` channels in the first stage, twice and four times that in the others; `depth` blocks a stage.

        `modality` "flow" takes optical flow, 2 channels.
        """
        if width < 1 or depth < 1:
            raise ConfigError(f"{name}: width and depth are at least 1, not {width} and {depth}")
        taps = {"early": Tap("stage1", width), "middle": Tap("stage2", 2 * width), "late": Tap("stage3", 4 * width)}
        taps["late_signed"] = Tap(f"stage3.{depth - 1}.relu", 4 * width, listen="input")
        channels = channels_of(modality, name)
        net = _network(channels, width, depth, num_classes, dropout, conv)
        limits = Input(min_frames=2, min_size_px=8)
        if modality == "flow":  # it lies about 0.5, and most of it close by
            limits = replace(limits, mean=(0.5, 0.5), std=(0.1, 0.1))
        return Tapped(name, net, taps, limits, head="head")

    return make


NETWORKS = {
    "small_r3d": _maker("small_r3d", full, 16),
    "small_r2p1d": _maker("small_r2p1d", factored, 32),
    "medium_r3d": _maker("medium_r3d", full, 48),
}
