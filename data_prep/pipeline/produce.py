"""Make every video of a listing, in parallel, each whole or not at all, and only what has not been made yet."""

import functools
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from data_prep.pipeline import cluster, journal
from data_prep.pipeline.database import is_utf8
from data_prep.pipeline.ffmpeg import DISK_FULL
from data_prep.pipeline.journal import Done, Entry
from data_prep.pipeline.listing import Item, Listing, Rows
from vidkd.data import index
from vidkd.errors import DataError


@dataclass(frozen=True, slots=True)
class Facts:
    """What making one video found out about it."""

    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    status: str = "ok"  # or "truncated", "unreadable", "refused": then nothing is kept of it
    reason: str = ""


PARTIAL = ".tmp-"  # how the name of an unfinished file starts
Make = Callable[[Item, Path], Facts]  # (what, into which file)
Todo = tuple[Item, Done | None]  # what is to be made, and what is known of it from before
MakeOne = Callable[[Item, Done | None], Entry | None]


@dataclass(frozen=True)
class Task:
    """What a worker process needs for every item."""

    out: Path
    make: Make
    settings: str


def produce(
    out: Path,
    listing: Listing,
    make: Make,
    settings: str,
    workers: int,
    shard: tuple[int, int] = (0, 1),
    executor: str = "processes",
) -> None:
    """Make what is missing of the listing in the folder `out`, which claim.claimed made, and keeps
    others out of; of shard (i, n) every n-th video from the i-th on.

    The journal in `out` says afterwards what became of each. `settings` names all that changes the bytes of a video.
    """
    journal.load(listing.rows.db, out)
    todo = _todo(listing.rows, shard)
    total = len(range(shard[0], len(listing.rows), shard[1]))
    name = ".journal.jsonl" if shard[1] == 1 else f".journal-{shard[0]}-of-{shard[1]}.jsonl"
    make_one = functools.partial(_one, Task(out.absolute(), make, settings))
    results = cluster.results(executor, make_one, todo, workers) if executor != "processes" else None
    failed = 0
    try:
        journal.mend(out / name)
        with open(out / name, "ab") as log, tqdm(total=total, unit="video", disable=None, desc=listing.name) as bar:
            for entry in results or _results(make_one, todo, workers):
                if entry:
                    failed += entry.status != "ok"
                    log.write(journal.record(entry))
                    log.flush()
                bar.update()
                bar.set_postfix(failed=failed, refresh=False)
    except OSError as error:
        again = "mend that, and run the same command again"
        raise DataError(f"{out / name}: cannot be written to ({error.strerror}); {again}") from None


def _todo(rows: Rows, shard: tuple[int, int]) -> Iterator[Todo]:
    """The items of the shard, and what the journal says of those that were made."""
    known = "LEFT JOIN made ON made.path = items.path AND made.status = 'ok'"
    for identity, size, *own in rows.db.rows(
        f"SELECT identity, bytes, {rows.columns} FROM items {known} WHERE position % ? = ? ORDER BY position",
        shard[1],
        shard[0],
    ):
        yield rows.item(own), None if identity is None else (identity, size)


def begin(out: Path, listing: Listing) -> None:
    """Make the folder `out`, or accept it if it is a data set of this name and form, finished or not."""
    name = listing.name if listing.form == "video" else f"{listing.name} {listing.form}"
    if not is_utf8(str(out.absolute())):
        raise DataError(f"--out {str(out)!r}: its name is not UTF-8; choose another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and _name_of(out) != name:
            raise DataError(f"{out}: holds something else ({_name_of(out) or 'no data set'}); choose another --out")
        (out / ".data_set").write_text(name, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written to ({error.strerror})") from None


def _name_of(out: Path) -> str:
    marker = out / ".data_set"
    return marker.read_text(encoding="utf-8") if marker.is_file() else ""


def _results(make_one: MakeOne, todo: Iterator[Todo], workers: int) -> Iterator[Entry | None]:
    """What became of every item, as they finish; None where it had been made before."""
    if workers <= 1:
        yield from (make_one(*each) for each in todo)
        return
    # spawn: a forked child inherits the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_obey_parent)
    running: set[Future[Entry | None]] = set()
    try:
        while True:
            with _without_interrupts():  # submitting starts workers, and they are to inherit that
                running |= {pool.submit(make_one, *each) for each in islice(todo, 4 * workers - len(running))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, perhaps for want of memory; the same command goes on from here, "
            "with fewer --workers if it happens again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of this; a process started in it never hears of one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, and the ffmpeg it started would go on writing."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a group of its own, with what it starts
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _one(task: Task, item: Item, known: Done | None) -> Entry | None:
    identity = _identity(task.settings, item)
    target = task.out / item.path
    if known == (identity, _size(target)):
        return None
    # Of this process alone: what a killed run has started may still be writing into its own.
    partial = target.parent / f"{PARTIAL}{hashlib.sha1(target.name.encode()).hexdigest()[:16]}-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        index.discard(task.out)  # what it says of this video will no longer be so
        facts = task.make(item, partial)
        source_checksum = _checksum_of_source(item)
        if facts.status == "ok":
            size, checksum = partial.stat().st_size, checksum_of(partial)
            partial.replace(target)
        else:
            size, checksum = 0, ""
            partial.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):  # where its folder cannot be, neither can it
            partial.unlink()
        raise DataError(
            f"{target}: cannot be written ({error.strerror}); mend that, and run the same command again"
        ) from None
    if DISK_FULL in facts.reason:
        raise DataError(f"{target}: the disk is full; free some space and run the same command again")
    result = (facts.frames, facts.fps, facts.width, facts.height, facts.status, facts.reason)
    return Entry(
        item.path, identity, size, checksum, *result, journal.short(task.settings), source_checksum, time.time_ns()
    )


def _identity(settings: str, item: Item) -> str:
    """Changes when the settings or the source file change."""
    try:
        status = os.stat(item.source)
        source = f"{status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):  # rendered data have no file; a missing one is found out by who reads it
        source = ""
    return hashlib.sha256(f"{settings}\0{item.source}\0{source}".encode(errors="surrogatepass")).hexdigest()[:24]


def _checksum_of_source(item: Item) -> str:
    """Of the file that a decoder has just read; nothing for rendered data, or what cannot be read."""
    try:
        return checksum_of(Path(item.source)) if os.path.isfile(item.source) else ""
    except (OSError, ValueError):
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def checksum_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"
