"""What a file says about itself, read before any decoder touches it: its kind, by its first bytes, and its size.

A decoder believes what it finds: a text playlist named .avi makes it open other files, and a header may ask for more
memory than there is. Only regular files of known kinds within the limits below get as far as a decoder.
"""

import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from vidkd.data import mp4
from vidkd.errors import DataError

MAX_PIXELS = 4096 * 4096
MAX_FRAMES = 2_000_000  # 18 hours at 30 frames a second
KINDS = "MP4/MOV, Matroska/WebM, AVI, MPEG-TS, MPEG-PS, ASF/WMV, FLV and Ogg"
PACKED_MAGIC = b"\x8avidkd1\n"
PACKED = struct.Struct("<8s8sIIId")  # magic, form, frames, height, width, frames a second: how packed.py begins a file
PACKED_BYTES = 64  # of which the rest is zero: pixels begin on a cache line


@dataclass(frozen=True, slots=True)
class Header:
    """What is known before decoding; 0 where the container does not say."""

    kind: str  # as ffmpeg names its demuxer: mov, matroska, avi, mpegts, mpeg, asf, flv, ogg; ours: packed, features
    codec: str = ""  # of an MP4's first video track: avc1, hvc1, vp09, mp4v, ...; of packed frames: raw, jpeg, flow
    width: int = 0  # px
    height: int = 0
    frames: int = 0
    plain: bool = False  # see mp4.Track
    fps: float = 0.0
    stored: mp4.Stored | None = None  # where the frames of a plain H.264 track lie


def inspect(path: Path) -> Header:
    """The header of the video file `path`; DataError if it is no regular file, no video, or beyond the limits."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: not a regular file")
        with path.open("rb") as file:
            kind = sniff(file.read(1024))
            if not kind:
                size = "it is empty" if not status.st_size else "its first bytes are of no video container"
                raise DataError(f"{path}: not a video ({size}); there are readers for {KINDS}")
            read = {"mov": _mp4_header, "packed": _packed_header}.get(kind)
            header = read(path, file, status.st_size) if read else Header(kind)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({reason})") from None
    check_size(path, header.width, header.height, header.frames)
    return header


def sniff(head: bytes) -> str:
    """The container that starts with the bytes `head`, as ffmpeg names its demuxer; "" for anything else."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi"
    if head.startswith(PACKED_MAGIC):
        return "packed"
    if head.startswith(b"\x93NUMPY"):
        return "features"
    starts = {b"\x1a\x45\xdf\xa3": "matroska", b"\x30\x26\xb2\x75": "asf", b"FLV\x01": "flv", b"OggS": "ogg"}
    if head[:4] in starts:
        return starts[head[:4]]
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    for first, packet in ((0, 188), (4, 192)):  # a sync byte at the start of every packet
        if len(head) > first + 3 * packet and all(head[first + k * packet] == 0x47 for k in range(4)):
            return "mpegts"
    return ""


def check_size(path: Path, width: int, height: int, frames: int) -> None:
    """DataError if decoding this would take more memory or time than any training video should."""
    if width * height > MAX_PIXELS or frames > MAX_FRAMES:
        raise DataError(
            f"{path}: {width}x{height} px, {frames} frames: the limits are {MAX_PIXELS} px a frame and "
            f"{MAX_FRAMES} frames. Make it smaller or cut it first"
        )


def _packed_header(path: Path, file: BinaryIO, file_bytes: int) -> Header:
    """The first bytes of what packed.py wrote, which must agree with the length of the file."""
    try:
        file.seek(0)
        _, form, frames, height, width, fps = PACKED.unpack(file.read(PACKED.size))
        form = form.rstrip(b"\0").decode("latin-1")
        expected = PACKED_BYTES + frames * height * width * 3
        if form in ("jpeg", "flow"):
            file.seek(PACKED_BYTES + 8 * frames)
            (expected,) = struct.unpack("<Q", file.read(8))
    except struct.error:
        _broken(path, "it was cut short")
    if form not in ("raw", "jpeg", "flow") or not frames * height * width or not 0 <= fps < math.inf:
        _broken(path, "its header is damaged")
    if expected != file_bytes:
        _broken(path, f"it has {file_bytes} bytes, its header asks for {expected}")
    return Header("packed", form, width, height, frames, fps=fps)


def _mp4_header(path: Path, file: BinaryIO, file_bytes: int) -> Header:
    moov = mp4.find_moov(file, file_bytes)
    if moov is None:
        _broken(path, "it has no moov box: it was cut short, or never finished")
    try:
        track = mp4.video_track(moov)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        _broken(path, f"its moov box is damaged ({error!r})")
    if track is None:
        return Header("mov")
    size = track.width, track.height, track.frames
    return Header("mov", track.codec, *size, track.plain, track.fps, track.stored)


def _broken(path: Path, why: str) -> NoReturn:
    raise DataError(f"{path}: cannot be decoded: {why}; get the file again")
