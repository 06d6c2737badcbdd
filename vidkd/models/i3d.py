"""Inception-v1 I3D and three cheaper nets of the same feature shapes, which differ in temporal kernels alone.

I3D: Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017. Top-heavy keeps temporal kernels in its upper
half, Bottom-heavy in its lower half, I2D nowhere (Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018).
Parameter names are those of the ported Kinetics weights in circulation, so such a file loads as it is.

| 101-way       | parameters | GMACs at 64 x 224 x 224 |
|---------------|------------|-------------------------|
| i3d           | 12,390,789 | 111.15                  |
| i3d_top       | 10,532,613 |  45.36                  |
| i3d_bottom    |  7,561,605 | 102.68                  |
| i3d_2d        |  5,703,429 |  36.89                  |

Taps for 64 x 224 x 224: early = Mixed_3c [B, 480, 32, 28, 28], middle = Mixed_4f [B, 832, 16, 14, 14],
late = Mixed_5c [B, 1024, 8, 7, 7], late_signed = the same before its ReLUs; and step_logits [B, K, 7, 1, 1], whose mean
over time is the answer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidkd.errors import ConfigError
from vidkd.models.attention import owns
from vidkd.taps import Input, Tap, Tapped, channels_of

Triple = tuple[int, int, int]


class Mix(NamedTuple):
    """Widths of one Inception block: branch 0, branch 1 (reduced, out), branch 2 (reduced, out), branch 3."""

    b0: int
    b1: tuple[int, int]
    b2: tuple[int, int]
    b3: int

    @property
    def out(self) -> int:
        return self.b0 + self.b1[1] + self.b2[1] + self.b3


class Depth(NamedTuple):
    """Temporal kernel sizes of the layers that have a choice."""

    stem: int  # Conv3d_1a
    conv_2c: int
    lower: int  # Mixed_3b to Mixed_4c
    upper: int  # Mixed_4d to Mixed_5c


LOWER = {
    "Mixed_3b": Mix(64, (96, 128), (16, 32), 32),
    "Mixed_3c": Mix(128, (128, 192), (32, 96), 64),
    "Mixed_4b": Mix(192, (96, 208), (16, 48), 64),
    "Mixed_4c": Mix(160, (112, 224), (24, 64), 64),
}
UPPER = {
    "Mixed_4d": Mix(128, (128, 256), (24, 64), 64),
    "Mixed_4e": Mix(112, (144, 288), (32, 64), 64),
    "Mixed_4f": Mix(256, (160, 320), (32, 128), 128),
    "Mixed_5b": Mix(256, (160, 320), (32, 128), 128),
    "Mixed_5c": Mix(384, (192, 384), (48, 128), 128),
}
POOLS = {  # in front of these blocks: kernel, stride
    "Mixed_3b": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """TensorFlow's SAME: the output has ceil(n / stride) samples along each axis, and an odd zero goes behind.

    Returns x with what has to be padded by hand, and what the layer itself may pad alike on both sides.
    """
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    t, h, w = totals
    if max(kernel) <= 3 and all(total % 2 == 0 for total in totals):
        return x, (t // 2, h // 2, w // 2)
    # Large kernels by hand as well: for padding 3, kernel 7 and stride 2, torch 2.15's CPU convolution (oneDNN) writes
    # outside its memory in the backward pass of clips of 5 to 7 frames. The gradient is wrong, or the program dies.
    before_and_after = [part for total in (w, h, t) for part in (total // 2, total - total // 2)]
    return F.pad(x, before_and_after), (0, 0, 0)


class Unit(nn.Module):
    """Convolution with SAME padding, then batch norm and ReLU; with `signed`, without the ReLU; or, with `plain`, a
    convolution with bias alone."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        *,
        plain: bool = False,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)
        self.signed = signed

    def forward(self, x: Tensor) -> Tensor:
        x, padding = pad_same(x, self.kernel, self.stride)
        x = F.conv3d(x, self.conv3d.weight, self.conv3d.bias, self.stride, padding)
        if self.bn is None:
            return x
        x = self.bn(x)
        return x if self.signed else F.relu(x, inplace=True)


