"""The header of an AVI file: what its first video stream shows, without starting a program to ask."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Picture:
    """What a video stream shows."""

    width: int  # px
    height: int
    fps: Fraction


def picture(path: Path) -> Picture | None:
    """What the header announces; None where it makes no sense. It may be wrong: compare it with what is decoded."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    at = head.find(b"strh")
    while at >= 0:
        form = head.find(b"strf", at)
        if head[at + 8 : at + 12] == b"vids" and 0 <= form < len(head) - 20 and len(head) >= at + 36:
            scale, rate = struct.unpack_from("<II", head, at + 28)
            width, height = struct.unpack_from("<ii", head, form + 12)
            if scale and 0 < rate / scale < 1000 and width > 0 and height != 0:
                return Picture(width, abs(height), Fraction(rate, scale))
            return None
        at = head.find(b"strh", at + 4)
    return None
