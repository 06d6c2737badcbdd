"""What a network costs and how large its taps are, found on torch's meta device: shapes flow, nothing is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from vidkd.errors import ConfigError
from vidkd.taps import Tapped
from vidkd.types import View


def parameters(net: nn.Module) -> int:
    """How many numbers `net` can learn; batch statistics are none of them."""
    return sum(p.numel() for p in net.parameters())


def gmacs(tapped: Tapped, frames: int, size_px: int) -> float:
    """1e9 multiply-adds of convolutions, linear layers and matrix products, for one clip.

    Normalisation, activations, pooling and biases count nothing, as is the custom.
    """
    with FlopCounterMode(display=False) as counter:
        _dry_run(tapped, frames, size_px)
    return counter.get_total_flops() / 2 / 1e9


def gmacs_of(module: nn.Module, *inputs: Tensor) -> float:
    """The same for any module and inputs on the meta device."""
    with FlopCounterMode(display=False) as counter:
        _on_meta(module, *inputs)
    return counter.get_total_flops() / 2 / 1e9


def tap_shapes(tapped: Tapped, frames: int, size_px: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tap without its batch: [C, T, H, W] for most."""
    return {name: tuple(tap.shape[1:]) for name, tap in _dry_run(tapped, frames, size_px).taps.items()}


def map_shape(tapped: Tapped, tap: str) -> tuple[int, int, int, int]:
    """[C, T, H, W] of one tap for the clips that the run shows this network.

    ConfigError if it has no such tap, or if that is no map in space and time; ValueError if no run has built it.
    """
    if tapped.clip is None:
        raise ValueError(f"{tapped.name}: its clip is not known; distiller.build sets it")
    axes = tapped.taps[tap].axes
    if axes != "BCTHW":
        raise ConfigError(f"{tapped.name}: tap {tap!r} is {', '.join(axes)}, not a map [B, C, T, H, W]")
    c, t, h, w = tap_shapes(tapped, *tapped.clip)[tap]
    return c, t, h, w


def _dry_run(tapped: Tapped, frames: int, size_px: int) -> View:
    """One clip through the network on the meta device, in evaluation mode; the network itself is left as it was.

    ConfigError if it cannot take such a clip.
    """
    tapped.input.check(tapped.name, frames, size_px)
    clip = torch.empty(1, len(tapped.input.mean), frames, size_px, size_px, device="meta", dtype=tapped.mean.dtype)
    try:
        return _on_meta(tapped, clip)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:  # what layers raise for sizes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{tapped.name} cannot take {frames} frames of {size_px} px: {reason}") from error


def _on_meta(module: nn.Module, *inputs: Tensor) -> Any:
    state: dict[str, Tensor] = {
        name: torch.empty_like(tensor, device="meta")
        for tensors in (module.named_parameters(), module.named_buffers())
        for name, tensor in tensors
    }
    with torch.no_grad(), _evaluating(module):
        return functional_call(module, state, inputs)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    was = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training
