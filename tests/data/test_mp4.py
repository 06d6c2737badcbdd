"""H.264 read straight from where an MP4 says each frame lies: the same pixels as through FFmpeg's demuxer."""

import dataclasses
import struct
from pathlib import Path

import pytest
import torch

from data import numbered
from vidkd.data import container, decode, pyav
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
