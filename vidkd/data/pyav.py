"""PyAV, on one thread: any file through FFmpeg's demuxers, and prepared ones without, which is most of opening."""

import bisect
import functools
import itertools
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter
from torch import Tensor

from vidkd.data import container, orientation
from vidkd.data.decoders import NOTHING, REMEDY, Facts, FrameKind, changing, kind_of, undecodable
from vidkd.data.mp4 import Stored
from vidkd.errors import DataError

IDLE = 4  # decoders that are kept for the next file like theirs: making one costs as much as several small frames
IDLE_PIXELS = 1 << 18  # and the largest pictures of such, for a decoder keeps a score of them
READ_BYTES = 1 << 16
_idle: OrderedDict[object, Any] = OrderedDict()


@functools.cache
def pyav_reads_index() -> bool:
    """Whether PyAV can tell a container's index without reading all packets: from version 17 on."""
    return int(av.__version__.split(".")[0]) >= 17


class PyAV:
    """Finds frames by their times where each has its own, else counts them from the start."""

    errors: tuple[type[Exception], ...] = (av.error.FFmpegError,)

    def __init__(self, path: Path, facts: Facts) -> None:
        self.path, self.facts = path, facts
        self.frame_kind: FrameKind | None = None  # of all its frames
        # It would start a thread for every core, for each frame; before version 17 it had none.
        one_thread = {"threads": 1} if pyav_reads_index() else {}
        self.to_rgb = functools.partial(VideoReformatter().reformat, format=av.VideoFormat("rgb24"), **one_thread)
        try:
            self.open()
        except self.errors as error:
            raise undecodable(path, "pyav", error) from None

    def open(self) -> None:
        options = {"protocol_whitelist": "file", "format_whitelist": self.facts.kind}
        self.container: Any = av.open(str(self.path), options=options, metadata_errors="replace")
        if not self.container.streams.video:
            self.close()
            raise DataError(f"{self.path}: holds no picture, only sound or data")
        self.stream: Any = self.container.streams.video[0]
        _prepare(self.stream.codec_context)

    @functools.cached_property
    def times(self) -> tuple[Sequence[int], Sequence[int]]:
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
        found, n = np.empty(0, np.uint8), 0
        for frame in self._decoded(indices):
            pixels = self._pixels(frame)
            if n == 0:
                found = np.empty((len(indices), *pixels.shape), np.uint8)
            found[n] = pixels
            n += 1
        return _rgb(torch.from_numpy(found[:n])) if n else NOTHING

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        for frame in self._decoded(indices):
            yield _rgb(torch.from_numpy(self._pixels(frame)))

    def close(self) -> None:
        self.container.close()

    def matrix_of(self, frame: Any) -> orientation.Matrix | None:
        """How the frame is to be turned, if it is."""
        return orientation.matrix_of(frame)

    def _decoded(self, indices: list[int]) -> Iterator[Any]:
        return (self._by_time if self.facts.timed else self._by_count)(indices)

    def _by_count(self, indices: list[int]) -> Iterator[Any]:
        wanted = set(indices)
        return (f for i, f in enumerate(itertools.islice(self._from_the_start(), indices[-1] + 1)) if i in wanted)

    def _alike(self, decoding: Iterator[Any]) -> Iterator[Any]:
        """The same frames; DataError at one that is of another kind than the first."""
        for frame in decoding:
            kind = kind_of(frame)
            self.frame_kind = self.frame_kind or kind
            if kind != self.frame_kind:
                raise changing(self.path, self.frame_kind, kind)
            yield frame

    def _from_the_start(self) -> Iterator[Any]:
        again = PyAV(self.path, self.facts)  # seeking back to the start is not exact in every container
        try:
            yield from self._alike(again.container.decode(again.stream))
        finally:
            again.close()

    def _by_time(self, indices: list[int]) -> Iterator[Any]:
        """The frames, each known by its time: one that jumping does not find is looked for from earlier on."""
        times, keys = self.times
        if not times:
            return
        decoding: Iterator[Any] = iter(())
        at = times[0] - 1  # the time of the frame decoded last
        for wanted in (times[i] for i in indices if i < len(times)):
            key = max(bisect.bisect_right(keys, wanted) - 1, 0)
            frame = None if keys[key] > at else _until(decoding, wanted)
            while frame is None and key >= 0:
                decoding = self._from_key(keys[key])
                if self.facts.indexed:  # nothing was read of the frames yet: the index may call any a key frame
                    decoding = _if_key(decoding)
                frame, key = _until(decoding, wanted), key - 1
            if frame is None:
                raise DataError(f"{self.path}: its frame {bisect.bisect(times, wanted) - 1} is damaged; {REMEDY}")
            at = wanted
            yield frame

    def _from_key(self, time: int) -> Iterator[Any]:
        """All frames from the key frame shown at `time` on."""
        self.container.seek(time, stream=self.stream)
        return self._alike(self.container.decode(self.stream))

    def _pixels(self, frame: Any) -> np.ndarray:
        """[H, 3 W] uint8, red, green, blue of each pixel, the way up it is meant to be seen; the frame's own memory."""
        plane: Any = self.to_rgb(frame).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : 3 * plane.width]
        matrix = self.matrix_of(frame)
        if matrix is None:
            return rows
        if not orientation.is_straight(matrix):
            raise DataError(
                f"{self.path}: its pictures are to be shown turned by less than a right angle: prepare the data set "
                "(python -m data_prep), which does that"
            )
        turned = orientation.upright(rows.reshape(len(rows), -1, 3), matrix)
        return turned.reshape(len(turned), -1)


