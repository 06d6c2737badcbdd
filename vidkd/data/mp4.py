"""What an MP4 file says of its first video track, and where each of its frames lies.

MP4 is a tree of boxes: [size: 4 bytes][type: 4 bytes][content]. ISO/IEC 14496-12 names them, 14496-15 those of H.264.
"""

import itertools
import operator
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from vidkd.data import h264

MAX_MOOV_BYTES = 256 << 20
MAX_BOXES = 1 << 20  # side by side: a film in fragments has two each second
PICTURE_ENTRY_BYTES = 86  # of a sample entry of pictures, before the boxes inside it
MAX_FPS = 1000  # of a film; what asks for more has a damaged clock
UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # the matrix that turns nothing


@dataclass(frozen=True, slots=True)
class Stored:
    """What it takes to hand frames of an H.264 track to a decoder without any other demuxer."""

    configuration: bytes  # the decoder's: the content of avcC
    colours: tuple[int, int, int, int] | None  # primaries, transfer, matrix and range (1: 16..235, 2: full), as H.273
    table: dict[bytes, bytes]  # the boxes of the track's sample table

    def packets(self, file_bytes: int) -> tuple[list[int], list[int], Sequence[int]]:
        """(where each frame begins in the file, its bytes, the numbers of the key frames), frames in order.

        ValueError or struct.error if the table contradicts itself, or a file of `file_bytes`.
        """
        one_size, n = struct.unpack_from(">II", self.table[b"stsz"], 4)
        sizes = [one_size] * n if one_size else list(struct.unpack_from(f">{n}I", self.table[b"stsz"], 12))
        wide = b"co64" in self.table
        chunks = _numbers(self.table[b"co64" if wide else b"stco"], "Q" if wide else "I")
        runs = _numbers(self.table[b"stsc"], "I", columns=3)  # from chunk .. on, so many frames in each, and what else
        if any(b <= a for a, b in itertools.pairwise((0, *runs[::3]))):  # or chunks could come again and again
            raise ValueError("its chunks are out of order")
        if any(description != 1 for description in runs[2::3]):
            raise ValueError("its chunks are of a description that there is not")
        begins: list[int] = []
        for first, in_each, last in zip(runs[::3], runs[1::3], [*runs[3::3], len(chunks) + 1], strict=False):
            for at in chunks[first - 1 : last - 1]:
                begins += itertools.accumulate(sizes[len(begins) : len(begins) + in_each - 1], initial=at)
        keys = [number - 1 for number in _numbers(self.table[b"stss"], "I")] if b"stss" in self.table else range(n)
        if not n or len(begins) != n:
            raise ValueError(f"its chunks hold {len(begins)} frames instead of {n}")
        if not keys or keys[0] != 0 or keys[-1] >= n or any(b <= a for a, b in itertools.pairwise(keys)):
            raise ValueError("its key frames are out of order")
        if max(map(operator.add, begins, sizes)) > file_bytes:
            raise ValueError("frames lie beyond its end: it was cut short")
        return begins, sizes, keys


@dataclass(frozen=True, slots=True)
class Track:
    """The first video track."""

    codec: str  # avc1, hvc1, vp09, mp4v, ...
    width: int  # px
    height: int
    frames: int
    fps: float  # the mean; 0 where it does not say
    plain: bool  # frames are stored in the order they are shown, each at its own time, and all are shown
    stored: Stored | None  # of a plain H.264 track that is meant to be seen as it is


@dataclass(frozen=True, slots=True)
class Times:
    """When the frames of a track are shown, added up."""

    rate: int  # ticks a second
    frames: int  # that have a time
    ticks: int  # of all of them
    each_lasts: bool  # some time

    def of_all(self, frames: int) -> bool:
        """Whether each of so many frames has a time of its own, as a film has it."""
        return self.each_lasts and self.frames == frames > 0 and frames * self.rate <= MAX_FPS * self.ticks


