"""Which clips make a step, and the seeds that addresses give: functions of numbers in the configuration alone."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vidkd.data.loading import Key
from vidkd.errors import ConfigError


def mixed_seed(*address: int) -> int:
    """A seed of 63 bits that differs, as good as surely, for every address."""
    digest = hashlib.blake2b(",".join(map(str, address)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*address: int) -> torch.Generator:
    """A generator (on the CPU) for one address: the same numbers whenever and wherever it is asked for."""
    return torch.Generator().manual_seed(mixed_seed(*address))


class StepSampler(Sampler[list[Key]]):
    """For each micro-step in first..last-1, this rank's [(epoch, position), ...].

    Ranks take interleaved slices of one global batch, and a step of `accumulate` micro-steps takes the clips that the
    same step would take at once: what a step sees depends on neither. An epoch is a permutation of the part; its tail
    that does not fill a whole step is dropped.
    """

    def __init__(
        self,
        size: int,
        micro_batch_global: int,
        seed: int,
        first: int,
        last: int,
        rank: int,
        world: int,
        accumulate: int = 1,
    ) -> None:
        if micro_batch_global % world:
            near = [n for n in (micro_batch_global // world * world, -(-micro_batch_global // world) * world) if n]
            raise ConfigError(
                f"{micro_batch_global} clips at a time (train.batch_size / train.accumulate) cannot be shared by "
                f"{world} processes; {' or '.join(map(str, near))} can"
            )
        if micro_batch_global * accumulate > size:
            raise ConfigError(
                f"train.batch_size is {micro_batch_global * accumulate}, more than the {size} videos there are"
            )
        self.size, self.batch, self.seed = size, micro_batch_global, seed
        self.per_epoch = size // (micro_batch_global * accumulate) * accumulate
        self.first, self.last, self.rank, self.world = first, last, rank, world

    def __iter__(self) -> Iterator[list[Key]]:
        order, of_epoch = torch.empty(0), -1
        for step in range(self.first, self.last):
            epoch, position = divmod(step, self.per_epoch)
            if epoch != of_epoch:
                order, of_epoch = permutation(self.size, self.seed, epoch), epoch
            batch = order[position * self.batch : (position + 1) * self.batch]
            yield [(epoch, i) for i in batch[self.rank :: self.world].tolist()]

    def __len__(self) -> int:
        return max(self.last - self.first, 0)


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch."""
    return torch.randperm(size, generator=generator(seed, epoch))