class Pool(nn.Module):
    """Max pool with SAME padding. Zeros serve as padding since every input here has passed a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x, padding = pad_same(x, self.kernel, self.stride)
        if not x.is_cpu:
            return F.max_pool3d(x, self.kernel, self.stride, padding)
        # torch's CPU kernel for the usual layout has no vector instructions: up to ten times the time.
        x = _Layout.apply(x, torch.channels_last_3d)
        return _Layout.apply(F.max_pool3d(x, self.kernel, self.stride, padding), torch.contiguous_format)  # pyright: ignore[reportReturnType]


class _Layout(torch.autograd.Function):
    """The same numbers in another memory format, and their gradient in the format that the input had: ReLU's backward
    takes six times as long where the two differ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        last = memory_format == torch.channels_last_3d
        ctx.back = torch.contiguous_format if last else torch.channels_last_3d
        return x.contiguous(memory_format=memory_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.contiguous(memory_format=ctx.back), None


class Mixed(nn.Module):
    """Four branches side by side; `k` is the temporal kernel of the two 3x3 convolutions and of the pool.

    The last ReLU of the branches is one, behind their joining: what it takes is the signed map of the block.
    """

    def __init__(self, c_in: int, mix: Mix, k: int) -> None:
        super().__init__()
        self.b0 = Unit(c_in, mix.b0, (1, 1, 1), signed=True)
        self.b1a = Unit(c_in, mix.b1[0], (1, 1, 1))
        self.b1b = Unit(*mix.b1, (k, 3, 3), signed=True)
        self.b2a = Unit(c_in, mix.b2[0], (1, 1, 1))
        self.b2b = Unit(*mix.b2, (k, 3, 3), signed=True)
        self.b3a = Pool((k, 3, 3))
        self.b3b = Unit(c_in, mix.b3, (1, 1, 1), signed=True)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return self.relu(torch.cat(branches, dim=1))


def pool_steps(features: Tensor) -> Tensor:
    """[B, C, T', h, w] -> [B, C, S, 1, 1]: means over the whole of h x w and over windows of 2 samples in time.

    The windows overlap, so S = T' - 1; where T' is 1, so is S.

    The published head averages windows of 2 x 7 x 7 instead. At 224 px, where h and w are 7, that is the same numbers;
    at other sizes this gives an answer where that one fails (below 7) or weighs the middle more (above 7).
    """
    spatial = features.mean((3, 4), keepdim=True)
    return F.avg_pool3d(spatial, (min(2, spatial.shape[2]), 1, 1), stride=1)


class I3D(nn.Module):
    """[B, C, T, H, W] in [-1, 1] -> logits [B, K]: the mean of the logits of the clip's steps. C = 3, of flow 2."""

    def __init__(self, num_classes: int, depth: Depth, stem_stride_t: int, dropout: float, channels_in: int) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(channels_in, 64, (depth.stem, 7, 7), (stem_stride_t, 2, 2))
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, (1, 1, 1))
        self.Conv3d_2c_3x3 = Unit(64, 192, (depth.conv_2c, 3, 3))
        channels = 192
        for name, mix in (LOWER | UPPER).items():
            if name in POOLS:
                pool, kernel, stride = POOLS[name]
                self.add_module(pool, Pool(kernel, stride))
            self.add_module(name, Mixed(channels, mix, depth.lower if name in LOWER else depth.upper))
            channels = mix.out
        self.dropout = nn.Dropout(dropout)
        self.logits = Unit(channels, num_classes, (1, 1, 1), plain=True)

    def features(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> Mixed_5c [B, 1024, T', h, w]; T' = T / 8, h = H / 32, each rounded up at every halving."""
        for name, layer in self.named_children():
            if name not in ("dropout", "logits") and not owns(name):
                video = layer(video)
        return video

    def classify(self, features: Tensor) -> Tensor:
        """[B, 1024, T', h, w] -> [B, K]."""
        return self.logits(self.dropout(pool_steps(features))).mean((2, 3, 4))

    def forward(self, video: Tensor) -> Tensor:
        return self.classify(self.features(video))


def _maker(name: str, depth: Depth) -> Callable[..., Tapped]:
    def make(num_classes: int, *, stem_stride_t: int = 2, dropout: float = 0.5, modality: str = "rgb") -> Tapped:
        """`stem_stride_t` 1 takes every frame it is given: for stems that look at one frame at a time (i3d_top, i3d_2d)
        that is the same answer from half of the frames, since at stride 2 they never see frames 1, 3, 5, ...
        `modality` "flow" takes optical flow, 2 channels."""
        if stem_stride_t not in (1, 2):
            raise ConfigError(f"{name}: stem_stride_t is 1 or 2, not {stem_stride_t}")
        taps = {
            "early": Tap("Mixed_3c", 480),
            "middle": Tap("Mixed_4f", 832),
            "late": Tap("Mixed_5c", 1024),
            "late_signed": Tap("Mixed_5c.relu", 1024, listen="input"),
            "step_logits": Tap("logits", num_classes),
        }
        half = (0.5,) * channels_of(modality, name)
        net = I3D(num_classes, depth, stem_stride_t, dropout, len(half))
        limits = Input(half, half, min_size_px=16)  # 0..1 -> -1..1
        return Tapped(name, net, taps, limits, head="logits.conv3d")

    return make


NETWORKS = {
    name: _maker(name, depth)
    for name, depth in {
        "i3d": Depth(7, 3, 3, 3),
        "i3d_top": Depth(1, 1, 1, 3),
        "i3d_bottom": Depth(7, 3, 3, 1),
        "i3d_2d": Depth(1, 1, 1, 1),
    }.items()
}
