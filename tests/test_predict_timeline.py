"""What a prediction over time says: who rules when, its text and its picture."""

import pytest
import torch

from vidkd.timeline import Timeline, clock, picture, text_bar


@pytest.fixture
def timeline():
    """Three windows of a second, half a second apart, over 3 s; nobody looked at the last one."""
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=torch.float64)
    start_s = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    return Timeline(("a", "b"), start_s, start_s + 1, probabilities, 3.0)


class TestTimeline:
    def test_who_rules_by_hand(self, timeline):
        """Half seconds: window 0; 0 and 1; 1 and 2; 2; none; none."""
        which, sure = timeline.ruling(6)
        assert which.tolist() == [0, 0, 1, 1, -1, -1]
        assert sure.tolist() == pytest.approx([0.9, 0.65, 0.7, 0.8, 0, 0])
        assert timeline.leaders(6) == [(0, 0.5), (1, 0.5)]

    def test_text(self, timeline):
        lines = text_bar(timeline, 12)
        assert lines[0] == "0 s   3.00 s"
        assert lines[1] == "AAAABBBB...."
        assert lines[3:] == ["  A  a, 50% of the time", "  B  b, 50% of the time", "  .  not looked at"]
        assert {len(line) for line in lines[:3]} == {12}

    def test_more_classes_than_letters(self):
        n = 100
        start_s = torch.arange(n, dtype=torch.float64)
        line = Timeline(tuple(map(str, range(n))), start_s, start_s + 1, torch.eye(n, dtype=torch.float64), float(n))
        lines = text_bar(line, n)
        assert lines[1].count("?") == 38
        assert lines[-1] == "  ?  38 other classes"

    def test_overall_and_top(self, timeline):
        assert timeline.overall().tolist() == pytest.approx([0.5, 0.5])
        assert timeline.top(timeline.probabilities[2], 5) == [("b", 0.8), ("a", pytest.approx(0.2))]

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0.00"), (59.994, "59.99"), (59.996, "1:00.00"), (3725.5, "1:02:05.50")]
    )
    def test_clock(self, seconds, text):
        assert clock(seconds) == text

    @pytest.mark.parametrize("name", ["_hidden", "$x_{", "a very long name of a class " * 3, "動画"])
    def test_a_picture_takes_any_name(self, timeline, name):
        line = Timeline((name, "b"), timeline.start_s, timeline.end_s, timeline.probabilities, 3.0)
        content = picture(line, f"{name}.mp4", "a student", [(0.5, torch.zeros(3, 240, 100, dtype=torch.uint8))])
        assert content.startswith(b"\x89PNG")
