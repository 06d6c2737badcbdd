"""Read intermediate activations out of any network, by name, without editing it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from vidkd.errors import ConfigError, one_of
from vidkd.types import View

Tokens = tuple[Tensor, tuple[int, int, int]]
Listen = Literal["output", "input"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a submodule lays out what it returns."""

    to_grid: Callable[[Any], Tensor]  # what it returned -> a tensor with the tap's axes
    put_back: Callable[[Any, Tensor], Any]  # what it returned, a changed grid -> the same with that grid in it

    def __call__(self, output: Any) -> Tensor:
        return self.to_grid(output)


def _tokens_to_grid(output: Tokens) -> Tensor:
    tokens, (t, h, w) = output
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (t, h, w))


def _grid_to_tokens(output: Tokens, grid: Tensor) -> Tokens:
    tokens, size = output
    return torch.cat([tokens[:, :1], grid.flatten(2).transpose(1, 2)], dim=1), size


# [B, C, T, H, W]: convolutional networks.
as_is = Layout(lambda output: output, lambda _, grid: grid)
# [B, T, H, W, C]: Video Swin.
channels_last = Layout(lambda output: output.movedim(-1, 1), lambda _, grid: grid.movedim(1, -1))
# ([B, 1 + T*H*W, C], (T, H, W)): MViT. The class token is no part of the grid.
class_token_and_grid = Layout(_tokens_to_grid, _grid_to_tokens)


def pathway(index: int) -> Layout:
    """[slow, fast]: SlowFast; `index` picks one."""
    return Layout(
        lambda outputs: outputs[index],
        lambda outputs, grid: [grid if i == index else own for i, own in enumerate(outputs)],
    )


@dataclass(frozen=True, slots=True)
class Tap:
    """One place to listen: what the submodule at `path` returns, or takes, brought to `axes`."""

    path: str
    channels: int | None  # None: as many as there are
    layout: Layout = as_is
    axes: str = "BCTHW"
    listen: Listen = "output"


def channels_of(modality: str, network: str) -> int:
    """Of what a network of this modality takes: 3, RGB, or 2, flow along x and y. ConfigError for another name."""
    if modality not in ("rgb", "flow"):
        raise ConfigError(f"{network}: {one_of(modality, ['rgb', 'flow'], 'modality')}")
    return 3 if modality == "rgb" else 2


class Taps(dict[str, Tap]):
    """The taps a network offers; asking for one it does not is a mistake in the configuration."""

    def __init__(self, network: str, taps: dict[str, Tap]) -> None:
        super().__init__(taps)
        self.network = network

    def __missing__(self, name: str) -> Tap:
        raise ConfigError(f"{self.network}: {one_of(name, list(self), 'tap')}")


