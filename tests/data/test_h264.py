"""Which packets of H.264 begin anew: units written bit by bit as the standard says (ITU-T H.264, 7.3)."""

import re

import pytest

from vidkd.data import h264

P, B, INTRA, SP, SI = range(5)  # types of slices (7.4.3)
PART, PARTITION, WHOLE, PARAMETERS, NOTES = 1, 2, 5, 7, 6  # kinds of units (7.4.1)
LENGTHS_OF = {wide: b"\1\x64\0\x1e" + bytes([0xFC | (wide - 1)]) for wide in (1, 2, 4)}  # the start of an avcC box
ANY = b"\x80\x40\x20" * 20


def code(number: int) -> str:
    """An Exp-Golomb code."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def unit(kind: int, slice_type: int = 0, first_block: int = 0) -> bytes:
    """A unit that starts as a slice does."""
    bits = code(first_block) + code(slice_type) + "1"
    bits += "0" * (-len(bits) % 8)
    content = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return bytes([0x60 | kind]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content) + ANY


def after_lengths(units: list[bytes], wide: int = 4) -> bytes:
    return b"".join(len(own).to_bytes(wide, "big") + own for own in units)


def after_start_codes(units: list[bytes]) -> bytes:
    return b"".join(b"\0" * (i % 2) + b"\0\0\1" + own for i, own in enumerate(units))


PICTURES = [
    ([unit(WHOLE, 5 + INTRA)], True),
    ([unit(PART, INTRA)], True),
    ([unit(PART, SI)], True),
    ([unit(PART, 5 + INTRA)], True),
    ([unit(PART, 5 + SI)], True),
    ([unit(PART, P)], False),
    ([unit(PART, B)], False),
    ([unit(PART, SP)], False),
    ([unit(PART, 5 + P)], False),
    ([unit(PARTITION, P)], False),  # of a slice in three units
    ([unit(NOTES, P), unit(PARAMETERS, P), unit(WHOLE, 5 + INTRA)], True),  # only slices are looked at
    ([unit(PART, INTRA), unit(PART, P, 16)], False),  # each of them
    ([unit(PART, P), unit(PART, INTRA, 16)], False),
    ([unit(PART, INTRA, 139_263)], True),  # the last block of the largest picture
    ([unit(PART, P, 139_263)], False),
    ([unit(PART, INTRA, 5_000_000)], True),  # 22 zeros: a byte stands after 16 that is none of its bits
    ([unit(PART, P, 5_000_000)], False),
]


@pytest.mark.parametrize(("units", "intra"), PICTURES)
def test_a_picture_that_needs_no_other(units: list[bytes], intra: bool):
    for wide, configuration in LENGTHS_OF.items():
        assert h264.is_intra(after_lengths(units, wide), configuration) is intra
    for configuration in (b"", b"\0\0\0\1\x67"):
        assert h264.is_intra(after_start_codes(units), configuration) is intra


@pytest.mark.parametrize("wide", LENGTHS_OF)
def test_a_packet_that_is_cut_short_promises_nothing(wide: int):
    whole = after_lengths([unit(PART, INTRA, 139_263)], wide)
    for cut in range(wide + 1, wide + 5):
        assert not h264.is_intra(whole[:cut], LENGTHS_OF[wide])
    assert not h264.is_intra(whole, LENGTHS_OF[wide][:4])  # nor a configuration
