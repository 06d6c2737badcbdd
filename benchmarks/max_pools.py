"""How much the max pools of an I3D cost on a CPU: as torch lays them out, and as vidkd does.

    OMP_NUM_THREADS=1 python benchmarks/max_pools.py [--clips 4] [--rounds 7]

Both variants in turn, on one thread: forward passes without a gradient of 16x112x112 (a teacher), in float32 and under
bfloat16 autocast, and forward and backward passes of an I2D on 8x56x56 (a student). Seconds (median) and their ratio
(median over rounds). Answers and gradients are compared bit for bit.
"""

import argparse
import os
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from vidkd import models
from vidkd.models import i3d
from vidkd.taps import Tapped

OURS = i3d.Pool.forward


def usual(self: i3d.Pool, x: Tensor) -> Tensor:
    """The same pool in the layout that the layers before it left."""
    x, padding = i3d.pad_same(x, self.kernel, self.stride)
    return F.max_pool3d(x, self.kernel, self.stride, padding)


def answer(network: Tapped, video: Tensor, dtype: torch.dtype) -> list[Tensor]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return [network(video).logits]


def learn(network: Tapped, video: Tensor) -> list[Tensor]:
    network.zero_grad()
    network(video).logits.square().sum().backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {"clips": 4, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    teacher, student = models.build("i3d", 21).eval(), models.build("i3d_2d", 21, dropout=0.0).train()
    large, small = (torch.randint(0, 256, (args.clips * n, 3, t, s, s), dtype=torch.uint8)
                    for n, t, s in ((1, 16, 112), (4, 8, 56)))  # fmt: skip
    work = {
        "I3D, no gradient, float32": lambda: answer(teacher, large, torch.float32),
        "I3D, no gradient, bfloat16": lambda: answer(teacher, large, torch.bfloat16),
        "I2D, forward and backward": lambda: learn(student, small),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}")
    for name, do in work.items():
        seconds: dict[str, list[float]] = {"usual": [], "ours": []}
        found: dict[str, list[Tensor]] = {}
        for _ in range(args.rounds):
            for variant, forward in zip(seconds, (usual, OURS), strict=True):
                i3d.Pool.forward = forward
                started = time.perf_counter()
                found[variant] = do()
                seconds[variant].append(time.perf_counter() - started)
        ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
        same = all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))
        each = ", ".join(f"{variant} {statistics.median(s):.3f} s" for variant, s in seconds.items())
        print(f"{name}: {each}; {ratio:.2f} times as fast; {'equal' if same else 'NOT equal'} to the bit")


if __name__ == "__main__":
    main()
