"""Any 2-D network of timm, shown one frame at a time; the clip's answer is the mean over its frames.

`temporal: pool` mixes time in that mean alone (TSN: Wang et al., ECCV 2016). `temporal: shift` also moves an eighth of
the channels one frame on and an eighth one frame back in front of each residual branch, which costs no multiply-adds
(TSM: Lin et al., ICCV 2019).
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidkd.errors import ConfigError, one_of
from vidkd.taps import Input, Tap, Tapped

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# timm's residual blocks: class -> the first layer of its residual branch
BRANCHES = {"BasicBlock": "conv1", "Bottleneck": "conv1", "InvertedResidual": "conv_pw", "ConvNeXtBlock": "conv_dw"}
TIMM_HEADS = (
    "fc.",
    "classifier.",
    "conv_head.",
    "head.",
    "norm.",
    "bn2.",
)  # what timm's files hold behind the last stage
STAGES = ("early", "middle", "late")


def shift(x: Tensor, frames: int) -> Tensor:
    """[B * T, C, h, w] -> the same shape: of each clip, the first C // 8 channels come from the frame before, the next
    C // 8 from the frame after (zeros where there is none), the others stay."""
    clips = x.unflatten(0, (-1, frames))
    fold = x.shape[1] // 8
    past, future, present = clips.split([fold, fold, x.shape[1] - 2 * fold], dim=2)
    before_frame, behind_frame = (0, 0, 0, 0, 0, 0, 1, -1), (0, 0, 0, 0, 0, 0, -1, 1)
    return torch.cat([F.pad(past, before_frame), F.pad(future, behind_frame), present], dim=2).flatten(0, 1)


class Shift:
    """`shift` as a forward pre-hook; the network that owns it says how many frames a clip has."""

    frames = 1

    def __call__(self, _layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (shift(args[0], self.frames),)


class FrameNet(nn.Module):
    """[B, 3, T, H, W] -> logits [B, K]; the last three stages of `backbone` pass early, middle and late as clips."""

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, last: bool, dropout: float) -> None:
        """`last`: whether the stages come out channels last. `channels`: of the last stage."""
        super().__init__()
        self.backbone = backbone
        self.early, self.middle, self.late = nn.Identity(), nn.Identity(), nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        self.channels_last, self.shift = last, Shift()

    def forward(self, video: Tensor) -> Tensor:
        frames = self.shift.frames = video.shape[2]
        stages: Sequence[Tensor] = self.backbone(video.movedim(2, 1).flatten(0, 1))[-3:]
        taps = (self.early, self.middle, self.late)
        *_, late = [tap(self._as_clip(stage, frames)) for tap, stage in zip(taps, stages, strict=True)]
        return self.head(self.dropout(late.mean((2, 3, 4))))

    def own_names(self, names: Iterable[str]) -> dict[str, str | None]:
        """What this network calls the tensors of a file of timm's; None for those that belong to the file's head."""
        own, found = set(self.state_dict()), {}
        for name in names:
            flat = name.replace(".", "_", 1)  # timm names the stages of some networks so, once they are taken apart
            candidates = (name, f"backbone.{name}", f"backbone.{flat}", f"backbone.model.{name}")
            unknown = None if name.startswith(TIMM_HEADS) else name
            found[name] = next((candidate for candidate in candidates if candidate in own), unknown)
        return found

    def _as_clip(self, stage: Tensor, frames: int) -> Tensor:
        maps = stage.movedim(-1, 1) if self.channels_last else stage
        return maps.unflatten(0, (-1, frames)).movedim(1, 2)


def frame2d(
    num_classes: int,
    *,
    backbone: str = "resnet18",
    temporal: str = "pool",
    dropout: float = 0.0,
) -> Tapped:
    """`backbone` is a name of timm's, such as mobilenetv3_small_100; its weights are loaded like any other's, from a
    file of timm's or of a run, with a new head."""
    if temporal not in ("pool", "shift"):
        raise ConfigError(f"frame2d: {one_of(temporal, ['pool', 'shift'], 'temporal')}")
    features = _timm(backbone)
    channels: list[int] = features.feature_info.channels()[-3:]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    if len(channels) < 3:
        raise ConfigError(f"frame2d: {backbone} has {len(channels)} stages; taps need three")
    last = str(getattr(features, "output_fmt", "")).endswith("NHWC")
    net = FrameNet(features, channels[-1], num_classes, last, dropout)
    if temporal == "shift":
        _hook(net, backbone)
    about = getattr(features, "pretrained_cfg", IMAGENET)
    size_px = about["input_size"][-1] if about.get("fixed_input_size") else None
    limits = Input(tuple(about["mean"]), tuple(about["std"]), size_px=size_px, min_size_px=32)
    taps = {name: Tap(name, width) for name, width in zip(STAGES, channels, strict=True)}
    return Tapped(f"frame2d({backbone}, {temporal})", net, taps, limits, head="head")


def _timm(backbone: str) -> nn.Module:
    """timm's network without its head; it returns the maps of its stages. ConfigError if that cannot be had."""
    try:
        import timm
    except ImportError:
        raise ConfigError("frame2d needs timm, which is not installed: pip install 'vidkd[timm]'") from None
    if not timm.is_model(backbone):
        near = get_close_matches(backbone, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"frame2d: timm has no network {backbone!r}{hint}")
    try:
        return timm.create_model(backbone, pretrained=False, features_only=True)
    except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"frame2d: timm gives no stages of {backbone}: {error}") from error


def _hook(net: FrameNet, backbone: str) -> None:
    """Put `shift` in front of every residual branch; ConfigError if there is none that we know."""
    hooked = 0
    for block in net.backbone.modules():
        branch = getattr(block, BRANCHES.get(type(block).__name__, ""), None)
        if branch is not None and getattr(block, "has_skip", True):  # a block without a shortcut would lose the present
            branch.register_forward_pre_hook(net.shift)
            hooked += 1
    if not hooked:
        raise ConfigError(f"frame2d: {backbone} has no {', '.join(BRANCHES)} to shift in; use temporal: pool")


NETWORKS = {"frame2d": frame2d}
