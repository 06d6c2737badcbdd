"""The loader around the clips: workers that survive signals, and mistakes that arrive as one sentence.

On Linux workers are forked: decoders do not hang in a forked child (measured: decord, PyAV and torchcodec), the index
is shared instead of copied, and a worker starts in milliseconds, not in the seconds that importing torch takes.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import RawArray
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vidkd import signals
from vidkd.data.index import Part
from vidkd.errors import DataError
from vidkd.types import ClipBatch

Key = tuple[int, int]  # (epoch, position in the part)


@dataclass(frozen=True, slots=True)
class Bad:
    """A video that could not be read, and the one that was taken instead, if any."""

    epoch: int
    name: str
    reason: str  # names the file
    used: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One video as each network sees it."""

    views: dict[str, Tensor]  # network -> [V, 3, T, H, W] uint8
    label: int
    name: str
    address: Key  # (address epoch, position in the part)
    bad: Bad | None = None  # the video that should have been here
    extra: dict[str, Tensor] = field(default_factory=dict)  # the task's truth of each view: name -> [V, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What travels from a worker: a batch, or why there is none."""

    batch: ClipBatch | None
    bad: tuple[Bad, ...]

    def pin_memory(self) -> "Loaded":
        if self.batch is None:
            return self
        views = {name: video.pin_memory() for name, video in self.batch.views.items()}
        return replace(self, batch=replace(self.batch, views=views))


class Source(Protocol):
    """A set of addressed clips."""

    part: Part

    def load(self, key: Key) -> Item:
        """DataError if the video cannot be read."""
        ...


class Watched(Dataset[Item | Bad]):
    """The clips of `source`; while a worker reads one, `busy` says which."""

    def __init__(self, source: Source, workers: int) -> None:
        self.source = source
        self.busy = RawArray("q", [-1] * max(workers, 1))  # worker -> position in the part, -1 when it reads nothing

    def __getitem__(self, key: Key) -> Item | Bad:
        worker = get_worker_info()
        me = worker.id if worker else 0
        self.busy[me] = key[1]
        try:
            return self.source.load(key)
        except DataError as error:
            return Bad(key[0], self.source.part[key[1]].name, str(error))
        finally:
            self.busy[me] = -1


@dataclass
class Unreadable:
    """The videos that were replaced by others, over all processes and all starts of a run."""

    count: int = 0
    epoch: int = -1
    names: list[str] = field(default_factory=list)  # those of `epoch`

    def add(self, bad: Bad, allowed: float) -> None:
        """Count one; DataError if more than `allowed` videos of its epoch could not be read."""
        if bad.epoch != self.epoch:
            self.epoch, self.names = bad.epoch, []
        self.count += 1
        self.names = sorted({*self.names, bad.name})
        if len(self.names) > allowed:
            raise DataError(
                f"{len(self.names)} videos of epoch {bad.epoch} could not be read, more than "
                f"data.max_bad_fraction allows ({allowed:.1f}); the last: {bad.reason}"
            )


