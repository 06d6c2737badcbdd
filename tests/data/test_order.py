"""Which clips make a step, for any number of processes and interruptions."""

import pytest
import torch

from vidkd.data import order
from vidkd.data.order import StepSampler
from vidkd.errors import ConfigError


def test_generators_repeat_and_differ_by_every_part_of_the_address():
    addresses = [(0,), (0, 0), (1,), (1, 0), (0, 1), (1, 2, 3), (12, 3), (3, 2, 1), (-1,), (2**40, 1)]
    draws = [torch.rand(4, generator=order.generator(*a)).tolist() for a in addresses]
    assert draws == [torch.rand(4, generator=order.generator(*a)).tolist() for a in addresses]
    assert len({tuple(d) for d in draws}) == len(addresses)


def test_neighbouring_addresses_are_unrelated():
    first = torch.tensor([[torch.rand((), generator=order.generator(0, e, i)) for i in range(40)] for e in range(40)])
    assert first.mean().item() == pytest.approx(0.5, abs=0.03)
    correlation = torch.corrcoef(torch.stack([first[:-1].flatten(), first[1:].flatten()]))[0, 1]
    assert abs(correlation) < 0.08


# The sampler


def steps(world: int = 1, batch: int = 4, accumulate: int = 1, size: int = 13, first: int = 0, last: int = 10, seed=5):
    """Step -> the set of its (epoch, position), over all ranks and micro-steps."""
    made: list[list[tuple[int, int]]] = []
    samplers = [
        StepSampler(size, batch // accumulate, seed, first * accumulate, last * accumulate, rank, world, accumulate)
        for rank in range(world)
    ]
    for micro, portions in enumerate(zip(*samplers, strict=True)):
        assert len({len(portion) for portion in portions}) == 1
        if micro % accumulate == 0:
            made.append([])
        interleaved = [key for keys in zip(*portions, strict=True) for key in keys]
        made[-1] += interleaved
    return made


def test_an_epoch_sees_every_clip_once_but_for_its_tail():
    made = steps(last=9)
    for epoch in range(3):
        seen = [key for step in made[3 * epoch : 3 * epoch + 3] for key in step]
        assert {e for e, _ in seen} == {epoch}
        assert len({i for _, i in seen}) == 12
    assert made[0] != made[3]  # another order each epoch
    assert steps(seed=6) != steps()


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2), (1, 4)])
@pytest.mark.parametrize("size", [13, 14, 16, 23])
def test_a_steps_clips_and_their_order_do_not_depend_on_processes_or_accumulation(
    size: int, world: int, accumulate: int
):
    assert steps(world, accumulate=accumulate, size=size) == steps(size=size)


def test_a_resumed_sampler_goes_on_where_it_was():
    for k in (1, 2, 3, 7):  # inside an epoch, at its last step, at the first of the next
        assert steps(last=k) + steps(first=k) == steps()
    assert len(StepSampler(13, 4, 0, 7, 10, 0, 1)) == 3


def test_batches_that_cannot_be_made():
    with pytest.raises(ConfigError, match=r"10 clips at a time .* 4 processes; 8 or 12 can"):
        StepSampler(50, 10, 0, 0, 1, 0, 4)
    with pytest.raises(ConfigError, match="batch_size is 16, more than the 13 videos"):
        StepSampler(13, 8, 0, 0, 1, 0, 1, accumulate=2)
