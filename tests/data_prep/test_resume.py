"""What is made once is not made twice, whatever happened in between, and the result is always the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest


def test_same_bytes_and_not_twice(tmp_path, videos, data_prep, tree, read_rows):
    before = tree(videos)
    for out, workers in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        assert data_prep("folder", "--root", videos, "--out", out, "--workers", workers)[0] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b") and tree(videos) == before
    made = {path: path.stat().st_ino for path in (tmp_path / "a").rglob("*.mp4")}
    assert data_prep("folder", "--root", videos, "--out", tmp_path / "a")[0] == 0
    assert made == {path: path.stat().st_ino for path in (tmp_path / "a").rglob("*.mp4")}
    # What went missing, was cut, or is to be made otherwise is made again.
    (tmp_path / "a/jump/a.mp4").unlink()
    (tmp_path / "a/jump/b.mp4").write_bytes(b"half")
    assert data_prep("folder", "--root", videos, "--out", tmp_path / "a")[0] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert data_prep("folder", "--root", videos, "--out", tmp_path / "a", "--short-side", 32)[0] == 0
    assert read_rows(tmp_path / "a")["jump/a.mp4"]["height"] == 32


def test_shards_make_the_same(tmp_path, videos, data_prep, tree):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data_prep("folder", "--root", videos, "--out", whole)
    assert data_prep("folder", "--root", videos, "--out", parts, "--shard", "1/2")[0] == 0
    assert not (parts / "index.csv").exists()
    assert data_prep("folder", "--root", videos, "--out", parts, "--shard", "0/2")[0] == 0
    made = {name: content for name, content in tree(parts).items() if not name.startswith(".journal")}
    assert made == tree(whole)


def test_shards_of_different_options_do_not_make_a_data_set(tmp_path, videos, data_prep):
    """Each says how many videos its own options still lack: all are there, and half of them are of another size."""
    words = ["folder", "--root", videos, "--out", tmp_path / "out"]
    for shard, short_side in (("0/2", 32), ("1/2", 40)):
        status, said = data_prep(*words, "--shard", shard, "--short-side", short_side)
        assert status == 0
        assert "3 of 6 videos are still to be made with these options by other shards" in said
    assert not (tmp_path / "out" / "index.csv").exists()


def test_shards_with_other_options_and_numbers(tmp_path, videos, data_prep, read_rows):
    """A finished folder, made anew with other options by shards: no index until all is, and then of what is there."""
    out = tmp_path / "out"
    words = ["folder", "--root", videos, "--out", out]
    assert data_prep(*words)[0] == 0
    for short_side, shards in ((32, ("0/2", "1/2")), (40, ("2/3", "0/3", "1/3")), (32, ("1/2", "0/2"))):
        for shard in shards:
            assert data_prep(*words, "--short-side", short_side, "--shard", shard)[0] == 0
            assert (out / "index.csv").exists() == (shard == shards[-1])
        assert {row["height"] for row in read_rows(out).values()} == {short_side, short_side * 70 // 56 // 2 * 2}
        assert data_prep("verify", out, "--deep")[0] == 0
    made = {path: path.stat().st_ino for path in out.rglob("*.mp4")}
    assert data_prep(*words, "--short-side", 32)[0] == 0
    assert made == {path: path.stat().st_ino for path in out.rglob("*.mp4")}


def test_a_journal_of_before_is_read(tmp_path, videos, data_prep, tree):
    """Entries once had no settings and no time."""
    out = tmp_path / "out"
    assert data_prep("folder", "--root", videos, "--out", out)[0] == 0
    before, made = tree(out), {path: path.stat().st_ino for path in out.rglob("*.mp4")}
    journal = out / ".journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        del entry["settings"], entry["at_ns"]
    journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert data_prep("folder", "--root", videos, "--out", out)[0] == 0
    assert tree(out) == before and made == {path: path.stat().st_ino for path in out.rglob("*.mp4")}


def test_killed_and_resumed(tmp_path, make_video, data_prep, tree):
    """kill -9 in the middle; the next run leaves what an undisturbed one leaves, and no half file."""
    root = tmp_path / "videos"
    for i in range(12):
        make_video(root / "a" / f"{i}.mp4", frames=60, size="128x96")
    words = ["folder", "--root", str(root), "--out", str(tmp_path / "killed"), "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "data_prep", *words], start_new_session=True)
    journal = tmp_path / "killed" / ".journal.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # the command alone: its workers must notice by themselves
    assert process.wait() == -signal.SIGKILL
    with journal.open("ab") as file:
        file.write(b'{"path": "a/9.mp4", "ident')  # as a kill amid writing leaves it
    assert not (tmp_path / "killed" / "index.csv").exists()
    assert data_prep(*words[:-2])[0] == 0
    assert data_prep("folder", "--root", root, "--out", tmp_path / "calm")[0] == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")
    deadline = time.monotonic() + 10
    while session_is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session_is_alive(process.pid)


def session_is_alive(leader: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("form", ["video", "raw", "jpeg"])
def test_killed_at_twenty_random_moments(tmp_path, make_video, data_prep, tree, form):
    """Ten while it starts or works, ten surely while it writes; the last run leaves what an undisturbed one leaves."""
    root, out = tmp_path / "videos", tmp_path / "killed"
    for i in range(100):
        make_video(root / "a" / f"{i}.mp4", frames=60, size="320x240")
    words = ["folder", "--root", str(root), "--frames", form, "--workers", "2", "--out"]

    def start(to):
        return subprocess.Popen([sys.executable, "-m", "data_prep", *words, str(to)], start_new_session=True)

    def journal(to):
        return to / ".journal.jsonl"

    def size():
        return journal(out).stat().st_size if journal(out).exists() else 0

    began, process = time.monotonic(), start(tmp_path / "calm")
    while not journal(tmp_path / "calm").exists() and process.poll() is None:
        time.sleep(0.005)
    to_start = time.monotonic() - began
    assert process.wait() == 0
    at_it = time.monotonic() - began - to_start

    random, at_work = Random(0), 0
    for turn in range(20):
        process, before = start(out), size()
        while turn % 2 and size() == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, at_it / 25) if turn % 2 else random.uniform(0, to_start))
        assert process.poll() is None, "there was nothing left to kill"
        at_work += size() > before
        # The command, or all of its processes: the first leaves workers that are still writing.
        (os.kill if random.random() < 0.5 else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
    assert at_work >= 5 and not (out / "index.csv").exists()
    assert data_prep(*words, out)[0] == 0
    assert tree(out) == tree(tmp_path / "calm")


def test_interrupted(tmp_path, make_video):
    """Ctrl-C reaches every process of the command; one line is said, and nothing half is left."""
    make_video(tmp_path / "in" / "a" / "0.mp4", frames=100, size="128x96")
    for i in range(1, 150):  # enough that it cannot be done before it is interrupted
        shutil.copy(tmp_path / "in" / "a" / "0.mp4", tmp_path / "in" / "a" / f"{i}.mp4")
    words = ["folder", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "2"]
    command = [sys.executable, "-m", "data_prep", *words]
    # A shell's background job is started with SIGINT ignored, and so is all that it starts: not this one.
    listening = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    journal = tmp_path / "out" / ".journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "goes on from here" in said and "Traceback" not in said
