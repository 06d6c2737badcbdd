"""Signals that ask a run to end: noted when they come, obeyed where nothing is lost, by all processes at one step.

SIGTERM (preemption), SIGUSR1 (the warning a scheduler can be asked for), SIGINT (Ctrl-C) and SIGHUP (a closed terminal)
are treated alike.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from vidkd.distributed import max_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
SAME_S = 1.0  # one Ctrl-C may come twice, from the terminal and from the launcher: it is a second one only after this
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
PARENT = "VIDKD_PARENT"  # in the environment: the id of the process that this one must not outlive


class Interrupted(Exception):
    """A signal asked the run to end, and all its processes have agreed to."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_ends_with_us = False  # whether this process ends where the run does
_asked: int | None = None
_asked_at = 0.0


@contextmanager
def noted() -> Iterator[None]:
    """Inside, a signal is noted for `check`, and a second Ctrl-C ends the process at once.

    Outside, signals do what the system lets them do. One that no `check` saw is sent again at the end. SIGHUP stays
    ignored where it was (nohup). Only the main thread can do this: in another one nothing changes. In a command, one
    that was obeyed may come again while the process ends, and changes nothing then; a Ctrl-C still ends it at once.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    before = {number: signal.signal(number, _note) for number in SIGNALS if number not in kept}
    try:
        yield
    except BaseException as end:
        _asked = None  # what ends the run may still say why
        if _ends_with_us and isinstance(end, Interrupted) and end.number != signal.SIGINT:
            before[signal.Signals(end.number)] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        unseen, _asked = _asked, None
        if unseen is not None:
            os.kill(os.getpid(), unseen)


def command() -> None:
    """Said by a command, whose process ends when it does: see `noted`."""
    global _ends_with_us
    _ends_with_us = True


def check(device: torch.device | None = None) -> None:
    """Interrupted, on every process, if a signal has reached any of them. All must call this equally often."""
    if number := max_over_ranks(_asked or 0, device):
        raise Interrupted(number)


@contextmanager
def blocked() -> Iterator[None]:
    """Inside, signals wait; processes that are started there never hear them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(number: signal.Signals) -> None:
    """Have the system send this process `number` when its parent dies, where the system can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def not_without_parent() -> None:
    """Have SIGTERM end this process with the one that PARENT names, or at once where that is gone already."""
    if parent := os.environ.get(PARENT):
        die_with_parent(signal.SIGTERM)
        if os.getppid() != int(parent):  # it died while we were being started
            raise Interrupted(signal.SIGTERM)


def _note(number: int, frame: FrameType | None) -> None:
    global _asked, _asked_at
    del frame
    if number == signal.SIGINT and _asked is not None and time.monotonic() - _asked_at > SAME_S:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    if _asked is None:
        _asked, _asked_at = number, time.monotonic()
