"""H.264 read straight from where an MP4 says each frame lies: the same pixels as through FFmpeg's demuxer."""

import dataclasses
import struct
from pathlib import Path

import pytest
import torch

from data import numbered
from data.films import PREPARED, container_stored, film, sequence
from vidkd.data import container, decode, h264, pyav
from vidkd.data.decode import Facts
from vidkd.data.pyav import PyAVStored
from vidkd.errors import DataError

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


def test_frames_of_no_bytes_are_passed_over(tmp_path: Path):
    """A packet of nothing would end the decoder's work; a demuxer leaves it out."""
    path = film(tmp_path / "x.mp4", PREPARED)
    content = bytearray(path.read_bytes())
    at = content.index(b"stsz") + 16 + 4 * 40
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    assert container_stored(path) is None


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
