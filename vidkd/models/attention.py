"""Attention over channels and time that any network can carry behind its `late` tap, in training and afterwards.

Its source is generative attention distillation (AAAI 2024). A head looks at the features F [B, C, T, h, w] and gives
lam [B, C, T] in (0, 1); what the rest of the network sees is F re-weighted by lam. The tap `late` stays F itself, the
tap `attention` is lam. A network may carry more of them (`taps: [middle, late]`, as a detector does in both maps that
its pyramid reads): that of another tap X is `attention_X`. `parity` is the published computation, `gap` and
`per_sample` are ours:

| head   | parameters at C = 1024, 7 x 7, T = 8 | GMACs | clips                                      |
|--------|--------------------------------------|-------|--------------------------------------------|
| gap    |                            2,099,712 |  0.02 | any                                        |
| parity |                           27,275,784 |  1.82 | of the one length and size it is built for |

Of a detector at 256 x 96 px, in both maps (832 x 64 x 6 x 6 and 1024 x 32 x 3 x 3): gap 1,706,304 + 2,099,712
parameters and 0.18 GMACs, parity 16,670,720 + 6,328,864 and 3.88.
"""

from collections.abc import Mapping
from math import gcd
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer
from torch import Tensor, nn

from vidkd.errors import ConfigError
from vidkd.models import cost
from vidkd.section import Section
from vidkd.taps import Layout, Tap, Tapped

NAME = "attention"  # of the submodule and of its tap
LATE = "late"
WIDTH = 512  # between the two layers of a head

Reweight = Literal["per_sample", "parity", "sum"]


