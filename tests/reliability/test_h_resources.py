"""H: a full disk, memory that stays flat, odd and read-only paths."""

import errno
import json
import os
import resource
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from reliability import runs
from small_run import SMALL, lines
from vidkd import checkpoint

EVERY = (*SMALL, "train.save_every={steps: 1}")


def full_disk(number: int) -> None:
    """The `number`th file that is written does not fit."""
    write, calls = checkpoint._write, 0

    def full(path: Path, content: bytes) -> dict:
        nonlocal calls
        calls += 1
        if calls == number:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    checkpoint._write = full


@pytest.mark.parametrize("number", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 9, 21, 23))])
def test_h1_a_full_disk_costs_nothing_that_was_saved(root, tmp_path, number):
    """In the configuration, the weights, the manifest, a later checkpoint, the results, the student."""
    out = tmp_path / "run"
    run = runs.run(root, out, base=EVERY, before=partial(full_disk, number))
    assert run.process.exitcode == 2, run.said()
    assert "No space left on device" in run.said() and str(out) in run.said()
    assert "Traceback" not in run.said()
    found = checkpoint.newest(out / "checkpoints")
    assert found is None or not found[1]
    again = runs.run(root, out, base=EVERY)  # room was made
    assert again.process.exitcode == 0, again.said()
    assert [line["step"] for line in lines(out)] == list(range(1, 7))
    runs.tidy(out)


def small_files(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_h1_the_system_refuses_a_write(root, tmp_path):
    out = tmp_path / "run"
    run = runs.run(root, out, base=EVERY, before=partial(small_files, 6000))
    assert run.process.exitcode == 2
    assert "bytes could not be written (File too large)" in run.said() and "checkpoints/step00000001" in run.said()
    assert checkpoint.complete(out / "checkpoints") == []


def nearly_full() -> None:
    import shutil

    usage = shutil.disk_usage
    shutil.disk_usage = lambda path: usage(path)._replace(free=1000)


def test_h1_too_little_room_is_said_before_the_first_step(root, tmp_path):
    run = runs.run(root, tmp_path / "run", base=EVERY, before=nearly_full)
    assert run.process.exitcode == 2
    assert "has 1,000 bytes free, the checkpoints of this run take about" in run.said()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def watched(path: Path) -> None:
    """Write down memory, open files and threads after every step."""
    from vidkd import trainer

    update = trainer.update

    def noting(*args):
        made = update(*args)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        said = [pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()]
        with path.open("a") as file:
            file.write(json.dumps(said) + "\n")
        return made

    trainer.update = noting


@pytest.mark.slow
def test_h2_memory_files_and_threads_stay_as_they_are(root, tmp_path):
    how = (
        "train.steps=2000",
        "train.save_every={steps: 100}",
        "data.val=val",
        "train.eval_every={steps: 100}",
        "data.workers=2",
    )
    before = set(os.listdir("/dev/shm"))
    run = runs.run(
        root, tmp_path / "run", *how, "data.workers=2", base=SMALL, before=partial(watched, tmp_path / "seen")
    )
    assert run.process.exitcode == 0, run.said()
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    settled, end = seen[300], seen[-1]
    assert end[0] < 1.05 * settled[0]
    assert end[1:] == settled[1:]
    assert set(os.listdir("/dev/shm")) <= before


@pytest.mark.parametrize(
    "name",
    [
        "new\nline",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("with space", "ünïcödé-名前", "-dash", "quote'\"", "x" * 200)
        ),
    ],
)
def test_h4_odd_names_are_names(root, tmp_path, name):
    out = tmp_path / name
    run = runs.start(root, out, base=EVERY)
    run.wait_for((out / "checkpoints" / "step00000002").exists)
    run.signal(signal.SIGKILL)
    run.end()
    again = runs.run(root, out, base=EVERY)
    assert again.process.exitcode == 0, again.said()
    assert [line["step"] for line in lines(out)] == list(range(1, 7))


@pytest.mark.parametrize("path", ["/proc/vidkd", "/dev/null/run"])
def test_h4_a_folder_that_cannot_be_written_is_named(root, tmp_path, path):
    run = runs.start(root, tmp_path / "run", f"out={path}", base=EVERY)
    assert run.end() == 2
    assert f"{path}: cannot be written" in run.said() and "Traceback" not in run.said()
