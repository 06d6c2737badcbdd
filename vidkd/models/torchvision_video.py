"""torchvision's video networks, with random weights and its own normalisation of each.

r3d_18, mc3_18, r2plus1d_18: Tran et al., CVPR 2018. s3d: Xie et al., ECCV 2018. mvit_v1_b: Fan et al., ICCV 2021.
mvit_v2_s: Li et al., CVPR 2022. swin3d_*: Liu et al., Video Swin Transformer, CVPR 2022.
Parameter names are torchvision's, so its Kinetics-400 files load as they are, under 400 classes.
"""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor, nn

from vidkd.errors import ConfigError
from vidkd.models.i3d import pool_steps
from vidkd.taps import Input, Tap, Tapped, channels_last, class_token_and_grid

RESNET_MEAN, RESNET_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    return getattr(import_module("torchvision.models.video"), name)


def _resnet(name: str) -> Callable[..., Tapped]:
    def make(num_classes: int) -> Tapped:
        net = _torchvision(name)(num_classes=num_classes)
        taps = {"early": Tap("layer2", 128), "middle": Tap("layer3", 256), "late": Tap("layer4", 512)}
        taps["late_signed"] = Tap("layer4.1.relu", 512, listen="input")
        return Tapped(name, net, taps, Input(RESNET_MEAN, RESNET_STD, min_size_px=16), head="fc")

    return make


class StepPool(nn.Module):
    """`pool_steps` as a layer, in the place of s3d's 2 x 7 x 7 average, which allows no clip below 224 px."""

    def forward(self, features: Tensor) -> Tensor:
        return pool_steps(features)


def s3d(num_classes: int, *, dropout: float = 0.2) -> Tapped:
    """Separable 3-D Inception; [B, 1024, T / 8, H / 32, W / 32] at the late tap."""
    net = _torchvision("s3d")(num_classes=num_classes, dropout=dropout)
    net.avgpool = StepPool()
    taps = {"early": Tap("features.6", 480), "middle": Tap("features.12", 832), "late": Tap("features.15", 1024)}
    # 17 px: its last pool halves and does not pad. 8 frames: on 5 to 7, the stem (kernel 7, stride 2, padding 3) makes
    # torch 2.15's CPU convolution write outside its memory in the backward pass: a wrong gradient, or a crash.
    limits = Input(RESNET_MEAN, RESNET_STD, min_frames=8, min_size_px=17)
    return Tapped("s3d", net, taps, limits, head="classifier.1")


def mvit_input(name: str, frames: int, size_px: int) -> Input:
    """Positions are learned one by one, so an MViT is built for one clip length and size; ConfigError for bad ones."""
    if frames < 2 or frames % 2:
        raise ConfigError(f"{name}: frames must be even, not {frames}: its patches are 2 frames deep")
    if size_px < 32 or size_px % 16:
        raise ConfigError(f"{name}: size_px must be a multiple of 16 from 32 on, not {size_px}")
    return Input(frames=frames, size_px=size_px)


def mvit_taps(early: tuple[int, int], middle: tuple[int, int]) -> dict[str, Tap]:
    """Taps on (block, channels). Late is the last block but one: of the last, only the class token reaches the head."""
    places = {"early": early, "middle": middle, "late": (14, 768)}
    return {name: Tap(f"blocks.{block}", channels, class_token_and_grid) for name, (block, channels) in places.items()}


def _mvit(name: str, early: tuple[int, int], middle: tuple[int, int], relative: bool) -> Callable[..., Tapped]:
    def make(num_classes: int, *, frames: int = 16, size_px: int = 224, dropout: float = 0.5) -> Tapped:
        """mvit_v1_b learns a vector for each position; mvit_v2_s one for each distance (`relative`), which it stretches
        to other lengths and sizes, so that one file of weights fits them all."""
        limits = mvit_input(name, frames, size_px)
        net = _torchvision(name)(num_classes=num_classes, dropout=dropout)
        encoding = type(net.get_submodule("pos_encoding"))  # torchvision's makers know 16 frames of 224 px alone
        net.pos_encoding = encoding(96, (size_px // 4, size_px // 4), frames // 2, rel_pos_embed=relative)
        for parameter in net.pos_encoding.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
        return Tapped(name, net, mvit_taps(early, middle), limits, head="head.1")

    return make


def _swin(name: str, width: int) -> Callable[..., Tapped]:
    def make(num_classes: int) -> Tapped:
        net = _torchvision(name)(num_classes=num_classes)
        taps = {
            "early": Tap("features.2", 2 * width, channels_last),
            "middle": Tap("features.4", 4 * width, channels_last),
            "late": Tap("features.6", 8 * width, channels_last),
        }
        return Tapped(name, net, taps, Input(IMAGENET_MEAN, IMAGENET_STD, min_size_px=32), head="head")

    return make


NETWORKS = {
    **{name: _resnet(name) for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
    "s3d": s3d,
    "mvit_v1_b": _mvit("mvit_v1_b", early=(1, 192), middle=(12, 384), relative=False),
    "mvit_v2_s": _mvit("mvit_v2_s", early=(2, 192), middle=(13, 384), relative=True),
    **{name: _swin(name, width) for name, width in {"swin3d_t": 96, "swin3d_s": 96, "swin3d_b": 128}.items()},
}
