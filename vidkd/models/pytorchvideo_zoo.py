"""pytorchvideo's networks, with random weights; mean 0.45 and standard deviation 0.225 for every channel.

x3d_*: Feichtenhofer, X3D, CVPR 2020. slow_r50, slowfast_*: Feichtenhofer et al., SlowFast Networks, ICCV 2019.
csn_r101: Tran et al., Channel-Separated Convolutional Networks, ICCV 2019. i3d_r50, c2d_r50: Wang et al., Non-local
Neural Networks, CVPR 2018. mvit_base: Fan et al., Multiscale Vision Transformers, ICCV 2021.
Parameter names are pytorchvideo's, so its Kinetics-400 files load as they are, under 400 classes.

Its heads average windows of the size that the published clip ends in. Here they average everything that is left: the
same numbers for the published clip (noted beside each network), and an answer for every other length and size.
"""

import warnings
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

from vidkd.models.torchvision_video import mvit_input, mvit_taps
from vidkd.taps import Input, Tap, Tapped, pathway

SLOWFAST_ALPHA = 4  # frames of the fast pathway for one of the slow


def _pytorchvideo(name: str, **arguments: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it compiles a function with torch.jit as it is imported
        hub = import_module("pytorchvideo.models.hub")
        return getattr(hub, name)(**arguments)


def _last_relu(net: nn.Module, stage: str) -> str:
    """The path of the last ReLU of a stage of residual blocks: what it takes is the stage's signed map."""
    blocks = net.get_submodule(f"{stage}.res_blocks")
    return f"{stage}.res_blocks.{len(list(blocks.children())) - 1}.activation"


def _x3d(name: str) -> Callable[..., Tapped]:
    def make(num_classes: int, *, dropout: float = 0.5) -> Tapped:
        net = _pytorchvideo(name, model_num_class=num_classes, dropout_rate=dropout, head_activation=None)
        net.get_submodule("blocks.5.pool").pool = nn.AdaptiveAvgPool3d(1)
        taps = {"early": Tap("blocks.2", 48), "middle": Tap("blocks.3", 96), "late": Tap("blocks.4", 192)}
        taps["late_signed"] = Tap(_last_relu(net, "blocks.4"), 192, listen="input")
        return Tapped(name, net, taps, Input(min_size_px=32), head="blocks.5.proj")

    return make


def _resnet(name: str, first: int, min_frames: int = 1) -> Callable[..., Tapped]:
    """`first` is the block of the stage with 512 channels; two more stages and the head follow it."""

    def make(num_classes: int, *, dropout: float = 0.5) -> Tapped:
        net = _pytorchvideo(name, model_num_class=num_classes, dropout_rate=dropout)
        net.get_submodule(f"blocks.{first + 3}").pool = nn.AdaptiveAvgPool3d(1)
        taps = {
            "early": Tap(f"blocks.{first}", 512),
            "middle": Tap(f"blocks.{first + 1}", 1024),
            "late": Tap(f"blocks.{first + 2}", 2048),
            "late_signed": Tap(_last_relu(net, f"blocks.{first + 2}"), 2048, listen="input"),
        }
        limits = Input(min_frames=min_frames, min_size_px=32)
        return Tapped(name, net, taps, limits, head=f"blocks.{first + 3}.proj")

    return make


def pack_pathways(_net: nn.Module, args: tuple[Tensor]) -> tuple[list[Tensor]]:
    """One clip [B, 3, T, H, W] -> [slow, fast]: T / 4 frames, spread evenly from the first to the last, and all T."""
    (clip,) = args
    frames = clip.shape[2]
    slow = torch.linspace(0, frames - 1, frames // SLOWFAST_ALPHA, device="cpu").long()
    return ([clip[:, :, slow.tolist()], clip],)


def _slowfast(name: str) -> Callable[..., Tapped]:
    def make(num_classes: int, *, dropout: float = 0.5) -> Tapped:
        net = _pytorchvideo(name, model_num_class=num_classes, dropout_rate=dropout)
        net.get_submodule("blocks.5").pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1), nn.AdaptiveAvgPool3d(1)])
        net.register_forward_pre_hook(pack_pathways)
        stages = {"early": (2, 640, 64), "middle": (3, 1280, 128), "late": (4, 2048, 256)}
        slow = {tap: Tap(f"blocks.{block}", width, pathway(0)) for tap, (block, width, _) in stages.items()}
        fast = {f"fast_{tap}": Tap(f"blocks.{block}", width, pathway(1)) for tap, (block, _, width) in stages.items()}
        slow["late_signed"], fast["fast_late_signed"] = (
            Tap(_last_relu(net, f"blocks.4.multipathway_blocks.{i}"), width, listen="input")
            for i, width in enumerate(stages["late"][1:])
        )
        limits = Input(min_frames=SLOWFAST_ALPHA, min_size_px=32, frames_multiple=SLOWFAST_ALPHA)
        return Tapped(name, net, slow | fast, limits, head="blocks.6.proj")

    return make


def mvit_base(num_classes: int, *, frames: int = 16, size_px: int = 224, dropout: float = 0.5) -> Tapped:
    """MViT-B, 16 x 4: published for 16 frames of 224 px."""
    limits = mvit_input("mvit_base", frames, size_px)
    net = _pytorchvideo(
        "mvit_base_16x4",
        head_num_classes=num_classes,
        spatial_size=size_px,
        temporal_size=frames,
        head_dropout_rate=dropout,
    )
    return Tapped("mvit_base", net, mvit_taps(early=(1, 192), middle=(12, 384)), limits, head="head.proj")


NETWORKS = {
    "x3d_xs": _x3d("x3d_xs"),  # 4 x 160 px
    "x3d_s": _x3d("x3d_s"),  # 13 x 160 px
    "x3d_m": _x3d("x3d_m"),  # 16 x 224 px
    "x3d_l": _x3d("x3d_l"),  # 16 x 312 px
    "slow_r50": _resnet("slow_r50", first=2),  # 8 x 224 px
    "c2d_r50": _resnet("c2d_r50", first=3, min_frames=2),  # 8 x 224 px; a pool halves the frames
    "i3d_r50": _resnet("i3d_r50", first=3, min_frames=2),  # 8 x 224 px; a pool halves the frames
    "csn_r101": _resnet("csn_r101", first=2),  # 32 x 224 px
    "slowfast_r50": _slowfast("slowfast_r50"),  # 32 x 224 px
    "slowfast_r101": _slowfast("slowfast_r101"),  # 32 x 224 px
    "mvit_base": mvit_base,
}
