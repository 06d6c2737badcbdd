"""Frames as a person can look at them: RGB as it is, optical flow on the colour wheel.

The wheel is that of Baker et al., A Database and Evaluation Methodology for Optical Flow, ICCV 2007, in its idea: the
hue is the direction, the strength of the colour is the speed, and rest is white.
"""

import math

import torch
from torch import Tensor

REST = 127.5  # of a channel of stored flow
LEAST = 6.0  # levels: what a clip moves at least before it gets the full colour; less is noise of the algorithm
MOST = 1_000_000  # numbers among which the fastest are looked for
LEGEND = "optical flow: red moves right, green down, cyan left, violet up; the stronger, the faster"


def rgb(frames: Tensor) -> Tensor:
    """[T, C, H, W] uint8 -> [T, 3, H, W] uint8; itself for C = 3. C = 2 is flow along x and y.

    The speed that all but the fastest percent of these frames stay below has the full colour.
    """
    if frames.shape[1] != 2:
        return frames
    x, y = (frames.float() - REST).unbind(1)
    speed = torch.hypot(x, y)
    some = speed.flatten()[:: max(1, speed.numel() // MOST)][:MOST]
    strength = (speed / max(float(some.quantile(0.99)), LEAST)).clamp(max=1.0)
    sixths = torch.atan2(y, x) * (3 / math.pi) % 6  # of the wheel, from red
    # how far each of the three is from its own place on the wheel: within one sixth full, from two on nothing
    away = torch.stack([(sixths - place + 3) % 6 - 3 for place in (0, 2, 4)], dim=1).abs()
    hue = (2 - away).clamp(0, 1)
    return (255 * (1 - strength.unsqueeze(1) * (1 - hue))).round().to(torch.uint8)