class AttentionSection(Section):
    """The `attention:` of a network."""

    head: Literal["gap", "parity"] = "gap"
    reweight: Reweight = "per_sample"
    taps: tuple[str, ...] = (LATE,)  # the maps that are re-weighted, each by an attention of its own

    @field_validator("taps")
    @classmethod
    def _each_once(cls, taps: tuple[str, ...]) -> tuple[str, ...]:
        if not taps or len(set(taps)) != len(taps):
            raise ValueError(f"taps {list(taps)} must name at least one tap, and each once")
        return taps

    @model_serializer(mode="wrap")
    def _without_default_taps(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `taps` where it is the late one alone: what was keyed or saved before there was a choice stays."""
        said = handler(self)
        return {key: value for key, value in said.items() if (key, tuple(value)) != ("taps", (LATE,))}


def name(tap: str) -> str:
    """Of the submodule that is the attention of `tap`, and of the tap that says its lam."""
    return NAME if tap == LATE else f"{NAME}_{tap}"


def owns(parameter: str) -> bool:
    """Whether the dotted name of a tensor of a network is that of an attention."""
    return parameter.partition(".")[0].partition("_")[0] == NAME


def attach(tapped: Tapped, config: AttentionSection | None, frames: int, size_px: int) -> Tapped:
    """`tapped` with attentions of random weights for clips of that length and size; as it was without a `config`.

    ConfigError for a tap that it does not have, or that is no map [B, C, T, H, W].
    """
    if config is None:
        return tapped
    shapes = cost.tap_shapes(tapped, frames, size_px)
    for at in config.taps:
        tap = tapped.taps[at]
        if tap.axes != "BCTHW" or tap.listen != "output":
            raise ConfigError(f"{tapped.name}: attention re-weights maps [B, C, T, H, W]; the tap {at!r} is none")
        shape = shapes[at]
        head = GapHead(shape[0]) if config.head == "gap" else ParityHead(shape)
        attention = Attention(head, tap.layout, config.reweight, shape)
        tapped.net.add_module(name(at), attention)
        tapped.net.get_submodule(tap.path).register_forward_hook(attention.gate)  # behind the hook of the tap itself
        tapped.add_tap(name(at), Tap(name(at), shape[0], axes="BCT"))
    return tapped


def of(tapped: Tapped, tap: str = LATE) -> "Attention | None":
    """The attention that `tapped` carries in this tap."""
    found = getattr(tapped.net, name(tap), None)
    return found if isinstance(found, Attention) else None


def every(tapped: Tapped) -> "dict[str, Attention]":
    """Those that `tapped` carries, by the tap that each re-weights."""
    return {tap: found for tap in tapped.taps if (found := of(tapped, tap)) is not None}


def costs(tapped: Tapped, frames: int, size_px: int) -> dict[str, float]:
    """`parameters`, `gmacs` of one clip, and, of a network that carries an attention, both without it."""
    found: dict[str, float] = {
        "parameters": cost.parameters(tapped.net),
        "gmacs": cost.gmacs(tapped, frames, size_px),
    }
    if carried := every(tapped):
        shapes = cost.tap_shapes(tapped, frames, size_px)
        gmacs = [cost.gmacs_of(a.head, torch.empty(1, *shapes[tap], device="meta")) for tap, a in carried.items()]
        found["parameters_without_attention"] = found["parameters"] - sum(map(cost.parameters, carried.values()))
        found["gmacs_without_attention"] = found["gmacs"] - sum(gmacs)
    return found


def said(costs: Mapping[str, Any]) -> str:
    """`costs` in words."""
    text = f"{costs['parameters']:,} parameters, {costs['gmacs']:.3g} GMACs a clip"
    if "gmacs_without_attention" in costs:
        text += (
            f" (without attention {costs['parameters_without_attention']:,}, {costs['gmacs_without_attention']:.3g})"
        )
    return text


class Attention(nn.Module):
    """A head, and what its answer does to the features."""

    def __init__(self, head: nn.Module, layout: Layout, reweight: Reweight, shape: tuple[int, ...]) -> None:
        """`shape` [C, T, h, w]: of the features of the clips that the network is built for."""
        super().__init__()
        self.head, self.layout, self.shape = head, layout, shape
        self.how: Reweight = reweight

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, h, w] -> lam [B, C, T], float32."""
        return self.head(features).float()

    def gate(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """A forward hook: what the module returned, re-weighted."""
        features = self.layout(output)
        weighted = reweight(features.float(), self(features), self.how)
        return self.layout.put_back(output, weighted.to(features.dtype))

    def overlooked(self, features: Tensor) -> Tensor:
        """[B, C, T, h, w] re-weighted by 1 - lam: the background, as far as the attention knows."""
        lam = self.head(features).float()  # not through `forward`: what hears lam is to hear it once
        return reweight(features.float(), 1 - lam, self.how).to(features.dtype)


class GapHead(nn.Module):
    """Spatial mean -> 1 sample wide convolution over time, group norm, ReLU -> 3 wide convolution -> sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = WIDTH if channels > WIDTH else max(1, channels // 2)
        self.squeeze = nn.Sequential(nn.Conv1d(channels, width, 1), group_norm(width), nn.ReLU())
        self.excite = nn.Conv1d(width, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, h, w] -> [B, C, T]."""
        return self.excite(self.squeeze(features.mean((3, 4)))).sigmoid()


class ParityHead(nn.Module):
    """The published head: time is stretched to C samples by repetition, and a linear layer brings it back to T."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """`shape` [C, T, h, w] of the features, the only one it takes."""
        super().__init__()
        channels, frames, h, w = self.shape = shape
        self.squeeze = nn.Sequential(nn.Conv3d(channels, WIDTH, (1, h, w)), group_norm(WIDTH), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv1d(WIDTH, channels, 3, padding=1), group_norm(channels), nn.ReLU())
        self.shrink = nn.Linear(channels, frames)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, h, w] -> [B, C, T]; ValueError for another shape than it was built for."""
        if tuple(features.shape[1:]) != self.shape:
            raise ValueError(f"a parity attention for {list(self.shape)} met features {list(features.shape[1:])}")
        squeezed = self.squeeze(features).flatten(2)
        stretched = F.interpolate(squeezed, size=self.shape[0], mode="nearest")
        return self.shrink(self.excite(stretched)).sigmoid()


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or as many fewer as leave two channels in each: one channel at one time has no spread to divide by."""
    return nn.GroupNorm(gcd(32, channels, max(1, channels // 2)), channels)


def reweight(features: Tensor, lam: Tensor, how: Reweight) -> Tensor:
    """F [B, C, T, h, w] re-weighted by lam [B, C, T], but for `sum` so that a constant lam changes nothing.

    per_sample: F * lam, divided by the mean of lam over C and T, clip by clip. parity: F * lam times
    sum(F) / sum(F * lam), both over the whole batch as published, so that a clip's answer depends on its batch mates.
    sum, that of the published detector: F * lam / sum(lam), over the whole batch too; here a constant lam divides F by
    B x C x T, some 1e5, and the group norm that follows no longer sees it above its epsilon.
    """
    weighted = features * lam[..., None, None]
    if how == "per_sample":
        return weighted / lam.mean((1, 2)).view(-1, 1, 1, 1, 1)
    if how == "sum":
        return weighted / lam.sum()
    total = weighted.sum()
    return weighted * (features.sum() / torch.where(total == 0, 1.0, total))  # features may be zero everywhere
