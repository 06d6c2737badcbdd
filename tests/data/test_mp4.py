"""H.264 read straight from where an MP4 says each frame lies: the same pixels as through FFmpeg's demuxer."""

import dataclasses
import struct
import time
from pathlib import Path

import pytest
import torch

from data import numbered
from vidkd.data import container, decode, h264, pyav
from vidkd.data.decode import Facts
from vidkd.data.pyav import PyAV, PyAVStored
from vidkd.errors import DataError

PREPARED = numbered.KINDS["prepared"][1]


def film(path: Path, options: str, size: str = "128x96", frames: int = 50) -> Path:
    """A moving picture with colours, so that a wrong conversion shows."""
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25"]
    output = ["-frames:v", str(frames), "-pix_fmt", "yuv420p", str(path)]
    numbered.ffmpeg([*source, *options.split(), *output])
    return path


def sequence(path: Path) -> torch.Tensor:
    """[N, 3, H, W]: every frame, from the start to the end, through FFmpeg's demuxer."""
    frames = PyAV(path, Facts("mov"))
    try:
        return frames.read(list(range(frames.frames)))
    finally:
        frames.close()


FILMS = {
    "as prepared": PREPARED,
    "chunks of frames, index in front": f"{PREPARED} -movflags +faststart -chunk_duration 200000",
    "key frames only": "-c:v libx264 -g 1",
    "sound between": f"-f lavfi -i sine=d=2 -c:a aac -shortest {PREPARED}",
    "B.709": f"{PREPARED} -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv",
    "full range": f"{PREPARED} -colorspace bt470bg -color_range pc",
    "colours said by the container alone": f"{PREPARED} -colorspace bt709 -color_range pc "
    "-bsf:v h264_metadata=video_full_range_flag=0:matrix_coefficients=2",
}


@pytest.mark.parametrize("name", FILMS)
def test_the_same_pixels_as_through_the_demuxer(tmp_path: Path, name: str):
    path = film(tmp_path / "x.mp4", FILMS[name])
    whole = sequence(path)
    assert len(whole) == 50
    with decode.open_video(path) as video:
        assert isinstance(video.backend, PyAVStored)
        assert video.frames == 50 and video.fps == pytest.approx(25) and (video.width, video.height) == (128, 96)
    for indices in ([0], [49], [17, 18, 40], [15, 16, 31, 32], list(range(3, 35, 2)), list(range(50))):
        with decode.open_video(path) as video:
            assert torch.equal(video.get(indices), whole[indices])
        with decode.open_video(path) as video:
            assert torch.equal(torch.stack(list(video.walk(indices))), whole[indices])


def test_odd_sides_as_decord_shows_them(tmp_path: Path):
    path = tmp_path / "odd.mp4"
    numbered.encode(path, f"{PREPARED} -pix_fmt yuv444p", frames=20, size=(131, 97))
    with decode.open_video(path, "decord") as one, decode.open_video(path, "pyav") as other:
        assert isinstance(other.backend, PyAVStored)
        assert torch.equal(one.get([3, 17]), other.get([3, 17]))


@pytest.mark.parametrize("kind", ["h264_b_frames", "h264_fragmented", "hevc_mp4", "vp9_webm", "h264_mkv"])
def test_what_is_not_stored_plainly_is_left_to_the_demuxer(tmp_path: Path, kind: str):
    suffix, options = numbered.KINDS[kind]
    assert container.inspect(numbered.encode(tmp_path / f"x{suffix}", options)).stored is None


def test_a_decoder_is_handed_on_and_remembers_nothing(tmp_path: Path):
    pyav._idle.clear()
    one, other = film(tmp_path / "a.mp4", PREPARED), film(tmp_path / "b.mp4", f"-vf negate {PREPARED}")
    larger = film(tmp_path / "c.mp4", PREPARED, size="160x96")
    expected = {path: sequence(path) for path in (one, other, larger)}
    for k in range(6):
        for path in expected:
            with decode.open_video(path) as video:
                assert torch.equal(video.get([5 * k + 7]), expected[path][[5 * k + 7]])
                video.close()  # closed twice: it must not be handed on twice
    assert len(pyav._idle) == 2  # the first two are alike
    with decode.open_video(one) as first, decode.open_video(other) as second:
        assert torch.equal(first.get([20]), expected[one][[20]])
        assert torch.equal(second.get([20]), expected[other][[20]])
        assert torch.equal(first.get([9]), expected[one][[9]])


