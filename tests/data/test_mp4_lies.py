"""MP4 whose tables lie, or say what is rare: the right frames through the demuxer, or an error, never wrong ones."""

import dataclasses
import struct
import time
from pathlib import Path

import pytest
import torch

from data import numbered
from data.films import PREPARED, container_stored, film, frames_or_error, sequence
from vidkd.data import container, decode, h264, pyav
from vidkd.data.decode import Facts
from vidkd.data.pyav import PyAV, PyAVStored
from vidkd.errors import DataError


def _u32(box: bytes, at: int, value: int) -> bytes:
    return box[:at] + struct.pack(">I", value) + box[at + 4 :]


@pytest.mark.parametrize(
    ("box", "at", "value", "told"),
    [
        (b"stco", 8, 1 << 31, "beyond its end"),
        (b"stsc", 12, 3, "chunks hold"),  # frames in each chunk
        (b"stsc", 4, 0, "chunks hold"),
        (b"stsc", 8, 0, "chunks are out of order"),
        (b"stsc", 16, 2, "of a description"),
        (b"stss", 8, 2, "key frames"),
        (b"stss", 12, 1, "key frames"),
        (b"stsz", 12, 1 << 31, "beyond its end"),
        (b"stco", 4, 1 << 30, "unpack_from"),
    ],
)
def test_a_table_that_lies_is_an_error(tmp_path: Path, box: bytes, at: int, value: int, told: str):
    path = film(tmp_path / "x.mp4", PREPARED)
    stored = container.inspect(path).stored
    assert stored is not None
    lying = dataclasses.replace(stored, table=stored.table | {box: _u32(stored.table[box], at, value)})
    with pytest.raises((ValueError, struct.error), match=told):
        lying.packets(path.stat().st_size)
    with pytest.raises(DataError, match=r"x\.mp4: pyav cannot decode it"):
        PyAVStored(path, Facts("mov", timed=True, stored=lying))


def test_chunks_that_come_again_and_again_cost_nothing(tmp_path: Path):
    """A table of a few megabytes could ask for as many frames as its square."""
    path = film(tmp_path / "x.mp4", PREPARED)
    stored = container.inspect(path).stored
    assert stored is not None
    again = struct.pack(">II", 0, 2000) + struct.pack(">6I", 1, 1, 1, 2001, 1, 1) * 1000  # all chunks, a thousand times
    chunks = struct.pack(">II", 0, 2000) + bytes(4 * 2000)
    lying = dataclasses.replace(stored, table=stored.table | {b"stsc": again, b"stco": chunks})
    with pytest.raises(ValueError, match="chunks are out of order"):
        lying.packets(path.stat().st_size)


def test_a_stream_larger_than_its_header_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = film(tmp_path / "x.mp4", PREPARED, frames=3)
    pyav._idle.clear()
    monkeypatch.setattr(container, "MAX_PIXELS", 128 * 96 - 1)
    facts = Facts("mov", timed=True, stored=container_stored(path))
    with pytest.raises(DataError, match=r"x\.mp4: "):
        decode.Video(path, "pyav", PyAVStored(path, facts)).get([0])


def without_composition_times(path: Path) -> Path:
    """As some programs write it: no times but those at which frames are stored, and no edit list."""
    content = path.read_bytes()
    assert content.count(b"ctts") == content.count(b"edts") == 1
    path.write_bytes(content.replace(b"ctts", b"free").replace(b"edts", b"free"))
    return path


def test_frames_out_of_order_that_do_not_say_so_are_counted_from_the_start(tmp_path: Path):
    """Its times would have another frame found than the one that is shown then."""
    path = without_composition_times(numbered.encode(tmp_path / "x.mp4", numbered.KINDS["h264_b_frames"][1]))
    assert not container.inspect(path).plain
    with pytest.raises(DataError, match="decord returns other frames"):
        decode.open_video(path, "decord")
    for indices in ([3], [1, 2], [24, 25, 26, 27], list(range(90))):
        with decode.open_video(path) as video:
            assert video.frames == 90 and numbered.numbers(video.get(indices)) == indices


