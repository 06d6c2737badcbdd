"""Files that keep a second process out of a folder, on this machine or another that sees the same disk."""

import errno
import fcntl
import os
import socket
from typing import IO

from vidkd.errors import ConfigError

JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")  # what schedulers call a job


class NoLocks(ConfigError):
    """The disk has none."""


def locked(file: IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file for this process, `shared` with others that do so too; False where another one holds it, which
    does not happen if this is to `wait`. NoLocks on a disk without."""
    try:  # not flock: loader workers would inherit it
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise NoLocks(
            f"{file.name}: cannot be locked ({error.strerror}), and nothing would keep a second process out; choose a "
            "folder on a disk that has locks"
        ) from None
    return True


def sign(lock: IO[str]) -> None:
    """Write into the file, which this process has locked, who that is."""
    lock.truncate(0)
    job = next((f", job {os.environ[name]}" for name in JOB if name in os.environ), "")
    lock.write(f"process {os.getpid()} on {socket.gethostname()}{job}\n")
    lock.flush()


def holder(lock: IO[str]) -> str:
    """Who has signed the file."""
    lock.seek(0)
    return lock.read().strip() or "another process"