def find_moov(file: BinaryIO, file_bytes: int) -> bytes | None:
    """The content of the box that describes the film; None where there is none, or no end of it."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > file_bytes:
            return None
        file.seek(at)
        head = file.read(16)
        size, kind = struct.unpack(">I4s", head[:8])
        header = 8
        if size == 1 and len(head) == 16:
            size, header = struct.unpack(">Q", head[8:])[0], 16
        elif size == 0:
            size = file_bytes - at
        if size < header:
            return None
        if kind == b"moov":
            if size > MAX_MOOV_BYTES or at + size > file_bytes:
                return None
            file.seek(at + header)
            return file.read(size - header)
        at += size
    return None


def video_track(moov: bytes) -> Track | None:
    """What moov says of the first video track; None without one.

    struct.error, IndexError, KeyError or ValueError if it is damaged.
    """
    boxes = dict(_boxes(moov))
    for kind, content in _boxes(moov):
        if kind != b"trak":
            continue
        track = dict(_boxes(content))
        media = dict(_boxes(track[b"mdia"]))
        if media[b"hdlr"][8:12] != b"vide":
            continue
        table = dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
        entry = table[b"stsd"][8:]
        codec = entry[4:8].decode("latin-1")
        width, height = struct.unpack_from(">HH", entry, 32)
        frames = struct.unpack_from(">I", table[b"stsz"], 8)[0] if b"stsz" in table else 0
        inside = dict(_boxes(entry[PICTURE_ENTRY_BYTES : struct.unpack_from(">I", entry)[0]]))
        times = Times(_clock(media[b"mdhd"]), *_added_up(table))
        in_order = b"ctts" not in table and b"mvex" not in boxes and times.of_all(frames)
        # Some files lack composition times although their frames are stored in another order than they are shown.
        in_order = in_order and (codec != "avc1" or h264.keeps_order(inside.get(b"avcC", b"")))
        plain = in_order and not _has_empty_frames(table) and _shows_everything(boxes, track, times)
        upright = plain and _is_upright(boxes[b"mvhd"], 36) and _is_upright(track[b"tkhd"], 40)
        stored = _stored(table, inside) if upright and codec == "avc1" else None
        fps = frames * times.rate / times.ticks if times.ticks else 0.0
        return Track(codec, width, height, frames, fps, plain, stored)
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(content):
            return
        size, kind = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", content, at + 8)[0], 16
        elif size == 0:
            size = len(content) - at
        if size < header:
            return
        yield kind, content[at + header : at + size]
        at += size


def _stored(table: dict[bytes, bytes], inside: dict[bytes, bytes]) -> Stored | None:
    """`inside`: the boxes of its sample entry. None where there is more to know than we read here: a demuxer knows."""
    whole = {b"stsz", b"stsc"} <= table.keys() and (b"stco" in table or b"co64" in table)
    one_configuration = struct.unpack_from(">I", table[b"stsd"], 4)[0] == 1
    colours = inside.get(b"colr", b"")
    if not whole or not one_configuration or b"avcC" not in inside or b"clap" in inside:
        return None
    if not colours:
        return Stored(inside[b"avcC"], None, table)
    if colours[:4] != b"nclx":
        return None
    *standard, full = struct.unpack_from(">HHHB", colours, 4)
    return Stored(inside[b"avcC"], (standard[0], standard[1], standard[2], 2 if full & 0x80 else 1), table)


def _added_up(table: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """(frames that have a time, ticks of all, whether each lasts some): stts holds runs of frames, ticks of each."""
    times = table[b"stts"]
    frames, ticks, each_lasts = 0, 0, True
    for n, each in struct.iter_unpack(">II", times[8 : 8 + 8 * struct.unpack_from(">I", times, 4)[0]]):
        frames, ticks, each_lasts = frames + n, ticks + n * each, each_lasts and each > 0
    return frames, ticks, each_lasts


def _has_empty_frames(table: dict[bytes, bytes]) -> bool:
    """Whether frames have no bytes: demuxers pass over those, and number the others anew."""
    if b"stsz" not in table:
        return False
    one_size, n = struct.unpack_from(">II", table[b"stsz"], 4)
    return not one_size and not all(size for (size,) in struct.iter_unpack(">I", table[b"stsz"][12 : 12 + 4 * n]))


def _numbers(box: bytes, kind: str, columns: int = 1) -> tuple[int, ...]:
    """The table of numbers in a box, row by row; how many rows stands before it."""
    return struct.unpack_from(f">{columns * struct.unpack_from('>I', box, 4)[0]}{kind}", box, 8)


def _is_upright(header: bytes, at: int) -> bool:
    """Whether a film or track is shown as it is stored, neither turned nor mirrored nor moved; `at`: its matrix."""
    at += 12 if header[0] else 0
    return header[at : at + 36] == UPRIGHT


def _shows_everything(movie: dict[bytes, bytes], track: dict[bytes, bytes], times: "Times") -> bool:
    """Whether the track's edit list, if it has one, shows all frames from the first to the last."""
    if b"edts" not in track:
        return True
    edits = dict(_boxes(track[b"edts"])).get(b"elst", b"")
    count = struct.unpack_from(">I", edits, 4)[0]
    if count != 1:
        return count == 0
    shown, first = struct.unpack_from(">Qq" if edits[0] else ">Ii", edits, 8)
    frame_s = times.ticks / times.frames / times.rate
    return first == 0 and (not shown or shown / _clock(movie[b"mvhd"]) > (times.frames - 0.5) * frame_s)


def _clock(box: bytes) -> int:
    """Ticks a second, of an mvhd or mdhd box."""
    rate = struct.unpack_from(">I", box, 20 if box[0] else 12)[0]
    if not rate:
        raise ValueError("its clock stands still")
    return rate
