"""Networks small enough for a test to train, with no batch statistics, so that equalities are exact."""

from torch import nn

from vidkd.models._chain import Chain
from vidkd.taps import Input, Tap, Tapped


def _stage(c_in: int, c_out: int, stride: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Conv3d(c_in, c_out, 3, stride, padding=1), nn.GroupNorm(1, c_out), nn.ReLU())


def _tiny(num_classes: int, *, width: int) -> Tapped:
    net = Chain()
    net.add_module("early", _stage(3, width, (1, 2, 2)))
    net.add_module("middle", _stage(width, width, (1, 1, 1)))
    net.add_module("late", _stage(width, 2 * width, (2, 2, 2)))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()))
    net.add_module("head", nn.Linear(2 * width, num_classes))
    taps = {"early": Tap("early", width), "middle": Tap("middle", width), "late": Tap("late", 2 * width)}
    taps["late_signed"] = Tap("late.2", 2 * width, listen="input")
    return Tapped(f"tiny{width}", net, taps, Input(min_size_px=4), head="head")


def tiny4(num_classes: int) -> Tapped:
    """About two thousand parameters."""
    return _tiny(num_classes, width=4)


def tiny16(num_classes: int) -> Tapped:
    """About twenty thousand parameters."""
    return _tiny(num_classes, width=16)


NETWORKS = {"tiny4": tiny4, "tiny16": tiny16}