def test_only_so_many_decoders_are_kept_and_only_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pyav._idle.clear()
    for width in range(96, 96 + 16 * 7, 16):
        with decode.open_video(film(tmp_path / f"{width}.mp4", PREPARED, size=f"{width}x64", frames=3)) as video:
            video.get([2])
        assert len(pyav._idle) <= pyav.IDLE
    pyav._idle.clear()
    monkeypatch.setattr(pyav, "IDLE_PIXELS", 96 * 64 - 1)
    with decode.open_video(tmp_path / "96.mp4") as video:
        video.get([2])
    assert not pyav._idle


def test_damage_is_an_error_and_spoils_no_decoder(tmp_path: Path):
    pyav._idle.clear()
    path = film(tmp_path / "x.mp4", PREPARED)
    header = container.inspect(path)
    assert header.stored is not None
    begins, sizes, _ = header.stored.packets(path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[begins[20] : begins[20] + sizes[20]] = bytes(sizes[20])
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.mp4: "), decode.open_video(damaged) as video:
        video.get([20])
    with decode.open_video(damaged) as video:
        assert torch.equal(video.get([3, 40]), sequence(path)[[3, 40]])


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


def container_stored(path: Path):
    with path.open("rb") as file:
        return container._mp4_header(path, file, path.stat().st_size).stored


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


@pytest.mark.parametrize("options", ["-bf 0", "-bf 0 -profile:v baseline", "-bf 0 -pix_fmt yuv444p", "-bf 0 -qp 0"])
def test_the_order_that_a_configuration_promises(tmp_path: Path, options: str):
    promised = film(tmp_path / "x.mp4", f"-c:v libx264 {options}", frames=3)
    assert container.inspect(promised).plain
    stored = container.inspect(promised).stored
    assert stored is not None and h264.keeps_order(stored.configuration)
    for cut in range(len(stored.configuration) - 1):
        h264.keeps_order(stored.configuration[:cut])  # whatever it says, it ends
    assert not h264.keeps_order(b"") and not h264.keeps_order(stored.configuration[:8])
    assert not h264.keeps_order(stored.configuration[:6] + b"\0\x04\x67" + bytes(3))


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


def test_frames_of_no_bytes_are_passed_over(tmp_path: Path):
    """A packet of nothing would end the decoder's work; a demuxer leaves it out."""
    path = film(tmp_path / "x.mp4", PREPARED)
    content = bytearray(path.read_bytes())
    at = content.index(b"stsz") + 16 + 4 * 40
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    assert container_stored(path) is None


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


def frames_or_error(path: Path, indices: list[int]) -> torch.Tensor | str:
    try:
        with decode.open_video(path) as video:
            return video.get(indices)
    except DataError as error:
        return str(error)


def test_a_clock_that_stands_still(tmp_path: Path):
    path = film(tmp_path / "x.mp4", PREPARED)
    content = bytearray(path.read_bytes())
    put(b"mdhd", 12, 0)(content)
    path.write_bytes(content)
    with pytest.raises(DataError, match="clock stands still"):
        decode.open_video(path)


def test_chunks_beyond_four_gigabytes(tmp_path: Path):
    """Their places have 64 bits."""
    path = film(tmp_path / "x.mp4", PREPARED)
    whole, stored = sequence(path), container_stored(path)
    _, n, *places = struct.unpack(f">II{len(stored.table[b'stco']) // 4 - 2}I", stored.table[b"stco"])
    table = {name: box for name, box in stored.table.items() if name != b"stco"}
    wide = dataclasses.replace(stored, table=table | {b"co64": struct.pack(f">II{n}Q", 0, n, *places)})
    assert list(wide.packets(path.stat().st_size)) == list(stored.packets(path.stat().st_size))
    with path.open("r+b") as file:  # the same frames, five gigabytes on, in a file with a hole
        content, far = file.read(), 5 << 30
        file.seek(far)
        file.write(content)
    wide = dataclasses.replace(
        stored, table=table | {b"co64": struct.pack(f">II{n}Q", 0, n, *(far + p for p in places))}
    )
    video = decode.Video(path, "pyav", PyAVStored(path, Facts("mov", timed=True, indexed=True, stored=wide)))
    assert torch.equal(video.get([0, 17, 49]), whole[[0, 17, 49]])
    video.close()
    path.unlink()


def test_a_file_of_nothing_but_boxes_is_soon_given_up(tmp_path: Path):
    path = tmp_path / "x.mp4"
    path.write_bytes(struct.pack(">I4s", 8, b"free") * (3 << 20))
    began = time.process_time()
    with pytest.raises(DataError, match="no moov box"):
        decode.open_video(path)
    assert time.process_time() - began < 10
