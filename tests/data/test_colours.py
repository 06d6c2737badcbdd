"""Optical flow as colours: where red, green, cyan and violet point, and what is white."""

import pytest
import torch

from vidkd.data import colours


def flow(x: float, y: float) -> torch.Tensor:
    """[1, 2, 4, 4] uint8 of one motion everywhere, in levels from rest."""
    return torch.tensor([colours.REST + x, colours.REST + y]).view(1, 2, 1, 1).expand(1, 2, 4, 4).to(torch.uint8)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [(60, 0, (255, 0, 0)), (-60, 0, (0, 255, 255)), (0, 60, (128, 255, 0)), (0, -60, (128, 0, 255))],
)
def test_direction_is_hue(x: int, y: int, expected: tuple[int, ...]):
    seen = colours.rgb(flow(x, y))[0, :, 0, 0].tolist()
    assert seen == pytest.approx(expected, abs=4)


def test_rest_is_white_and_half_the_speed_half_the_colour():
    assert colours.rgb(flow(0, 0)).min() >= 255 - 40  # 127 and not 127.5: a trace
    both = torch.cat([flow(100.5, 0.5), flow(50.5, 0.5)])
    fast, slow = colours.rgb(both)[:, 1, 0, 0].tolist()
    assert fast == pytest.approx(0, abs=3) and slow == pytest.approx(127, abs=3)


def test_colours_stay_as_they_are():
    frames = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert colours.rgb(frames) is frames
