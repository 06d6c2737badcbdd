"""Who writes to a prepared folder: one process, or one for each shard of it, on as many machines as there are."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_prep.pipeline import produce
from data_prep.pipeline.listing import Listing
from vidkd import locks
from vidkd.errors import ConfigError


@contextmanager
def claimed(out: Path, listing: Listing, shard: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Make the folder for the listing, or accept it, and keep other processes out of it, but for those that make other
    shards. ConfigError where one is in.

    Of a whole run, the others' unfinished files are what a killed run has left; and a journal has one writer.
    """
    produce.begin(out, listing)
    i, n = shard
    again = "let it end, or stop it, and run the same command again"
    with ExitStack() as held:
        lock = held.enter_context((out / ".lock").open("a+", encoding="utf-8"))
        try:
            if not locks.locked(lock, shared=n > 1):
                by_shards = n == 1 and locks.locked(lock, shared=True)
                who = "processes that make shards of it" if by_shards else locks.holder(lock)
                raise ConfigError(f"--out {out}: in use by {who}; {again}")
            if n > 1:
                own = held.enter_context((out / f".lock-{i}-of-{n}").open("a+", encoding="utf-8"))
                if not locks.locked(own):
                    raise ConfigError(f"--out {out}: shard {i} of {n} is in use by {locks.holder(own)}; {again}")
                lock = own
            locks.sign(lock)
        except locks.NoLocks as error:
            print(f"warning: {error}", file=sys.stderr)
        yield


def same_rows(out: Path, listing: Listing, shard: tuple[int, int]) -> None:
    """ConfigError if another of these shards was started with other labels, groups or parts: the last one to end would
    write its own for all videos, and nobody would know."""
    (i, n), mine = shard, listing.rows.checksum()
    own = out / f".rows-{i}-of-{n}"
    before = own.read_text() if own.exists() else None
    _write(own, mine)  # first: of two that begin at once, one sees the other
    for k in range(n):
        theirs = out / f".rows-{k}-of-{n}"
        if theirs.exists() and theirs.read_text() != mine:
            own.unlink() if before is None else _write(own, before)
            raise ConfigError(
                f"--out {out}: shard {k} of {n} has other videos, labels or parts than shard "
                f"{i}: run all shards with the same options (--holdout, ...) and lists; to begin anew with these, "
                f"remove {out / '.rows-*'}"
            )


def _write(path: Path, text: str) -> None:
    """All of it at once: another shard that begins now must not read half of it."""
    half = path.with_name(f"{path.name}-half")
    half.write_text(text)
    half.replace(path)


def forget_rows(out: Path) -> None:
    """The index is written: shards of another time may have other rows."""
    for path in out.glob(".rows-*"):
        path.unlink(missing_ok=True)


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """One process after the other: of shards that end at once, each may find that all is made."""
    with (out / ".lock-index").open("a+", encoding="utf-8") as lock:
        try:
            locks.locked(lock, wait=True)
        except locks.NoLocks as error:
            print(f"warning: {error}", file=sys.stderr)
        yield
