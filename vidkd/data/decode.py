"""Videos to frames, index for index: the only import of a decoder.

Frames are decoded at their own size; resizing is ours alone (transforms.py), so clips do not depend on the decoder.
A video is opened, read and closed: a decord reader that is kept goes on decoding into memory in the background.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils import dlpack

from vidkd.data import container
from vidkd.data.container import Header
from vidkd.errors import ConfigError, DataError, one_of

Decoder = Literal["auto", "decord", "torchcodec", "pyav"]
REMEDY = "get the file again, or leave it out by preparing the data set anew (python -m data_prep)"


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

    def close(self) -> None: ...


@dataclass
class Video:
    """An open video. Use it in a `with`, and close it before the next one."""

    path: Path
    decoder: str
    backend: Backend

    @property
    def frames(self) -> int:
        """How many frames can be decoded. Costs a pass over the file where the container is not trusted to know."""
        with self._errors():
            return self.backend.frames

    @property
    def fps(self) -> float:
        """Frames a second, the mean where the rate varies."""
        return self.backend.fps

    @property
    def width(self) -> int:
        return self.backend.size_px[0]

    @property
    def height(self) -> int:
        return self.backend.size_px[1]

    def get(self, indices: Sequence[int]) -> Tensor:
        """[T, 3, H, W] uint8 RGB: the frames at `indices`, in that order; an index may come twice."""
        unique = sorted(set(indices))
        if not unique or unique[0] < 0:
            raise ValueError(f"frame indices must be 0 or more, and at least one: {list(indices)[:5]}")
        with self._errors():
            frames = self.backend.read(unique)
        if len(frames) != len(unique):
            raise DataError(f"{self.path}: it has no frame {unique[len(frames)]} (the first is 0); {REMEDY}")
        if list(indices) == unique:
            return frames
        place = {index: i for i, index in enumerate(unique)}
        return frames[[place[i] for i in indices]]

    def close(self) -> None:
        self.backend.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self.backend.errors as error:
            raise _undecodable(self.path, self.decoder, error) from None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(path: Path, decoder: Decoder = "auto") -> Video:
    """Open the video file `path`; DataError, naming it and what to do, if it is none or cannot be decoded."""
    path = path.absolute()  # no name can pass for a protocol or an option
    facts = _facts(path, container.inspect(path))
    name = decoder
    if decoder == "auto":
        name = "decord" if facts.seekable and _installed("decord") else "pyav"
    if name not in BACKENDS:
        raise ConfigError(one_of(name, sorted(BACKENDS), "decoder"))
    if not _installed(name):
        raise ConfigError(f"data.decoder: {name} is not installed here: pip install {name}, or choose another one")
    return Video(path, name, BACKENDS[name](path, facts))


def decoder_versions() -> dict[str, str]:
    """The decoders that are installed: for the protocol of results."""
    versions = {}
    for package in ("decord", "decord2", "torchcodec", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _undecodable(path: Path, decoder: str, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    reason = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", reason)  # decord's time of day and line of C++
    return DataError(f"{path}: {decoder} cannot decode it ({reason[:200]}); {REMEDY}")


def _inexact(path: Path, decoder: str) -> DataError:
    return DataError(
        f"{path}: {decoder} returns other frames than those asked for in this kind of file: prepare the data set "
        "(python -m data_prep), or set data.decoder=auto"
    )


@functools.cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec({"pyav": "av"}.get(name, name)) is not None


# Which files may be read by jumping into them: measured, tests/data/test_decode.py.


@dataclass(frozen=True, slots=True)
class Facts:
    """What a backend is told about a file."""

    kind: str  # the container, see container.Header
    size_px: tuple[int, int]  # (width, height)
    seekable: bool  # a decoder may jump to a key frame and count from there


def _facts(path: Path, header: Header) -> Facts:
    if header.plain and header.codec in ("avc1", "vp09"):
        return Facts(header.kind, (header.width, header.height), True)
    status = path.stat()
    return _probe(path, header.kind, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _probe(path: Path, kind: str, _bytes: int, _changed_ns: int) -> Facts:
    backend = _PyAV(path, Facts(kind, (0, 0), False))
    try:
        codec = backend.stream.codec_context
        container.check_size(path, codec.width, codec.height, backend.stream.frames)
        # AVI and MPEG-TS have no usable time stamps; HEVC and MPEG-4 were not exact in any container.
        may = kind in ("mov", "matroska") and codec.codec.canonical_name in ("h264", "vp8", "vp9")
        seekable = may and _closed_groups(backend.container.demux(backend.stream))
        return Facts(kind, (codec.width, codec.height), seekable)
    except backend.errors as error:
        raise _undecodable(path, "pyav", error) from None
    finally:
        backend.close()


def _closed_groups(packets: Iterator[Any]) -> bool:
    """Whether a jump to any key frame ends there, and the frames after it are those that are counted from it.

    Not so where a frame is shown before the key frame it is stored after (open groups), where an edit list cuts frames
    away, where two frames share a time, or where a key frame is stored before the one ahead of it is shown: decord
    looks for the time it is shown at among the times they are stored at, and finds the later one.
    """
    shown: set[int] = set()
    key_pts: int | None = None
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.pts is None or packet.is_discard or packet.pts in shown:
            return False
        shown.add(packet.pts)
        if packet.is_keyframe:
            if key_pts is not None and packet.dts is not None and packet.dts <= key_pts:
                return False
            key_pts = packet.pts
        if key_pts is None or packet.pts < key_pts:
            return False
    return True


class _Decord:
    """decord on one thread. Refuses what it cannot jump in: it returns other frames there, and says nothing."""

    def __init__(self, path: Path, facts: Facts) -> None:
        import decord  # noqa: TID251  here is where it may be imported

        if not facts.seekable:
            raise _inexact(path, "decord")
        self.errors: tuple[type[Exception], ...] = (RuntimeError, decord.DECORDError)
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self.reader: Any = decord.VideoReader(str(path), num_threads=1)
        except self.errors as error:
            raise _undecodable(path, "decord", error) from None

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
            return torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        return dlpack.from_dlpack(self.reader.get_batch(within).to_dlpack()).permute(0, 3, 1, 2)

    def close(self) -> None:
        self.reader = None


class _PyAV:
    """PyAV, from the start: always exact, at the price of every frame before the last one wanted."""

    def __init__(self, path: Path, facts: Facts) -> None:
        import av
        import av.error

        self.errors: tuple[type[Exception], ...] = (av.error.FFmpegError,)
        self.path, self.facts = path, facts
        self._counted: int | None = None
        self._used = False
        options = {"protocol_whitelist": "file", "format_whitelist": facts.kind}
        try:
            self.container: Any = av.open(str(path), options=options, metadata_errors="replace")
        except self.errors as error:
            raise _undecodable(path, "pyav", error) from None
        if not self.container.streams.video:
            self.close()
            raise DataError(f"{path}: holds no picture, only sound or data")
        self.stream: Any = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1

    @property
    def frames(self) -> int:
        if self._counted is None:
            self._counted = sum(1 for _ in self._decoded())
        return self._counted

    @property
    def fps(self) -> float:
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return width, height

    def read(self, indices: list[int]) -> Tensor:
        wanted, found = set(indices), []
        for i, frame in enumerate(self._decoded()):
            if i in wanted:
                found.append(_pixels(frame))
            if i == indices[-1]:
                break
        if len({f.shape for f in found}) > 1:
            raise DataError(f"{self.path}: its picture changes size along the way; {REMEDY}")
        return torch.stack(found).permute(0, 3, 1, 2) if found else torch.empty(0, 3, 1, 1, dtype=torch.uint8)

    def _decoded(self) -> Iterator[Any]:
        """Every frame, from the first on. A second pass opens the file anew: seeking back is not exact everywhere."""
        if self._used:
            again = _PyAV(self.path, self.facts)
            try:
                yield from again._decoded()
            finally:
                again.close()
        else:
            self._used = True
            yield from self.container.decode(self.stream)

    def close(self) -> None:
        self.container.close()


def _pixels(frame: Any) -> Tensor:
    """[H, W, 3] uint8 RGB of a PyAV frame, the way up it is meant to be seen."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turns = round(frame.rotation / 90) % 4
    return pixels.rot90(turns) if turns else pixels


class _TorchCodec:
    """torchcodec (optional), its exact mode. Refuses what it cannot jump in, as decord."""

    def __init__(self, path: Path, facts: Facts) -> None:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        self.errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError)
        if not facts.seekable:
            raise _inexact(path, "torchcodec")
        try:
            self.reader: Any = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
        except self.errors as error:
            raise _undecodable(path, "torchcodec", error) from None

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
        return self.reader.get_frames_at(within).data if within else torch.empty(0, 3, 1, 1, dtype=torch.uint8)

    def close(self) -> None:
        self.reader = None


BACKENDS: dict[str, Callable[[Path, Facts], Backend]] = {"decord": _Decord, "pyav": _PyAV, "torchcodec": _TorchCodec}
