"""Whose a cell is, among any number of benches, on any machines, that share a folder and nothing else.

A claim is a file `<generation>.json` that only one process can create (O_EXCL: also on NFS). Its owner beats: it
rewrites the file every BEAT_S. Who wants the cell creates the next generation, and may only if the newest one is
released, or its owner is dead (known at once on the same machine), or it has not beaten for `stale_s` by the clock of
who waits; clocks are never compared. Nothing is ever deleted: each generation has one creator, the newest is the owner,
and an owner that was thought dead finds out at its next beat and stops.
"""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidkd import checkpoint

BEAT_S = 20.0
STALE_S = 300.0  # 15 beats: longer than a network disk is away for, far shorter than a cell


class Lost(Exception):
    """Another process has taken the claim over."""


@dataclass
class Claim:
    """A cell that is ours until `release`, or until `beat` says otherwise."""

    folder: Path
    generation: int
    beats: int = 0

    def beat(self) -> None:
        """Say that we are alive; Lost if the claim is no longer ours."""
        if newest(self.folder) != self.generation:
            raise Lost(f"{self.folder}: taken over by {_who(_read(self.folder, newest(self.folder)))}")
        self.beats += 1
        self._write("running")

    def release(self, outcome: str) -> None:
        """Let the next one have it; `outcome` says for people what became of the cell."""
        self._write(outcome)

    def _write(self, state: str) -> None:
        checkpoint.write_atomic(_path(self.folder, self.generation), _said(state, self.beats))


@dataclass
class Watch:
    """What one bench has seen of others' claims, and when it last changed, by its own clock."""

    stale_s: float = STALE_S
    seen: dict[Path, tuple[Any, float]] = field(default_factory=dict)

    def take(self, folder: Path) -> Claim | None:
        """The claim of the cell, or None while it is another's."""
        folder.mkdir(parents=True, exist_ok=True)
        last = newest(folder)
        if last and not self._free(folder, last):
            return None
        try:
            handle = os.open(_path(folder, last + 1), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:  # another was faster
            return None
        with os.fdopen(handle, "wb") as file:
            file.write(_said("running", 0))
            file.flush()
            os.fsync(file.fileno())
        return Claim(folder, last + 1)

    def owner(self, folder: Path) -> str:
        """Who has the cell, for people; "" where nobody has."""
        last = newest(folder)
        return _who(_read(folder, last)) if last and not self._free(folder, last) else ""

    def _free(self, folder: Path, last: int) -> bool:
        path, said = _path(folder, last), _read(folder, last)
        if said.get("state", "running") != "running" or _dead(said):
            return True
        before = self.seen.get(path)
        if before is None or before[0] != said:
            self.seen[path] = said, time.monotonic()
            return False
        return time.monotonic() - before[1] > self.stale_s


def newest(folder: Path) -> int:
    """The newest generation; 0 where nobody ever claimed the cell."""
    return max((int(path.stem) for path in folder.glob("[0-9]*.json")), default=0)


def history(folder: Path) -> list[dict[str, Any]]:
    """Every claim of the cell that there ever was, the oldest first."""
    return [_read(folder, generation) for generation in range(1, newest(folder) + 1)]


def _path(folder: Path, generation: int) -> Path:
    return folder / f"{generation:06d}.json"


def _read(folder: Path, generation: int) -> dict[str, Any]:
    """{} for a claim that its creator has not written yet, or never will: it then becomes stale like any other."""
    with suppress(OSError, ValueError):
        said = json.loads(_path(folder, generation).read_bytes())
        return said if isinstance(said, dict) else {}
    return {}


def _said(state: str, beats: int) -> bytes:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    said = {"host": socket.gethostname(), "machine": machine(), "pid": os.getpid(), "beats": beats, "state": state}
    return (json.dumps(said | {"at": now}) + "\n").encode()


def machine() -> str:
    """What says that a process id means the same process: the boot of this machine and its process namespace; "" where
    the system does not say (names of hosts are not enough: containers share them)."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _dead(said: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and is gone."""
    if not said.get("machine") or said["machine"] != machine():
        return False
    try:
        os.kill(int(said["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError, KeyError):
        return False
    return False


def _who(said: dict[str, Any]) -> str:
    return f"process {said.get('pid', '?')} on {said.get('host', '?')}"