class Loader(DataLoader[Any]):
    """Yields `ClipBatch`es of the clips of `source`, in the order of `keys`: one list of keys a batch.

    A video that cannot be read is a DataError here, in this process. Those that the source replaced are in `replaced`.
    A batch whose worker is silent for `timeout_s` is a
    DataError that names the clips being read.
    """

    def __init__(
        self,
        source: Source,
        keys: Iterable[list[Key]],
        *,
        workers: int,
        timeout_s: float,
        generator: torch.Generator,
    ) -> None:
        self.watched = Watched(source, workers)
        super().__init__(
            self.watched,
            batch_sampler=keys,  # pyright: ignore[reportArgumentType]
            collate_fn=collate,
            num_workers=workers,
            # Twice half of it: one half may pass while a scheduler, or a person at a terminal, has stopped them all
            timeout=timeout_s / 2 if workers else 0,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            generator=generator,  # or torch would draw from its global generator
            pin_memory=torch.cuda.is_available(),
        )
        self.replaced: list[Bad] = []

    def __iter__(self) -> Generator[ClipBatch, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The workers start now, not at the first batch. A signal to the group is the trainer's to answer: it ends them
        # after saving.
        with signals.blocked():
            loading = super().__iter__()
        return self._batches(loading)

    def _batches(self, loading: Any) -> Generator[ClipBatch, None, None]:
        stuck = waited = False
        try:
            while True:
                try:
                    loaded: Loaded = next(loading)
                    waited = False
                except StopIteration:
                    return
                except RuntimeError as error:
                    if "DataLoader" not in str(error):
                        raise
                    if "timed out" in str(error) and not waited:
                        waited = True
                        continue
                    stuck = True
                    dead = [k for k, w in enumerate(getattr(loading, "_workers", [])) if not w.is_alive()]
                    raise DataError(_silent(str(error), 2 * self.timeout, self.being_read(dead))) from None
                yield self._checked(loaded)
        finally:
            _end(loading, stuck)

    def being_read(self, workers: list[int]) -> list[str]:
        """The clips that these workers, or all if there are none, are reading at this moment."""
        busy = [i for k, i in enumerate(self.watched.busy) if not workers or k in workers]
        return [self.watched.source.part[i].name for i in busy if i >= 0]

    def _checked(self, loaded: Loaded) -> ClipBatch:
        if loaded.batch is None:
            raise DataError("\n".join(dict.fromkeys(bad.reason for bad in loaded.bad)))
        self.replaced += loaded.bad
        return loaded.batch


def collate(items: list[Item | Bad]) -> Loaded:
    """One batch; the V views of one video in consecutive rows."""
    bad = tuple(item for item in items if isinstance(item, Bad))
    good = [item for item in items if isinstance(item, Item)]
    if bad or not good:
        return Loaded(None, bad)
    views = {name: _joined([item.views[name] for item in good]) for name in good[0].views}
    rows = [item for item in good for _ in range(len(next(iter(item.views.values()))))]
    batch = ClipBatch(
        views,
        label=torch.tensor([item.label for item in rows]),
        clip=tuple(item.name for item in rows),
        address=torch.tensor([item.address for item in rows]),
        extra={name: torch.cat([item.extra[name] for item in good]) for name in good[0].extra},
    )
    return Loaded(batch, tuple(item.bad for item in good if item.bad is not None))


def _joined(videos: list[Tensor]) -> Tensor:
    """torch.cat; in a worker into memory that the loader's process shares, or it would be copied there once more."""
    if get_worker_info() is None:
        return torch.cat(videos)
    first, n = videos[0], sum(len(video) for video in videos)
    shared = torch.UntypedStorage._new_shared(n * first[0].numel() * first.element_size())
    whole = torch.empty(0, dtype=first.dtype).set_(shared, 0, (n, *first.shape[1:]))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return torch.cat(videos, out=whole)


def _silent(error: str, seconds: float, being_read: list[str]) -> str:
    clips = f"it was reading: {', '.join(being_read)}" if being_read else "it was not reading a video"
    if "timed out" in error:
        return (
            f"a loader worker was silent for {seconds:g} s (data.timeout_s); {clips}. Such a video makes the "
            "decoder hang: replace it, or try another data.decoder"
        )
    return f"a loader worker died ({error.strip()}); {clips}"


def _end(loading: Any, stuck: bool) -> None:
    """End the workers of a DataLoader's iterator now, not when it is forgotten: they ignore the signals that would.

    One that is `stuck` inside a decoder hears nothing but SIGKILL. Torch would take that death for another error, at
    any later moment, so it does not get to know.
    """
    workers = getattr(loading, "_workers", [])
    here = workers and threading.current_thread() is threading.main_thread()
    told = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if here else None
    try:
        for worker in workers if stuck else []:
            worker.kill()
        getattr(loading, "_shutdown_workers", lambda: None)()
        for worker in workers:
            worker.kill()
            worker.join()
    finally:
        if told is not None:
            signal.signal(signal.SIGCHLD, told)


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)  # the workers are the parallelism
    gc.freeze()  # what the parent left is there for good: never to be searched for garbage, nor its pages copied
    sys.excepthook = _hung_up
    signals.die_with_parent(signal.SIGKILL)  # also where a decoder hangs, and nothing else would be heard
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it died before we asked for that
        os.kill(os.getpid(), signal.SIGKILL)


def _hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own account of an error that nobody caught, but for this one: the loader's process ended while a thread
    of the worker was handing it a batch. Why it ended is said there."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
