"""What every command does around its main function: mistakes that a person can mend end in one message and exit 2."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vidkd.errors import ConfigError, VidkdError
from vidkd.signals import Interrupted

SIGNALLED = 128  # and the signal's number: as a shell says it of what a signal ended
WRONG = 2  # as argparse: what was asked for cannot be done
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE
FULL = (errno.ENOSPC, errno.EDQUOT)


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """--batch and --device, of a command whose network looks at the windows of a video."""
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="windows at a time (default: 8)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """ConfigError if a file that is asked for could not be written, or would take the place of one that is read."""
    read = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"{path}: cannot be written there: {'a folder' if path.is_dir() else 'no such folder'}")
        if path.resolve() in read:
            raise ConfigError(f"{path}: is read; what is written needs another name")


def run_main(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """The exit status of `main(argv)`. What is not a person's to mend keeps its traceback."""
    try:
        status = main(argv)
        sys.stdout.flush()
    except VidkdError as error:
        return _say(str(error))
    except Interrupted as interrupted:
        return SIGNALLED + interrupted.number
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has left (`| head`): no complaint, here or when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        hint = "; make room, then run the same command again" if error.errno in FULL else ""
        return _say(f"{where}{error.strerror}{hint}")
    return status


@contextmanager
def whoever_reads() -> Iterator[None]:
    """Inside, the process does not end because its terminal was closed, or because what it is piped into has ended (as
    `| tee` does at a Ctrl-C): what it says from then on goes nowhere."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Unread(sys.stdout), Unread(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Unread:
    """A text stream that is silent from the first time on that it cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what it still holds goes there too, when Python ends
            os.close(nowhere)


def _say(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return WRONG