def test_stored_frames_that_come_out_of_order_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Were the decoder's configuration to lie."""
    path = without_composition_times(numbered.encode(tmp_path / "x.mp4", numbered.KINDS["h264_b_frames"][1]))
    monkeypatch.setattr(h264, "keeps_order", lambda _: True)
    told = []
    for i in range(30):
        found = frames_or_error(path, [i])
        if isinstance(found, str):
            told.append(found)
        else:
            assert numbered.numbers(found) == [i]
    assert 0 < len(told) < 30 and all("damaged or out of order" in text for text in told)


@pytest.mark.parametrize("keys", [None, (1, 2, 17, 18, 33), range(1, 51)])
def test_frames_that_are_wrongly_called_key_frames(tmp_path: Path, keys: list[int] | None):
    """No list of key frames means that all are. A frame that is none would be made of nothing."""
    path = film(tmp_path / "x.mp4", f"-movflags +faststart {PREPARED}")
    whole, content = sequence(path), path.read_bytes()
    at = content.index(b"stss") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    stored = container_stored(path)
    told = struct.pack(f">II{len(keys)}I", 0, len(keys), *keys) if keys else None
    table = {name: box for name, box in stored.table.items() if name != b"stss"} | ({b"stss": told} if told else {})
    lying = dataclasses.replace(stored, table=table)
    for indices in ([0], [1], [15], [16], [31, 32], [49], list(range(9, 40, 5))):
        video = decode.Video(path, "pyav", PyAVStored(path, Facts("mov", timed=True, indexed=True, stored=lying)))
        assert torch.equal(video.get(indices), whole[indices])
        video.close()
    path.write_bytes(content[: at + 4] + b"free" + content[at + 8 :])
    assert size > 16
    for indices in ([15], [31, 32], [49]):
        with decode.open_video(path) as video:
            assert torch.equal(video.get(indices), whole[indices])


def put(box: bytes, at: int, *values: int):
    """A change to the file: these numbers, `at` bytes into the content of the first such box."""

    def change(content: bytearray) -> None:
        struct.pack_into(f">{len(values)}I", content, content.index(box) + 4 + at, *values)

    return change


ODD = {
    "a frame without a time": put(b"stts", 8, 49),
    "a time without a frame": put(b"stts", 8, 51),
    "no times": put(b"stts", 4, 0),
    "frames that last nothing": put(b"stts", 12, 0),
    "a million frames a second": put(b"mdhd", 12, 512 * 10**6),
    "cut by its edit list": put(b"stts", 12, 1024),
    "begun late by its edit list": put(b"elst", 12, 512),
    "turned as a whole": put(b"mvhd", 36, 0, 1 << 16, 0, (1 << 32) - (1 << 16), 0),
    "of no bytes": put(b"stsz", 12 + 4 * 40, 0),
    "larger than any": lambda content: content.__setitem__(
        slice(content.index(b"stco"), content.index(b"stco") + 4), b"co64"
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_films_are_left_to_the_demuxer_or_refused(tmp_path: Path, name: str):
    """What FFmpeg shows of it in sequence is what is found in it, or there is one error."""
    path = film(tmp_path / "x.mp4", PREPARED)
    content = bytearray(path.read_bytes())
    ODD[name](content)
    path.write_bytes(content)
    assert container_stored(path) is None or name == "larger than any"
    found, in_sequence = frames_or_error(path, [0, 17]), PyAV(path, Facts("mov"))
    assert isinstance(found, str) or torch.equal(found, in_sequence.read([0, 17]))
    in_sequence.close()


def test_a_clock_that_stands_still(tmp_path: Path):
    path = film(tmp_path / "x.mp4", PREPARED)
    content = bytearray(path.read_bytes())
    put(b"mdhd", 12, 0)(content)
    path.write_bytes(content)
    with pytest.raises(DataError, match="clock stands still"):
        decode.open_video(path)


def test_a_file_of_nothing_but_boxes_is_soon_given_up(tmp_path: Path):
    path = tmp_path / "x.mp4"
    path.write_bytes(struct.pack(">I4s", 8, b"free") * (3 << 20))
    began = time.process_time()
    with pytest.raises(DataError, match="no moov box"):
        decode.open_video(path)
    assert time.process_time() - began < 10
