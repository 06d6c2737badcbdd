"""Seconds by what they were spent on."""

import pytest
import torch

from vidkd import stopwatch
from vidkd.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: clock[0] is the time."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_parts_add_up_and_the_first_step_counts_in_no_mean(clock):
    watch = Stopwatch(torch.device("cpu"))
    assert watch.means() == {}

    def spend(part, seconds):
        with watch(part):
            clock[0] += seconds
        clock[0] += 0.5  # between two parts: of none

    spend("data", 9.0)
    assert watch.lap() == {"data": 9.0}
    assert watch.means() == {}
    for more in (0.0, 1.0):
        spend("data", 1.0)
        spend("teacher", 3.0 + more)
        spend("data", 1.0)
        assert watch.lap() == {"data": 2.0, "teacher": 3.0 + more}
    assert watch.means() == {"data": 2.0, "teacher": 3.5}


def test_a_part_of_some_steps_is_a_mean_over_all(clock):
    watch = Stopwatch(torch.device("cpu"))
    for i in range(5):
        if i == 2:
            with watch("optimiser"):
                clock[0] += 4.0
        watch.lap()
    assert watch.means() == {"optimiser": 1.0}
