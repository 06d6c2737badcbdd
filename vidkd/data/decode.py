"""Videos to frames, index for index, by the decoder that is exact for the file.

Frames are decoded at their own size; resizing is ours alone (transforms.py), so clips do not depend on the decoder.
A video is opened, read and closed: a decord reader that is kept goes on decoding into memory in the background.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from av.codec.context import Flags
from torch import Tensor

from vidkd.data import container, features, h264, orientation, packed
from vidkd.data.container import Header
from vidkd.data.decoders import (
    REMEDY,
    Backend,
    Decord,
    Facts,
    TorchCodec,
    changing,
    kind_of,
    undecodable,
)
from vidkd.data.pyav import PyAV, PyAVStored, pyav_reads_index
from vidkd.errors import ConfigError, DataError, one_of

Decoder = Literal["auto", "decord", "torchcodec", "pyav"]


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
        return self._size_px()[0]

    @property
    def height(self) -> int:
        return self._size_px()[1]

    def _size_px(self) -> tuple[int, int]:
        with self._errors():
            return self.backend.size_px

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

    def walk(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """[3, H, W] uint8 RGB: the frames at `indices`, ascending and each once, one by one, in bounded memory."""
        found = 0
        with self._errors():
            for frame in self.backend.walk(list(indices)):
                yield frame
                found += 1
        if found < len(indices):
            raise DataError(f"{self.path}: it has no frame {indices[found]} (the first is 0); {REMEDY}")

    def close(self) -> None:
        self.backend.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self.backend.errors as error:
            raise undecodable(self.path, self.decoder, error) from None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(path: Path, decoder: Decoder = "auto") -> Video:
    """Open the video file `path`; DataError, naming it and what to do, if it is none or cannot be decoded.

    Frames that data_prep packed, and features, have readers of their own, whatever `decoder` says.
    """
    path = path.absolute()  # no name can pass for a protocol or an option
    header = container.inspect(path)
    if header.kind == "packed":
        return Video(path, "packed", packed.Packed(path, header))
    if header.kind == "features":
        return Video(path, "features", features.Features(path))
    facts = _facts(path, header, decoder)
    name = _quickest(facts) if decoder == "auto" else decoder
    check(name)
    return Video(path, name, BACKENDS[name](path, facts))


def check(decoder: str) -> None:
    """ConfigError for a decoder that there is not, or that is not installed here."""
    if decoder not in (*BACKENDS, "auto"):
        raise ConfigError(one_of(decoder, sorted(BACKENDS), "decoder"))
    if decoder != "auto" and not _installed(decoder):
        raise ConfigError(
            f"data.decoder: {decoder} is not installed here: pip install {decoder}, or choose another one"
        )


def decoder_of(path: Path, decoder: Decoder = "auto") -> str:
    """The name of the decoder that reads the video file `path`; DataError and ConfigError as `open_video`."""
    with open_video(path, decoder) as video:
        return video.decoder


def pack(video: Video, target: Path, form: packed.Form, made: Iterator[Tensor] | None = None) -> tuple[int, int]:
    """Write all frames of the video, or what was `made` of each, into the file `target` as `form`; (width, height)."""
    return packed.write(target, form, made or video.walk(range(video.frames)), video.frames, video.fps)


def decoder_versions() -> dict[str, str]:
    """The decoders that are installed: for the protocol of results."""
    versions = {}
    for package in ("decord", "decord2", "torchcodec", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _quickest(facts: Facts) -> str:
    """The decoder for `auto`: the quickest that is exact on the file (measured: docs/performance.md)."""
    if facts.stored or (facts.indexed and pyav_reads_index()):  # as prepared videos are
        return "pyav"
    return "decord" if facts.decord_is_exact and _installed("decord") else "pyav"


@functools.cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec({"pyav": "av"}.get(name, name)) is not None


# Which decoder reads what exactly: measured, tests/data/test_decode.py.

DECORD_MIN_WIDTH_PX = 80  # its copy of a frame fails at widths 16, 24, 48 and 72, whose rows FFmpeg pads


def _facts(path: Path, header: Header, decoder: Decoder) -> Facts:
    # The other decoders jump to whatever the container calls a key frame: what that is, only a look at it tells.
    to_pyav = decoder == "pyav" or (decoder == "auto" and (header.stored or pyav_reads_index()))
    if header.plain and header.codec in ("avc1", "vp09") and to_pyav:
        return Facts(header.kind, timed=True, indexed=True, stored=header.stored, fps=header.fps)
    status = path.stat()
    return _probe(path, header.kind, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _probe(path: Path, kind: str, _bytes: int, _changed_ns: int) -> Facts:
    """Read the packets, and decode the first frames and those that begin a group. DataError where they are not alike.

    A picture that is whole only some frames after its "key frame" (intra refresh) is not to be jumped to: decord
    counts from the first one that is, and PyAV's has traces of what was before.

    decord looks for the time a key frame is shown at among the times that packets are stored at. Where frames are
    stored in another order than they are shown (B-frames), it lands on a later key frame, goes back, and is off by a
    frame or two where the file ends soon after. So it gets only files without, of codecs that its old FFmpeg knows.
    Of a film in fragments, torchcodec misses frames near the end where they are stored in another order.

    Of several videos in one file both read the largest, PyAV and data_prep the first. Neither mirrors what is meant to
    be seen mirrored, and decord does not turn what an .mkv says is to be turned. Their pixels are others of interlaced
    pictures, of more than 8 bits, and where the header cuts off the left border. VP9 may change its size at any frame.
    """
    backend = PyAV(path, Facts(kind))
    try:
        codec = backend.stream.codec_context
        codec.flags &= ~Flags.unaligned  # as the other decoders see it
        container.check_size(path, codec.width, codec.height, backend.stream.frames)
        if kind not in ("mov", "matroska"):  # in AVI and MPEG-TS, times are missing or not a frame's own
            return Facts(kind)
        packets, whole, name, first, alike, usual = [], True, codec.codec.canonical_name, None, 0, True
        for packet in backend.container.demux(backend.stream):
            if alike < 2 or packet.is_keyframe or not packet.size:
                for frame in _completed_by(packet):
                    first, alike, usual = first or frame, alike + 1, usual and _is_usual(frame, codec.width)
                    if kind_of(frame) != kind_of(first):
                        raise changing(path, kind_of(first), kind_of(frame))
            if packet.size:
                packets.append((packet.pts, packet.is_keyframe, packet.is_discard))
                if packet.is_keyframe and name == "h264":
                    whole = whole and h264.is_intra(bytes(packet), codec.extradata or b"")
        times = [time for time, _, _ in packets]
        if None in times or len(set(times)) < len(times) or any(discarded for _, _, discarded in packets) or not whole:
            return Facts(kind)
        matrix = first and orientation.matrix_of(first)
        alone = len(backend.container.streams.video) == 1
        as_meant = orientation.is_straight(matrix) and not orientation.is_mirrored(matrix)
        in_order = times == sorted(times) and len(times) > 1 and packets[0][1]
        if in_order and codec.has_b_frames:  # the decoder reorders frames, and no packet says so
            return Facts(kind)
        known = name in ("h264", "vp8") and codec.width >= DECORD_MIN_WIDTH_PX
        known = known and (matrix is None or kind == "mov")
        in_fragments = kind == "mov" and backend.stream.frames != len(packets)
        return Facts(
            kind,
            timed=True,
            decord_is_exact=alone and as_meant and usual and in_order and known,
            torchcodec_is_exact=alone and as_meant and usual and not (in_fragments and times != sorted(times)),
        )
    except backend.errors as error:
        raise undecodable(path, "pyav", error) from None
    finally:
        backend.close()


def _completed_by(packet: Any) -> list[Any]:
    """The frames that the packet completes; none also where it is damaged, which reading will say."""
    try:
        return packet.decode()
    except PyAV.errors:
        return []


def _is_usual(frame: Any, width_px: int) -> bool:
    """Whether all decoders make the same pixels of it; `width_px` as its header has it."""
    eight_bit = all(component.bits == 8 for component in frame.format.components)
    return eight_bit and not frame.interlaced_frame and frame.width == width_px


def _pyav(path: Path, facts: Facts) -> Backend:
    return (PyAVStored if facts.stored else PyAV)(path, facts)


BACKENDS: dict[str, Callable[[Path, Facts], Backend]] = {"decord": Decord, "pyav": _pyav, "torchcodec": TorchCodec}
