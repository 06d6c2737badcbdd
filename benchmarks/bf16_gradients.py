"""OMP_NUM_THREADS=1 python benchmarks/bf16_gradients.py

Whether this machine's torch computes the weight gradient of a bfloat16 3-D convolution right: the largest gradient of
several tries over that of float32, for the shapes that I3D's last blocks have at 16 x 112 x 112. It should be about 1.
"""

import torch
from torch.nn import functional as F

SHAPES = [(16, 32, 128, 2, 4), (16, 48, 128, 2, 4), (16, 160, 320, 2, 4), (16, 64, 128, 4, 7), (16, 32, 96, 8, 14)]
TRIES = 20


def gradient(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """d sum(y * y) / d weight of y = conv3d(x, weight), 3 x 3 x 3, computed in `dtype`."""
    own = weight.to(dtype).requires_grad_()
    F.conv3d(x.to(dtype), own, padding=1).float().square().sum().backward()
    assert own.grad is not None
    return own.grad.float()


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for b, c_in, c_out, t, side in SHAPES:
        worst = 0.0
        for seed in range(TRIES):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(b, c_in, t, side, side, generator=generator).relu()
            weight = torch.randn(c_out, c_in, 3, 3, 3, generator=generator) * 0.05
            ratio = gradient(x, weight, torch.bfloat16).abs().max() / gradient(x, weight, torch.float32).abs().max()
            worst = max(worst, float(ratio)) if torch.isfinite(ratio) else float("inf")
        print(f"[{b}, {c_in}, {t}, {side}, {side}] -> {c_out} channels: largest bf16 / fp32 gradient {worst:.3g}")


if __name__ == "__main__":
    main()
