"""What H.264 says of the order of frames (ITU-T H.264, 7.3.2.1.1 and 8.2.1.3), and of where decoding can begin."""

import functools
from collections.abc import Iterator

HAS_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # profiles that say more
PICTURE = {1, 2}  # kinds of units (7.4.1) that hold a part of a picture that may need others
INTRA = {2, 4}  # types of slices that need no other picture (7.4.3); 5 more say that of all in the picture
START = b"\0\0\1"  # of a unit, where units do not say their length
SLICE_BYTES = 24  # of a slice that are looked at: two numbers stand at its start
STORED_AS_SHOWN = 2  # the pic_order_cnt_type by which frames cannot be reordered


@functools.lru_cache(maxsize=256)  # the videos of a data set have a few between them
def keeps_order(configuration: bytes) -> bool:
    """Whether frames are bound to be shown in the order they are stored, by the content of an avcC box.

    False also where that is left open: a container without composition times is then not to be believed.
    """
    try:
        count, at = configuration[5] & 31, 6
        kinds = []
        for _ in range(count):
            size = int.from_bytes(configuration[at : at + 2], "big")
            kinds.append(_order_count_type(configuration[at + 2 : at + 2 + size]))
            at += 2 + size
    except (IndexError, ValueError):
        return False
    return bool(kinds) and set(kinds) == {STORED_AS_SHOWN}


def is_intra(packet: bytes, configuration: bytes) -> bool:
    """Whether the picture of a packet needs no other one. `configuration`: the content of an avcC box, or none."""
    try:
        return all(_slice_is_intra(unit) for unit in _units(packet, configuration) if unit[0] & 31 in PICTURE)
    except (IndexError, ValueError):
        return False


def _units(packet: bytes, configuration: bytes) -> Iterator[bytes]:
    """The starts of the units of a packet: each after its length, or, without an avcC box, after START."""
    if configuration[:1] != b"\1":
        yield from (unit[:SLICE_BYTES] for unit in packet.split(START)[1:])
        return
    at, wide = 0, (configuration[4] & 3) + 1
    while at + wide < len(packet):
        size = int.from_bytes(packet[at : at + wide], "big")
        at += wide
        yield packet[at : at + min(size, SLICE_BYTES)]
        at += size


def _slice_is_intra(unit: bytes) -> bool:
    bits = _Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
    bits.number()  # its first block
    return bits.number() % 5 in INTRA


def _order_count_type(parameters: bytes) -> int:
    """pic_order_cnt_type of a sequence parameter set; -1 if what stands before it is more than is read here."""
    bits = _Bits(parameters[1:].replace(b"\0\0\3", b"\0\0"))  # without its header and emulation prevention
    profile = bits.fixed(8)
    bits.fixed(16)  # constraints and level
    bits.number()  # its own number
    if profile in HAS_CHROMA_FORMAT:
        if bits.number() == 3:
            bits.fixed(1)  # separate planes
        for _ in ("luma", "chroma"):
            bits.number()  # bits of a sample
        bits.fixed(1)  # a lossless mode
        if bits.fixed(1):  # scaling lists
            return -1
    bits.number()  # the range of frame numbers
    return bits.number()


class _Bits:
    """Bits, the highest of each byte first. IndexError or ValueError beyond the end."""

    def __init__(self, content: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in content)
        self.at = 0

    def fixed(self, count: int) -> int:
        self.at += count
        if self.at > len(self.text):
            raise IndexError("the end")
        return int(self.text[self.at - count : self.at], 2)

    def number(self) -> int:
        """An Exp-Golomb code: n zeros, a one, n bits."""
        zeros = self.text.index("1", self.at) - self.at
        self.at += zeros
        return self.fixed(zeros + 1) - 1
