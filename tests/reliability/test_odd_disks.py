"""A2, A8, B4 and H4 on disks that are not like others: nothing is lost, nothing waits for ever, links lead nowhere."""

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from small_run import lines
from vidkd import checkpoint, run_dir, train
from vidkd.config import Run
from vidkd.errors import ConfigError, DataError

PLAIN = ("methods=[]", "teacher=null")
ONE = {"trainee": {"w": torch.zeros(1)}}


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed to the disk, and what is renamed, in order; by name."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flushing(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def renaming(path: Path, to: Path) -> Path:
        done.append(f"{path.name} is {to.name}")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "rename", renaming)
    return done


def test_a2_all_is_on_the_disk_before_it_has_its_name(tmp_path, flushed):
    """A power cut may undo whatever was not flushed, in any order."""
    checkpoint.save(tmp_path / "saved", 1, ONE | {"ema": {"w": torch.ones(1)}}, {})
    partial = ".tmp-step00000001"
    assert flushed == [
        *("trainee.safetensors", "ema.safetensors", "manifest.json", partial),
        *(f"{partial} is step00000001", "saved"),
    ]


def test_a9_what_was_logged_is_on_the_disk_before_the_checkpoint_that_follows(make, flushed):
    train.train(make("run", *PLAIN), stop=2)
    assert flushed.index("metrics.jsonl") < flushed.index(".tmp-step00000002 is step00000002")


@pytest.mark.parametrize(("number", "saved"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a2_a_disk_that_flushes_no_folders_holds_checkpoints_all_the_same(tmp_path, monkeypatch, number, saved):
    """Some network disks answer so; an error of the disk itself is one."""
    fsync = os.fsync

    def odd(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", odd)
    if not saved:
        with pytest.raises(DataError, match="could not be written"):
            checkpoint.save(tmp_path, 1, ONE, {})
        return
    checkpoint.save(tmp_path, 1, ONE, {})
    assert checkpoint.newest(tmp_path)[0].step == 1


def test_a3_an_old_checkpoint_that_somebody_reads_is_no_reason_to_end(make, monkeypatch):
    """NFS keeps a file that is open elsewhere under another name, and its folder cannot be removed."""
    run = make("run", *PLAIN, "train.save_every={steps: 1}")
    rmdir = os.rmdir

    def busy(path, **how):
        if Path(path).name == ".tmp-step00000001":
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        rmdir(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        train.train(run, stop=4)
        folder = run.out_dir / "checkpoints"
        assert [checkpoint.step_of(path) for path in checkpoint.complete(folder)] == [3, 4]
        assert list(folder.glob(".tmp-*"))
        train.train(run, stop=5)  # it is still being read
    train.train(run)
    assert not list(folder.glob(".tmp-*"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a8_a_disk_without_locks_is_named_and_nobody_waits_for_it(make, monkeypatch, tmp_path, number):
    """A bench and a teacher cache would wait for a holder that does not exist."""
    run = make("run", *PLAIN)
    train.train(run, stop=1)

    def none(*args) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", none)
    for ask in (lambda: run_dir.claim(run, "auto"), lambda: run_dir.in_use(run.out_dir)):
        with pytest.raises(ConfigError, match=r"run/\.lock: cannot be locked .* choose a folder on a disk that has"):
            ask()
    cached = make("other", "data.augment.mixup_alpha=0", f"teacher.cache={{views: 1, dir: {tmp_path / 'cache'}}}")
    monkeypatch.setattr(run_dir, "claim", lambda *args: None)
    (cached.out_dir).mkdir()
    (cached.out_dir / run_dir.MARK).touch()
    with pytest.raises(ConfigError, match=r"cache/.*\.lock: cannot be locked"):
        in_time(lambda: train.train(cached))


def in_time(do: Callable[[], object]) -> None:
    """AssertionError where `do` takes more than ten seconds of this process."""

    def late(*args) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGPROF, late)
    clock = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_PROF, 10)
    signal.alarm(120)
    try:
        do()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        signal.signal(signal.SIGPROF, before)
        signal.signal(signal.SIGALRM, clock)


@pytest.mark.parametrize("name", ["inputs.json", "metrics.jsonl", "results.json"])
def test_a4_a_pipe_in_place_of_a_file_is_named(make, name):
    """Who opens it would wait for ever for somebody to write."""
    run = make("run", *PLAIN)
    train.train(run, stop=None if name == "results.json" else 2)
    (run.out_dir / name).unlink()
    os.mkfifo(run.out_dir / name)
    with pytest.raises(DataError, match=name):
        in_time(lambda: train.train(run))


def test_h4_a_planted_link_makes_no_file_and_empties_none(make, tmp_path):
    run: Run = make("run", *PLAIN)
    train.train(run, stop=2)
    victim, absent = tmp_path / "victim", tmp_path / "absent"
    victim.write_text("precious")
    (run.out_dir / run_dir.MARK).unlink()
    (run.out_dir / run_dir.MARK).symlink_to(victim)
    train.train(run, resume="never", stop=2)
    assert victim.read_text() == "precious"
    (run.out_dir / "metrics.jsonl").unlink()
    (run.out_dir / "metrics.jsonl").symlink_to(absent)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        train.train(run)
    assert not absent.exists()
    (run.out_dir / "metrics.jsonl").unlink()
    train.train(run)
    assert [line["step"] for line in lines(run.out_dir)] == [3, 4, 5, 6]
