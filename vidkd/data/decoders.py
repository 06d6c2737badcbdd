"""The decoders, each behind the same few methods: the only place that imports them. Which one reads what: decode.py."""

import bisect
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import dlpack

from vidkd.errors import DataError

NOTHING = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
AT_ONCE = 8  # frames that a walk decodes in one call
REMEDY = "get the file again, or leave it out by preparing the data set anew (python -m data_prep)"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a backend is told about a file."""

    kind: str  # the container, see container.Header
    timed: bool = False  # every frame has a time of its own: it can be found by that
    decord_is_exact: bool = False
    indexed: bool = False  # the container's index holds every frame, by the time it is shown


class Backend(Protocol):
    """One decoder, reading one file."""

    errors: tuple[type[Exception], ...]  # what it raises when the file is bad

    @property
    def frames(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)"""
        ...

    def read(self, indices: list[int]) -> Tensor:
        """[n, 3, H, W] uint8: the frames at `indices`, ascending and each once; fewer where the video ends before."""
        ...

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        """The same frames one by one, [3, H, W]: in memory for a few, however many there are."""
        ...

    def close(self) -> None: ...


def undecodable(path: Path, decoder: str, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    reason = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", reason)  # decord's time of day and line of C++
    return DataError(f"{path}: {decoder} cannot decode it ({reason[:200]}); {REMEDY}")


def inexact(path: Path, decoder: str) -> DataError:
    return DataError(
        f"{path}: {decoder} returns other frames than those asked for in this kind of file: prepare the data set "
        "(python -m data_prep), or set data.decoder=auto"
    )


class Decord:
    """decord on one thread. Refuses what it cannot jump in: it returns other frames there, and says nothing."""

    def __init__(self, path: Path, facts: Facts) -> None:
        import decord  # noqa: TID251  here is where it may be imported

        if not facts.decord_is_exact:
            raise inexact(path, "decord")
        self.errors: tuple[type[Exception], ...] = (RuntimeError, decord.DECORDError)
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self.reader: Any = decord.VideoReader(str(path), num_threads=1)
        except self.errors as error:
            raise undecodable(path, "decord", error) from None

    @property
    def frames(self) -> int:
        return len(self.reader)

    @property
    def fps(self) -> float:
        return float(self.reader.get_avg_fps())

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self.reader[0].shape[:2]
        return width, height

    def read(self, indices: list[int]) -> Tensor:
        within = [i for i in indices if i < self.frames]
        if not within:
            return NOTHING
        return dlpack.from_dlpack(self.reader.get_batch(within).to_dlpack()).permute(0, 3, 1, 2)

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        for start in range(0, len(indices), AT_ONCE):
            yield from self.read(indices[start : start + AT_ONCE])

    def close(self) -> None:
        self.reader = None


@functools.cache
def pyav_reads_index() -> bool:
    """Whether PyAV can tell a container's index without reading all packets: from version 17 on."""
    import av

    return int(av.__version__.split(".")[0]) >= 17


class PyAV:
    """PyAV on one thread. Finds frames by their times where each has its own, else counts them from the start."""

    def __init__(self, path: Path, facts: Facts) -> None:
        import av
        import av.error
        import av.video.reformatter

        self.errors: tuple[type[Exception], ...] = (av.error.FFmpegError,)
        self.path, self.facts = path, facts
        # It would start a thread for every core, for each frame; before version 17 it had none.
        one_thread = {"threads": 1} if pyav_reads_index() else {}
        self.to_rgb = functools.partial(av.video.reformatter.VideoReformatter().reformat, format="rgb24", **one_thread)
        options = {"protocol_whitelist": "file", "format_whitelist": facts.kind}
        try:
            self.container: Any = av.open(str(path), options=options, metadata_errors="replace")
        except self.errors as error:
            raise undecodable(path, "pyav", error) from None
        if not self.container.streams.video:
            self.close()
            raise DataError(f"{path}: holds no picture, only sound or data")
        self.stream: Any = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1

    @functools.cached_property
    def times(self) -> tuple[list[int], list[int]]:
        """When frames are shown, and when key frames are, both ascending."""
        if self.facts.indexed and pyav_reads_index():
            packets = [(entry.timestamp, entry.is_keyframe) for entry in self.stream.index_entries]
        else:
            packets = [(p.pts, p.is_keyframe) for p in self.container.demux(self.stream) if p.size]  # not their bytes
        return sorted(pts for pts, _ in packets), sorted(pts for pts, is_key in packets if is_key)

    @functools.cached_property
    def count(self) -> int:
        return len(self.times[0]) if self.facts.timed else sum(1 for _ in self._from_the_start())

    @property
    def frames(self) -> int:
        return self.count

    @property
    def fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return width, height

    def read(self, indices: list[int]) -> Tensor:
        found = [frame.permute(1, 2, 0) for frame in self.walk(indices)]  # as they lie in memory
        if len({f.shape for f in found}) > 1:
            raise DataError(f"{self.path}: its picture changes size along the way; {REMEDY}")
        return torch.stack(found).permute(0, 3, 1, 2) if found else NOTHING

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        for frame in (self._by_time if self.facts.timed else self._by_count)(indices):
            yield self._pixels(frame).permute(2, 0, 1)

    def _by_count(self, indices: list[int]) -> Iterator[Any]:
        wanted = set(indices)
        return (f for i, f in enumerate(itertools.islice(self._from_the_start(), indices[-1] + 1)) if i in wanted)

    def _from_the_start(self) -> Iterator[Any]:
        again = PyAV(self.path, self.facts)  # seeking back to the start is not exact in every container
        try:
            yield from again.container.decode(again.stream)
        finally:
            again.close()

    def _by_time(self, indices: list[int]) -> Iterator[Any]:
        """The frames, each known by its time: one that jumping does not find is looked for from earlier on."""
        times, keys = self.times
        decoding: Iterator[Any] = iter(())
        at = times[0] - 1  # the time of the frame decoded last
        for wanted in (times[i] for i in indices if i < len(times)):
            key = max(bisect.bisect_right(keys, wanted) - 1, 0)
            frame = None if keys[key] > at else _until(decoding, wanted)
            while frame is None and key >= 0:
                self.container.seek(keys[key], stream=self.stream)
                decoding = self.container.decode(self.stream)
                frame, key = _until(decoding, wanted), key - 1
            if frame is None:
                raise DataError(f"{self.path}: its frame {bisect.bisect(times, wanted) - 1} is damaged; {REMEDY}")
            at = wanted
            yield frame

    def _pixels(self, frame: Any) -> Tensor:
        """[H, W, 3] uint8 RGB, the way up it is meant to be seen."""
        pixels = torch.from_numpy(self.to_rgb(frame).to_ndarray())
        turns = round(frame.rotation / 90) % 4
        return pixels.rot90(turns) if turns else pixels

    def close(self) -> None:
        self.container.close()


def _until(decoding: Iterator[Any], time: int) -> Any | None:
    """The frame shown at `time`; None where one that is shown later comes before it, or the video ends."""
    for frame in decoding:
        if frame.pts is None or frame.pts > time:
            return None
        if frame.pts == time:
            return frame
    return None


class TorchCodec:
    """torchcodec (optional), its exact mode. Refuses what it cannot jump in, as decord."""

    def __init__(self, path: Path, facts: Facts) -> None:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        self.errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError)
        if not facts.timed:
            raise inexact(path, "torchcodec")
        try:
            self.reader: Any = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
        except self.errors as error:
            raise undecodable(path, "torchcodec", error) from None

    @property
    def frames(self) -> int:
        return self.reader.metadata.num_frames

    @property
    def fps(self) -> float:
        return float(self.reader.metadata.average_fps)

    @property
    def size_px(self) -> tuple[int, int]:
        return self.reader.metadata.width, self.reader.metadata.height

    def read(self, indices: list[int]) -> Tensor:
        within = [i for i in indices if i < self.frames]
        return self.reader.get_frames_at(within).data if within else NOTHING

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        for start in range(0, len(indices), AT_ONCE):
            yield from self.read(indices[start : start + AT_ONCE])

    def close(self) -> None:
        self.reader = None
