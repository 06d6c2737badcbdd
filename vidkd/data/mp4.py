"""What an MP4 file says of its first video track, and where each of its frames lies.

MP4 is a tree of boxes: [size: 4 bytes][type: 4 bytes][content]. ISO/IEC 14496-12 names them, 14496-15 those of H.264.
"""

import itertools
import operator
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

MAX_MOOV_BYTES = 256 << 20
PICTURE_ENTRY_BYTES = 86  # of a sample entry of pictures, before the boxes inside it
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


def find_moov(file: BinaryIO, file_bytes: int) -> bytes | None:
    """The content of the box that describes the film; None where there is none, or no end of it."""
    at = 0
    while at + 8 <= file_bytes:
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
    """What moov says of the first video track; None without one. struct.error, IndexError or KeyError if damaged."""
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
        times = table[b"stts"]  # [frames, ticks a frame], as often as it says
        runs = list(struct.iter_unpack(">II", times[8 : 8 + 8 * struct.unpack_from(">I", times, 4)[0]]))
        in_order = b"ctts" not in table and b"mvex" not in boxes and all(ticks for _, ticks in runs)
        plain = in_order and _shows_everything(boxes, track, media, frames)
        ticks = sum(n * each for n, each in runs)
        fps = frames * _clock(media[b"mdhd"])[0] / ticks if ticks else 0.0
        stored = _stored(table, entry) if plain and codec == "avc1" and _is_upright(track[b"tkhd"]) else None
        return Track(codec, width, height, frames, fps, plain, stored)
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
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


def _stored(table: dict[bytes, bytes], entry: bytes) -> Stored | None:
    """None where there is more to know than we read here: another demuxer knows it."""
    inside = dict(_boxes(entry[PICTURE_ENTRY_BYTES : struct.unpack_from(">I", entry)[0]]))
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


def _numbers(box: bytes, kind: str, columns: int = 1) -> tuple[int, ...]:
    """The table of numbers in a box, row by row; how many rows stands before it."""
    return struct.unpack_from(f">{columns * struct.unpack_from('>I', box, 4)[0]}{kind}", box, 8)


def _is_upright(header: bytes) -> bool:
    """Whether the track is shown as it is stored, neither turned nor mirrored nor moved."""
    at = 52 if header[0] else 40
    return header[at : at + 36] == UPRIGHT


def _shows_everything(movie: dict[bytes, bytes], track: dict[bytes, bytes], media: dict[bytes, bytes], n: int) -> bool:
    """Whether the track's edit list, if it has one, shows all `n` frames from the first to the last."""
    if b"edts" not in track:
        return True
    edits = dict(_boxes(track[b"edts"])).get(b"elst", b"")
    count = struct.unpack_from(">I", edits, 4)[0]
    if count != 1:
        return count == 0
    shown, first = struct.unpack_from(">Qq" if edits[0] else ">Ii", edits, 8)
    movie_rate, _ = _clock(movie[b"mvhd"])
    media_rate, duration = _clock(media[b"mdhd"])
    frame_s = duration / media_rate / max(n, 1)
    return first == 0 and (not shown or shown / movie_rate > duration / media_rate - frame_s / 2)


def _clock(box: bytes) -> tuple[int, int]:
    """(ticks a second, duration in ticks) of an mvhd or mdhd box."""
    return struct.unpack_from(">IQ", box, 20) if box[0] else struct.unpack_from(">II", box, 12)