class PyAVStored(PyAV):
    """H.264 in an MP4 that says where each frame lies: its bytes go straight to the decoder.

    Frames are numbered, so their numbers are their times.
    """

    def open(self) -> None:
        stored = self.facts.stored
        assert stored is not None
        self.file = self.path.open("rb", buffering=READ_BYTES)
        self.kind = (stored.configuration, stored.colours)
        self.reusable = True
        try:
            self.begins, self.sizes, self.keys = stored.packets(os.fstat(self.file.fileno()).st_size)
            self.codec: Any = _idle.pop(self.kind, None) or _decoder(stored)
        except (ValueError, struct.error, *self.errors) as error:
            self.file.close()
            raise undecodable(self.path, "pyav", error) from None

    @property
    def times(self) -> tuple[range, Sequence[int]]:
        return range(len(self.sizes)), self.keys

    @property
    def fps(self) -> float:
        return self.facts.fps

    def matrix_of(self, frame: Any) -> orientation.Matrix | None:
        """The container turns nothing here, so each frame is not searched for it: that would take a while."""
        return orientation.matrix_of(frame) if frame.rotation else None

    def close(self) -> None:
        self.file.close()
        reusable, self.reusable = self.reusable, False  # by one at a time, however often this is closed
        if reusable and self.codec.width * self.codec.height <= IDLE_PIXELS:
            while len(_idle) >= IDLE:
                _idle.popitem(last=False)
            _idle[self.kind] = self.codec

    def _from_key(self, time: int) -> Iterator[Any]:
        """All frames from the key frame `time` on, none if it is no key frame: the decoder would wait for the next.

        DataError where a packet does not become the next frame.
        """
        for number, frame in enumerate(self._alike(self._decoded_from(time)), time):
            if frame.pts != number == time:
                return
            if frame.pts != number:
                raise DataError(f"{self.path}: its frame {number} is damaged or out of order; {REMEDY}")
            yield frame

    def _decoded_from(self, time: int) -> Iterator[Any]:
        self.codec.flush_buffers()
        try:
            for number in range(time, len(self.sizes)):
                self.file.seek(self.begins[number])  # no call of the system where it has been read ahead
                packet = av.Packet(self.file.read(self.sizes[number]))
                packet.pts = number
                yield from self.codec.decode(packet)
            yield from self.codec.decode(None)
        except self.errors:
            self.reusable = False
            raise


def _decoder(stored: Stored) -> Any:
    """A decoder as the file asks for it, on one thread."""
    codec: Any = av.CodecContext.create("h264", "r")
    _prepare(codec)
    codec.extradata = stored.configuration
    codec.options = {"max_pixels": str(container.MAX_PIXELS)}  # the file's header may say less
    if stored.colours:
        codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range = stored.colours
    codec.open()
    return codec


def _prepare(codec: Any) -> None:
    """One thread, and the whole of what a header cuts off: FFmpeg leaves the left border in unless told otherwise."""
    codec.thread_count = 1
    codec.flags |= Flags.unaligned


def _rgb(rows: Tensor) -> Tensor:
    """rows [..., H, 3 W] as [..., 3, H, W]."""
    return rows.unflatten(-1, (-1, 3)).movedim(-1, -3)


def _if_key(decoding: Iterator[Any]) -> Iterator[Any]:
    """The same frames; none if the first is no key frame, for then it lacks what it was made from."""
    first = next(decoding, None)
    if first is not None and first.key_frame:
        yield first
        yield from decoding


def _until(decoding: Iterator[Any], time: int) -> Any | None:
    """The frame shown at `time`; None where one that is shown later comes before it, or the video ends."""
    for frame in decoding:
        if frame.pts is None or frame.pts > time:
            return None
        if frame.pts == time:
            return frame
    return None
