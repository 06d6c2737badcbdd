"""How much the max pools of an I3D cost where nothing is learned: F.max_pool3d against what vidkd does there.

    OMP_NUM_THREADS=1 python benchmarks/frozen_pools.py [--frames 16] [--size 112] [--clips 4] [--rounds 9]

Forward passes without a gradient, both variants in turn, in float32 and under bfloat16 autocast: seconds (median) and
their ratio (median over rounds). The answers are compared bit for bit.
"""

import argparse
import os
import statistics
import time

import torch
from torch.nn import functional as F

from vidkd import models
from vidkd.models import i3d

OURS = i3d.Pool.forward


def with_places(self: i3d.Pool, x: torch.Tensor) -> torch.Tensor:
    """What the pool did, and still does where something learns."""
    x, padding = i3d.pad_same(x, self.kernel, self.stride)
    return F.max_pool3d(x, self.kernel, self.stride, padding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {"frames": 16, "size": 112, "clips": 4, "rounds": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    network = models.build("i3d", 21).eval()
    video = torch.randint(0, 256, (args.clips, 3, args.frames, args.size, args.size), dtype=torch.uint8)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}")
    for dtype in (torch.float32, torch.bfloat16):
        seconds: dict[str, list[float]] = {"max_pool3d": [], "maxima of shifts": []}
        answers = {}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            for _ in range(args.rounds):
                for name, forward in zip(seconds, (with_places, OURS), strict=True):
                    i3d.Pool.forward = forward
                    started = time.perf_counter()
                    answers[name] = network(video).logits
                    seconds[name].append(time.perf_counter() - started)
        before, after = seconds.values()
        ratio = statistics.median(b / a for b, a in zip(before, after, strict=True))
        same = "equal" if torch.equal(*answers.values()) else "NOT equal"
        each = ", ".join(f"{name} {statistics.median(s):.3f} s" for name, s in seconds.items())
        print(f"{str(dtype)[6:]}: {each}; {ratio:.2f} times as fast, answers {same}")


if __name__ == "__main__":
    main()