@dataclass(frozen=True, slots=True)
class Input:
    """What a network was made to see: its normalisation travels with it, and so do its limits."""

    mean: tuple[float, ...] = (0.45, 0.45, 0.45)  # RGB, or flow along x and y, in 0..1; of features, each channel's
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    frames: int | None = None  # the only clip length it takes, of its option `frames`; None: any from min_frames on
    size_px: int | None = None  # the only side it takes, of its option `size_px`; None: any from min_size_px on
    min_frames: int = 1
    min_size_px: int = 1
    frames_multiple: int = 1

    def check(self, network: str, frames: int, size_px: int) -> None:
        """ConfigError if the network cannot take clips of `frames` frames and `size_px` pixels a side."""
        wrong = []
        if self.frames is not None and frames != self.frames:
            wrong.append(f"takes {self.frames} frames, not {frames}")
        if self.size_px is not None and size_px != self.size_px:
            wrong.append(f"takes {self.size_px} px a side, not {size_px}")
        if frames < self.min_frames:
            wrong.append(f"needs at least {self.min_frames} frames, not {frames}")
        if frames % self.frames_multiple:
            wrong.append(f"needs a multiple of {self.frames_multiple} frames, not {frames}")
        if size_px < self.min_size_px:
            wrong.append(f"needs at least {self.min_size_px} px a side, not {size_px}")
        if wrong:
            raise ConfigError(f"{network} {'; '.join(wrong)}")

    def nearest(self, frames: int, size_px: int) -> tuple[int, int]:
        """The clip that the network can take next to this one: not shorter and not smaller, where there is a choice."""
        longer = -(-max(frames, self.min_frames) // self.frames_multiple) * self.frames_multiple
        return self.frames or longer, self.size_px or max(size_px, self.min_size_px)


class Tapped(nn.Module):
    """A network, its input normalisation and the taps on it; its forward returns a `View`.

    `head` is the path of the last layer (the one whose size is the class count) inside `net`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, net: nn.Module, taps: dict[str, Tap], input: Input, head: str) -> None:
        super().__init__()
        self.name, self.net, self.taps, self.input, self.head = name, net, Taps(name, taps), input, head
        self.register_buffer("mean", torch.tensor(input.mean).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(1, -1, 1, 1, 1), persistent=False)
        self.clip: tuple[int, int] | None = (
            None  # frames and side in px of what a run shows it: adaptors need the sizes
        )
        self.classes: tuple[str, ...] | None = None  # of its outputs in order, where its weights say
        self._seen: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}  # of those tensors, as they were heard
        for tap_name, tap in taps.items():
            self._hook(tap_name, tap)

    def add_tap(self, name: str, tap: Tap) -> None:
        """Listen at one more place; ConfigError if there is a tap of that name, or no such submodule."""
        if name in self.taps:
            raise ConfigError(f"{self.name} already has a tap {name!r}")
        self._hook(name, tap)
        self.taps[name] = tap

    def _hook(self, name: str, tap: Tap) -> None:
        # a partial of a bound method, not a closure: a deep copy (an EMA) then listens for itself
        module = submodule(self.net, f"tap {name!r}", tap.path)
        if tap.listen == "output":
            module.register_forward_hook(partial(self._listen, name, tap))
        else:
            module.register_forward_pre_hook(partial(self._overhear, name, tap))

    def _overhear(self, name: str, tap: Tap, module: nn.Module, args: tuple[Any, ...]) -> None:
        # a copy: what listens to the input of a ReLU wants it as it was before an in-place one
        self._listen(name, tap, module, args, args[0].clone() if isinstance(args[0], Tensor) else args[0])

    def _listen(self, name: str, tap: Tap, _module: nn.Module, _args: Any, output: Any) -> None:
        grid = tap.layout(output)
        found = tuple(grid.shape) if isinstance(grid, Tensor) else f"a {type(grid).__name__}"
        if not isinstance(found, tuple) or len(found) != len(tap.axes) or found[1] != (tap.channels or found[1]):
            expected = ", ".join(tap.axes).replace("C", str(tap.channels or "C"))
            raise ConfigError(f"{self.name}: tap {name!r} at {tap.path!r}: expected [{expected}], got {found}")
        self._seen[name] = grid
        if not grid.is_inference():
            self._versions[name] = grid._version

    def check_channels(self, seen: int) -> None:
        """ConfigError unless this network takes videos of so many channels."""
        if seen != (own := self.mean.shape[1]):
            kinds = {2: "optical flow", 3: "RGB"}
            a, b = (kinds.get(c, f"{c} channels") for c in (own, seen))
            raise ConfigError(f"{self.name} takes {a}, and is shown {b}: set its options.modality, or other data")

    def normalise(self, video: Tensor) -> Tensor:
        """[B, C, T, H, W], uint8 in 0..255 or float in 0..1 -> float, standardised per channel for this network.

        C is 3, RGB, or 2 for a network of optical flow, or what features have. ConfigError for another number.
        """
        self.check_channels(video.shape[1])
        if video.dtype == torch.uint8:
            video = video.to(self.mean.dtype) / 255
        return (video - self.mean) / self.std

    def forward(self, video: Tensor) -> View:
        """video [B, 3, T, H, W], not yet normalised -> logits [B, K], the taps and the normalised input."""
        video = self.normalise(video)
        logits = self.net(video)
        seen, self._seen = self._seen, {}
        versions, self._versions = self._versions, {}
        for name, version in versions.items():
            if seen[name]._version != version:
                raise ConfigError(
                    f"{self.name}: what tap {name!r} heard at {self.taps[name].path!r} was changed in place by a later "
                    f"layer; listen to the input of that layer"
                )
        return View(logits, seen, video)

    def num_classes(self) -> int:
        """K, read off the head's weight."""
        weight = submodule(self.net, "head", self.head).weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]


Precision = Literal["no", "bf16", "fp16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which networks compute in `precision`; "no" is plain float32, also inside another autocast."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


class Frozen(nn.Module):
    """A teacher: never trained, never in train mode whatever its owner is told, always in its own precision."""

    def __init__(self, tapped: Tapped, precision: Precision = "no") -> None:
        super().__init__()
        self.tapped = tapped.requires_grad_(False).eval()
        self.precision: Precision = precision

    def train(self, mode: bool = True) -> "Frozen":
        del mode
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> "Frozen":
        del requires_grad
        return super().requires_grad_(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> View:
        with autocast(video.device, self.precision):
            return self.tapped(video)


M = TypeVar("M", bound=nn.Module)


class Borrowed(nn.Module, Generic[M]):
    """A frozen module that its owner uses and does not own: in eval mode, and in no optimiser and no checkpoint.

    It moves to a device with its owner, and gradients flow through it to its inputs.
    """

    def __init__(self, module: M) -> None:
        super().__init__()
        self._hidden = (module.requires_grad_(False).eval(),)  # parameters(), state_dict() and train() see no tuples

    @property
    def module(self) -> M:
        return self._hidden[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Borrowed[M]":
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Inside, gradients flow through `module` to its inputs but not into its parameters."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def submodule(net: nn.Module, what: str, path: str) -> nn.Module:
    """The submodule of `net` at the dotted `path`; ConfigError, with a did-you-mean, if there is none."""
    modules = dict(net.named_modules())
    if path not in modules:
        raise ConfigError(f"{what}: {one_of(path, [m for m in modules if m.count('.') <= 2], 'submodule')}")
    return modules[path]
