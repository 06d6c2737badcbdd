"""One owner a cell, whoever asks, whenever, from wherever."""

import json
import multiprocessing
import subprocess
import sys

import pytest

from vidkd.bench import claims
from vidkd.bench.claims import Lost, Watch

ELSEWHERE = {"host": "far", "machine": "another", "pid": 1, "beats": 3, "state": "running"}


def _race(folder, start, won):
    start.wait()
    won.put(Watch().take(folder) is not None)


def test_of_many_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path / "cell", start, won)) for _ in range(16)]
    for racer in racers:
        racer.start()
    start.set()
    taken = [won.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join(30)
    assert sum(taken) == 1


def test_what_is_taken_is_taken_until_it_is_released(tmp_path):
    claim = Watch().take(tmp_path)
    assert claim is not None
    assert Watch(stale_s=0).take(tmp_path) is None
    claim.beat()
    claim.release("finished")
    again = Watch().take(tmp_path)
    assert again is not None
    assert [said["state"] for said in claims.history(tmp_path)] == ["finished", "running"]


def test_the_claim_of_a_dead_process_is_free_at_once(tmp_path):
    code = f"from vidkd.bench.claims import Watch; assert Watch().take(__import__('pathlib').Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert claims.history(tmp_path)[0]["state"] == "running"
    assert Watch().take(tmp_path) is not None


def elsewhere(folder, beats):
    (folder / "000001.json").write_text(json.dumps(ELSEWHERE | {"beats": beats}))


def test_another_machine_is_believed_while_it_beats(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    watch = Watch(stale_s=100)
    elsewhere(tmp_path, 1)
    assert watch.take(tmp_path) is None
    for beats in range(2, 6):  # it goes on beating: no time is long enough
        clock[0] += 99
        elsewhere(tmp_path, beats)
        assert watch.take(tmp_path) is None
    clock[0] += 99
    assert watch.take(tmp_path) is None
    clock[0] += 2
    assert Watch(stale_s=100).take(tmp_path) is None  # who has just come must wait, whatever the file says of the time
    assert watch.take(tmp_path) is not None


def test_who_was_thought_dead_finds_out(tmp_path, monkeypatch):
    claim = Watch().take(tmp_path)
    assert claim is not None
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(claims, "machine", lambda: "another machine")
    watch = Watch(stale_s=10)
    assert watch.take(tmp_path) is None
    clock[0] = 11
    taken = watch.take(tmp_path)
    assert taken is not None
    with pytest.raises(Lost, match="taken over by process"):
        claim.beat()
    claim.release("finished")  # late, and of the old generation: the new owner keeps the cell
    taken.beat()
    assert watch.take(tmp_path) is None


def test_two_that_find_it_stale_do_not_both_get_it(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    elsewhere(tmp_path, 1)
    watches = [Watch(stale_s=10), Watch(stale_s=10)]
    assert [watch.take(tmp_path) for watch in watches] == [None, None]
    clock[0] = 11
    # Both have looked before either has acted: the second one's look at the folder is the first one's.
    monkeypatch.setattr(claims, "newest", lambda folder: 1)
    assert [watch.take(tmp_path) is not None for watch in watches] == [True, False]


def test_a_claim_that_was_never_written_becomes_stale(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    (tmp_path / "000001.json").write_text("")
    watch = Watch(stale_s=10)
    assert watch.take(tmp_path) is None
    clock[0] = 11
    assert watch.take(tmp_path) is not None
