"""The decoders, each behind the same few methods; PyAV, which most files are read by, is in pyav.py.

Nothing else imports them. Which one reads what: decode.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import dlpack

from vidkd.data.mp4 import Stored
from vidkd.errors import DataError

NOTHING = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
FrameKind = tuple[int, int, int]  # width and height as stored, px; degrees by which it is to be turned
AT_ONCE = 8  # frames that a walk decodes in one call
REMEDY = "get the file again, or leave it out by preparing the data set anew (python -m data_prep)"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a backend is told about a file."""

    kind: str  # the container, see container.Header
    timed: bool = False  # every frame has a time of its own: it can be found by that
    decord_is_exact: bool = False
    torchcodec_is_exact: bool = False
    indexed: bool = False  # the container's index holds every frame, by the time it is shown
    stored: Stored | None = None  # where every frame lies in the file
    fps: float = 0.0  # where `stored`


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


def kind_of(frame: Any) -> FrameKind:
    """Of a frame that PyAV decoded."""
    return frame.width, frame.height, frame.rotation


def changing(path: Path, first: FrameKind, other: FrameKind) -> DataError:
    """A clip has one size and one way up; and of an orientation that lies in the frames themselves, decoders pass on
    only where it changes."""
    what = "its picture changes size" if first[:2] != other[:2] else "which way up its picture is to be seen changes"
    return DataError(f"{path}: {what} along the way; {REMEDY}")


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


class TorchCodec:
    """torchcodec (optional), its exact mode. Refuses what it cannot jump in, as decord."""

    def __init__(self, path: Path, facts: Facts) -> None:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        self.errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError)
        if not facts.torchcodec_is_exact:
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
