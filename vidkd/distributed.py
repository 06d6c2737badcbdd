"""The collectives this package needs. With one process each of them is the identity."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidkd.errors import VidkdError

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def mean_over_ranks(terms: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each scalar over the processes: one collective and one device sync for all of them."""
    if not terms:
        return {}
    stacked = averaged(torch.stack([term.detach().float() for term in terms.values()]))
    return dict(zip(terms, stacked.tolist(), strict=True))


def averaged(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def mean_total(total: Tensor) -> Tensor:
    """The mean over the processes of a scalar without gradient, at least 1 in all of them together.

    A sum over the actions of a process's clips, divided by it, is (once DDP has averaged the gradients) that of the
    global batch divided by all its actions, however those are spread over the processes.
    """
    return averaged(total.detach().float()).clamp(min=1 / world_size())


def any_rank(flag: bool, device: torch.device | None = None) -> bool:
    """Whether `flag` is true on at least one process; every process gets the same answer."""
    return bool(max_over_ranks(int(flag), device))


def max_over_ranks(value: int, device: torch.device | None = None) -> int:
    """The greatest `value` of all processes, on every process."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def gather_objects(value: Any) -> list[Any]:
    """`value` of every process, in the order of ranks, on every process."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, value)
    return parts


def broadcast_state(module: nn.Module) -> None:
    """Give every process the first one's parameters and buffers: DDP lets batch statistics drift apart."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def together(do: Callable[[], T]) -> T:
    """`do()` on every process, each waiting for all; its value here.

    Where it fails on one of them with what a person can mend (VidkdError, OSError), that is raised on all: none waits
    in vain for another that has ended, and all say why.
    """
    if world_size() == 1:
        return do()
    made, mistake = None, None
    try:
        made = do()
    except (VidkdError, OSError) as error:
        mistake = error
    if found := [other for other in gather_objects(mistake) if other is not None]:
        raise mistake or found[0]
    return made  # pyright: ignore[reportReturnType] - without a mistake it is what `do` returned


def on_first(do: Callable[[], T]) -> T | None:
    """`together`, but on the first process alone; None on the others."""
    return together(do if rank() == 0 else lambda: None)


def from_first(do: Callable[[], T]) -> T:
    """What `do()` gives the first process, on all: on a network disk another may not see the same yet."""
    return gather_objects(on_first(do))[0]


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def gather_with_grad(x: Tensor) -> Tensor:
    """[B_rank, ...] -> [B_all, ...], so that a loss over pairs sees every pair of the global batch.

    The gradient is that of the single-process loss once DDP has averaged it (see `_Gather.backward`).
    Every process must hold the same B_rank.
    """
    return _Gather.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        # Every process holds the same loss of the whole batch, and DDP averages gradients over processes:
        # this sum over processes restores what that average divides away.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]
