"""H: a full disk, memory that stays flat, odd and read-only paths."""

import errno
import json
import os
import re
import resource
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from reliability import runs
from small_run import SMALL, lines
from vidkd import checkpoint, train, trainer

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


@pytest.mark.parametrize(
    "number", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 7, 10, 22, 23, 24, 26, 27))]
)
def test_h1_a_full_disk_costs_nothing_that_was_saved(root, tmp_path, number):
    """In a checkpoint; in the configuration, the inputs, the trial of the disk, the mark, a later checkpoint, the
    configuration again, the predictions, the results, the student."""
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


def test_h1_a_disk_that_is_full_for_the_first_process_ends_all_alike(root, tmp_path):
    out = tmp_path / "run"
    both = runs.ranks(root, out, 2, base=EVERY, before=partial(full_disk, 5))
    assert [rank.end(60) for rank in both] == [2, 2], both[0].said() + both[1].said()
    for rank in both:
        assert "No space left on device" in rank.said() and str(out / "checkpoints") in rank.said()
        assert "Traceback" not in rank.said()


def small_files(limit: int, at_once: bool) -> None:
    """Have the system refuse files of more than `limit` bytes, from the start or from the first step on."""
    update = trainer.update

    def limited(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return update(*args)

    if at_once:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    trainer.update = limited


@pytest.mark.parametrize(("at_once", "where"), [(True, ""), (False, "/checkpoints/step00000001")])
def test_h1_the_system_refuses_a_write(root, tmp_path, at_once, where):
    out = tmp_path / "run"
    run = runs.run(root, out, base=EVERY, before=partial(small_files, 6000, at_once))
    assert run.process.exitcode == 2
    assert re.search(
        rf"{re.escape(str(out))}{where}: .*[0-9],[0-9]+ bytes could not be written \(File too large", run.said()
    )
    assert "Traceback" not in run.said()
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
    run = runs.run(
        root, tmp_path / "run", *how, "data.workers=2", base=SMALL, before=partial(watched, tmp_path / "seen")
    )
    assert run.process.exitcode == 0, run.said()
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    # Pipes of workers come and go: what counts is the most of a thousand steps.
    settled, end = ([max(column) for column in zip(*part, strict=True)] for part in (seen[300:1300], seen[1300:]))
    assert end[0] < 1.05 * seen[300][0]
    assert end[1] <= settled[1] and end[2] <= settled[2]
    assert not shared_memory_of_the_dead()


def shared_memory_of_the_dead() -> list[str]:
    """torch_<pid>_... of processes that are no more; others may be at work beside the test."""
    named = [(name, name.split("_")) for name in os.listdir("/dev/shm") if name.startswith("torch_")]
    return [name for name, parts in named if not Path("/proc", parts[1]).exists()]


def test_h3_what_a_killed_run_left_half_made_is_gone_after_the_next_start(make):
    """A2 too. That no process is left is asked after every test that starts one (conftest.py)."""
    run = make("run", "methods=[]", "teacher=null")
    train.train(run, stop=2)
    saved = run.out_dir / "checkpoints"
    (saved / ".tmp-step00000004").mkdir()
    (saved / ".tmp-step00000004" / "trainee.safetensors").write_bytes(b"half")
    (saved / ".tmp-elsewhere").symlink_to(saved / "step00000002")
    (run.out_dir / ".tmp-config.yaml-4711").touch()
    (run.out_dir / ".lock").write_text("process 4711 on a machine that is no more\n")
    train.train(run)
    runs.tidy(run.out_dir)


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


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second filesystem to write to")
def test_h4_a_run_on_another_filesystem_than_its_temporary_files(make, root):
    """What is renamed into place was written beside that place."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert os.stat(folder).st_dev != os.stat(root).st_dev
        run = make("here").model_copy(update={"out": Path(folder) / "run"})
        train.train(run)
        assert (run.out_dir / "student.safetensors").exists()
        assert not list(run.out_dir.rglob(".tmp-*"))


@pytest.mark.parametrize("path", ["/proc/vidkd", "/dev/null/run"])
def test_h4_a_folder_that_cannot_be_written_is_named(root, tmp_path, path):
    run = runs.start(root, tmp_path / "run", f"out={path}", base=EVERY)
    assert run.end() == 2
    assert f"{path}: cannot be written" in run.said() and "Traceback" not in run.said()
