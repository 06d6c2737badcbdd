"""Two preparations into one folder: one clear error, unless each makes a shard of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOLD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from data_prep.pipeline import claim
with claim.claimed(Path(sys.argv[1]), SimpleNamespace(name="in", form="video"), (int(sys.argv[2]), int(sys.argv[3]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen]]:
    """hold(out, shard) -> a process that makes this shard of the folder, until it is killed."""
    started = []

    def start(out: Path, shard: tuple[int, int]) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(out), *map(str, shard)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def words(tmp_path, make_video) -> list:
    for name in ("b", "c"):
        make_video(tmp_path / "in" / "a" / f"{name}.mp4", frames=3)
    return ["folder", "--root", tmp_path / "in", "--out", tmp_path / "out"]


def test_one_whole_preparation_at_a_time(tmp_path, words, data_prep, hold):
    """The second one would take the unfinished files of the first away, and cut its journal."""
    first = hold(tmp_path / "out", (0, 1))
    unfinished = tmp_path / "out" / "a" / ".tmp-0123-7"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"half")
    (tmp_path / "out" / ".journal.jsonl").write_bytes(b'{"path": "half a li')
    for options in ((), ("--shard", "0/2")):
        status, said = data_prep(*words, *options)
        assert status == 2 and f"in use by process {first.pid} on " in said and said.count("error:") == 1, said
    assert unfinished.read_bytes() == b"half"
    assert (tmp_path / "out" / ".journal.jsonl").read_bytes() == b'{"path": "half a li'
    first.kill()
    first.wait()
    status, said = data_prep(*words)
    assert status == 0 and not unfinished.exists(), said


def test_different_shards_at_once(tmp_path, words, data_prep, hold):
    first = hold(tmp_path / "out", (0, 2))
    status, said = data_prep(*words)
    assert status == 2 and "in use by processes that make shards of it" in said, said
    status, said = data_prep(*words, "--shard", "0/2")
    assert status == 2 and f"shard 0 of 2 is in use by process {first.pid} on " in said, said
    status, said = data_prep(*words, "--shard", "1/2")
    assert status == 0 and "1 of 2 videos are still to be made" in said, said
    first.kill()
    first.wait()
    assert data_prep(*words, "--shard", "0/2")[0] == 0
    assert (tmp_path / "out" / "index.csv").exists()


def test_a_disk_without_locks_is_said(words, data_prep, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", none)
    status, said = data_prep(*words)
    assert status == 0 and "warning: " in said and "nothing would keep a second process out" in said


@pytest.mark.parametrize("other", [("--holdout", 0.5), ("--test-fraction", 0.4), ("--split-seed", 3)])
def test_shards_with_other_parts_are_refused(tmp_path, make_video, data_prep, read_rows, other):
    """The last one to end would have written its own parts for all videos, without a word."""
    for k in range(10):
        make_video(tmp_path / "in" / "a" / f"{k}.mp4", frames=3)
    words = ["folder", "--root", tmp_path / "in", "--out", tmp_path / "out"]
    usual = ["--test-fraction", 0.2]
    assert data_prep(*words, *usual, "--shard", "0/2")[0] == 0
    status, said = data_prep(*words, *usual, *other, "--shard", "1/2")
    assert status == 2 and "shard 0 of 2 has other videos, labels or parts than shard 1" in said, said
    assert not (tmp_path / "out" / "index.csv").exists()
    assert data_prep(*words, *usual, *other, "--shard", "1/2")[0] == 2  # still, and shard 0 is as it was
    status, said = data_prep(*words, *usual, "--shard", "1/2")
    assert status == 0, said
    assert data_prep(*words[:3], "--out", tmp_path / "whole", *usual)[0] == 0
    assert read_rows(tmp_path / "out") == read_rows(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".rows-*"))
    assert data_prep(*words, *usual, *other, "--shard", "1/2")[0] == 0  # a finished folder, made anew
    assert data_prep(*words, *usual, *other, "--shard", "0/2")[0] == 0
