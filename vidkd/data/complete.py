"""Whether a file is as long as it says it is: decoders read what is left of a cut file as if it were all."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from vidkd.data.mp4 import MAX_BOXES


def missing_bytes(path: Path, kind: str) -> int:
    """How many bytes the container announces beyond the end of the file; 0 where it is whole or does not say."""
    measure = {"mov": _mp4_end, "avi": _riff_end, "matroska": _matroska_end}.get(kind)
    if measure is None:
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        return max(0, measure(file, size) - size)


def _mp4_end(file: BinaryIO, size: int) -> int:
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length = struct.unpack(">I", head[:4])[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8:  # 0: up to the end of the file
            return size
        at += length
    return at


def _riff_end(file: BinaryIO, size: int) -> int:
    """AVI: one RIFF chunk, or several where it is larger than 1 GB."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            return size  # something was appended
        if length == 0:  # never finished
            return size + 1
        at += 8 + length
    return at


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Matroska: an EBML header and one segment, whose length may be left open."""
    at, end = 0, size
    for _ in range(2):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12:
            return end
        id_bytes, size_bytes = _width(head[0]), _width(head[4])
        raw = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big")
        length = raw & ((1 << 7 * size_bytes) - 1)
        if id_bytes != 4 or length == (1 << 7 * size_bytes) - 1:
            return size
        at += id_bytes + size_bytes + length
        end = at
    return end


def _width(first: int) -> int:
    """The bytes of an EBML number, told by the leading zeros of its first byte."""
    return 9 - first.bit_length()
