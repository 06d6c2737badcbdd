"""Events over time, as a picture and as a page."""

import html
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vidkd.timeline import COLORS, ticks
from vidkd.timeline.events import lanes, picture, strength
from vidkd.timeline.page import page

EVENTS = [(1.0, 3.0, "jump", 0.9), (0.5, 1.0, "run", 0.4), (6.0, 8.0, "jump", 0.2)]
FRAME = (1.0, torch.full((3, 240, 240), 90, dtype=torch.uint8))


def test_lanes_begin_with_what_comes_first():
    assert lanes(EVENTS) == (["run", "jump"], 0)
    many = [(float(i), i + 1.0, f"c{i}", i / 20) for i in range(13)]
    assert lanes(many) == ([f"c{i}" for i in range(3, 13)], 3)  # the three least sure ones have no room


def colour_at(content: bytes, share: float, lane_color: str) -> float:
    """How near the picture comes, in the column at `share` of the time, to the colour of a lane: 0 is equal."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float)
    column = pixels[:, round((0.17 + share * (0.975 - 0.17)) * pixels.shape[1])]
    wanted = [int(lane_color[i : i + 2], 16) for i in (1, 3, 5)]
    return float(np.abs(column - wanted).sum(axis=1).min())


def test_a_bar_is_where_its_event_is_and_as_strong_as_it_is_sure():
    content = picture(EVENTS, "a.mp4", "a detector", [FRAME], 10.0)
    jump = COLORS[1]
    sure, unsure, nothing = (colour_at(content, share, jump) for share in (0.13, 0.63, 0.45))
    assert sure < unsure < nothing
    assert strength(0) == pytest.approx(0.15)
    assert strength(1) == 1


def test_a_picture_of_nothing_and_of_any_name():
    for events in ([], [(0.0, 1.0, "$x_{", 0.5)], [(0.0, 1.0, "動画 " * 30, 1.5)]):
        assert picture(events, "a.mp4", "a student", [FRAME], 3.0).startswith(b"\x89PNG")


def test_a_page_says_everything_in_place():
    text = page([*EVENTS, (9.0, 9.5, "<b>", 0.5)], "<a>.mp4", "a detector", [FRAME], 10.0)
    assert "left:10.000%;width:20.000%" in text
    assert "jump: 1.00 to 3.00 s, 90.0%" in text
    assert html.escape("<b>: 9.00 to 9.50 s") in text
    assert "<b>" not in text and "<a>" not in text
    assert text.count('class="bar"') == text.count("<tr><td>") == 4
    assert "Nothing is sure enough" in page([], "a", "b", [], 10.0)


@pytest.mark.parametrize(("duration_s", "expected"), [(10.5, [*range(11)]), (240.0, [*range(0, 241, 30)]), (0.4, [0])])
def test_ticks(duration_s, expected):
    assert ticks(duration_s) == expected
