"""The frame asked for is the frame returned, whatever the file and the decoder; and no bad file gets further than one
clear error."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data import numbered
from vidkd.data import container, decode
from vidkd.errors import ConfigError, DataError

# Stored in the order they are shown, of one size (VP9 need not be).
PLAIN = {"prepared", "h264_all_intra", "h264_mkv_no_b_frames", "vp8_webm"}
INDEXED = {"prepared", "h264_all_intra"}  # in an MP4 that says so
NO_TIMES = {k for k, (suffix, _) in numbered.KINDS.items() if suffix not in (".mp4", ".mov", ".mkv", ".webm")}
REFRESHED = {k for k in numbered.KINDS if k.endswith("refreshed")}
REORDERED_FRAGMENTS = {"h264_short_groups", "h264_fragmented"}  # of the first, torchcodec 0.17 takes 86 for 88
REFUSED = {"decord": set(numbered.KINDS) - PLAIN, "torchcodec": NO_TIMES | REFRESHED | REORDERED_FRAGMENTS}
Film = Callable[[str], Path]


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """kind -> a video of that kind, made once."""
    folder = tmp_path_factory.mktemp("films")

    def make(kind: str) -> Path:
        suffix, options = numbered.KINDS[kind]
        path = folder / (kind + suffix)
        return path if path.exists() else numbered.encode(path, options)

    return make


def shown(path: Path, indices: list[int], decoder: decode.Decoder = "auto") -> list[int]:
    with decode.open_video(path, decoder) as video:
        return numbered.numbers(video.get(indices))


REQUESTS = [[i] for i in (0, 1, 2, 11, 12, 23, 24, 25, 47, 63, 86, 87, 88, 89)]
REQUESTS += [sorted(random.Random(k).sample(range(numbered.FRAMES), 8)) for k in range(8)]
REQUESTS += [list(range(start, start + 31, 2)) for start in (0, 17, 59)]
REQUESTS += [[88, 3, 3, 50, 2], [5] * 4]  # any order, any number of times


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec", "pyav"])
@pytest.mark.parametrize("kind", numbered.KINDS)
def test_frame_asked_is_frame_returned(film: Film, kind: str, decoder: decode.Decoder):
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    if kind in REFUSED.get(decoder, ()):
        with pytest.raises(DataError, match=r"prepare the data set .*data.decoder=auto"):
            decode.open_video(film(kind), decoder)
        return
    for request in REQUESTS:
        assert shown(film(kind), request, decoder) == request


@pytest.mark.parametrize("kind", numbered.KINDS)
def test_auto_jumps_only_where_it_lands_exactly(film: Film, kind: str):
    with decode.open_video(film(kind)) as video:
        assert video.decoder == ("decord" if kind in PLAIN - INDEXED else "pyav")
        assert video.frames == numbered.FRAMES
        assert (video.width, video.height) == (128, 96)
        assert 4 < video.fps <= 25.1


def test_auto_does_without_decord_and_with_an_old_pyav(film: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    turned = tmp_path / "turned.mp4"
    numbered.ffmpeg(["-display_rotation", "90", "-i", str(film("prepared")), "-c", "copy", str(turned)])
    assert decode.open_video(turned).decoder == "pyav"
    monkeypatch.setattr(decode, "pyav_reads_index", lambda: False)
    assert decode.open_video(film("prepared")).decoder == "pyav"  # without the container's index
    assert decode.open_video(turned).decoder == "decord"
    monkeypatch.setattr(decode, "_installed", lambda name: name == "pyav")
    assert decode.open_video(film("prepared")).decoder == decode.open_video(film("vp9_webm")).decoder == "pyav"
    with pytest.raises(ConfigError, match="pip install torchcodec"):
        decode.open_video(film("prepared"), "torchcodec")


@pytest.mark.parametrize("kind", numbered.KINDS)
def test_pixels_do_not_depend_on_where_reading_began_nor_on_the_decoder(film: Film, kind: str):
    with decode.open_video(film(kind), "pyav") as video:
        video.backend.facts = decode.Facts(video.backend.facts.kind)  # pyright: ignore[reportAttributeAccessIssue]
        whole = video.get(range(numbered.FRAMES))  # in sequence
    assert whole.dtype == torch.uint8 and whole.shape == (numbered.FRAMES, 3, 96, 128)
    for indices in ([3, 29, 30, 61], [88], [86, 87, 89]):
        for decoder in ("auto", "pyav"):
            with decode.open_video(film(kind), decoder) as video:
                assert torch.equal(video.get(indices), whole[indices])


def test_one_frame_odd_sizes_and_rotation(film: Film, tmp_path: Path):
    one = numbered.encode(tmp_path / "one.mp4", "-c:v libx264", frames=1)
    assert shown(one, [0, 0]) == [0, 0]
    alone = numbered.encode(tmp_path / "one.webm", numbered.KINDS["vp9_webm"][1], frames=1)
    with decode.open_video(alone) as video:
        assert video.decoder == "pyav" and numbered.numbers(video.get([0, 0])) == [0, 0]
    for name, options in (("odd.mp4", "-c:v libx264 -pix_fmt yuv444p"), ("odd.avi", "-c:v mpeg4 -g 12 -bf 2 -q:v 3")):
        odd = numbered.encode(tmp_path / name, options, size=(131, 97))
        with decode.open_video(odd) as video:
            assert video.get([70]).shape == (1, 3, 97, 131)
        assert shown(odd, [70, 7]) == [70, 7]
    turned = tmp_path / "turned.mp4"
    numbered.ffmpeg(["-display_rotation", "90", "-i", str(film("prepared")), "-c", "copy", str(turned)])
    with decode.open_video(turned, "decord") as one, decode.open_video(turned, "pyav") as other:
        assert one.get([33]).shape == (1, 3, 128, 96)
        assert torch.equal(one.get([33]), other.get([33]))


@pytest.mark.parametrize("kind", ["prepared", "h264_b_frames"])
def test_what_an_edit_list_cuts_away_is_not_there(film: Film, tmp_path: Path, kind: str):
    cut = tmp_path / "cut.mp4"
    numbered.ffmpeg(["-ss", "1.4", "-i", str(film(kind)), "-c", "copy", str(cut)])
    with decode.open_video(cut) as video:
        assert video.frames == 55
    assert shown(cut, [0, 20, 54]) == [35, 55, 89]


def test_what_starts_amid_a_group_says_so(film: Film, tmp_path: Path):
    """decord would count from its first key frame."""
    cut = tmp_path / "cut.mkv"
    numbered.ffmpeg(["-i", str(film("h264_mkv_no_b_frames")), "-c", "copy", "-bsf:v", "noise=drop=lt(n\\,5)", str(cut)])
    with decode.open_video(cut) as video:
        assert video.decoder == "pyav"
        with pytest.raises(DataError, match=r"cut\.mkv: its frame 0 is damaged"):
            video.get([0])


def test_frames_that_share_one_time_are_counted(film: Film, tmp_path: Path):
    content = film("prepared").read_bytes()
    at = content.index(b"stts") + 16  # version, number of entries, frames of the first; then its ticks a frame
    assert int.from_bytes(content[at - 4 : at], "big") == numbered.FRAMES
    timeless = tmp_path / "timeless.mp4"
    timeless.write_bytes(content[:at] + bytes(4) + content[at + 4 :])
    with decode.open_video(timeless) as video:
        assert video.decoder == "pyav"
    assert shown(timeless, [3, 50, 89]) == [3, 50, 89]


def test_frames_that_do_not_exist(film: Film):
    for kind in ("prepared", "mpeg4_avi"):
        with decode.open_video(film(kind)) as video:
            with pytest.raises(DataError, match="no frame 90"):
                video.get([0, 90, 120])
            with pytest.raises(DataError, match="no frame 200"):
                video.get([200])
            with pytest.raises(ValueError, match="0 or more"):
                video.get([-1])


BAD: dict[str, bytes] = {
    "empty.mp4": b"",
    "page.mp4": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
    "noise.avi": random.Random(0).randbytes(5000),
    "playlist.avi": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nbait.mp4\n",
    "playlist.mp4": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n",
    "concat.avi": b"ffconcat version 1.0\nfile bait.mp4\n",
    "no_moov.mp4": b"\0\0\0\x20ftypisom" + bytes(range(256)) * 20,
    "bad_moov.mp4": b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x28moov\0\0\0\x20trak" + b"\xff" * 24,
    "sized_by_a_liar.mp4": b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x01moov" + b"\xff" * 8,
    "header_only.avi": b"RIFF\0\0\0\0AVI LIST",
    "header_only.mkv": b"\x1a\x45\xdf\xa3" + b"\0" * 50,
    "header_only.ts": (b"\x47" + b"\0" * 187) * 6,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_one_clear_error(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(DataError) as caught:
        decode.open_video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_text_and_playlists_never_reach_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def reached(*_: object) -> None:
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(decode, "BACKENDS", dict.fromkeys(decode.BACKENDS, reached))
    monkeypatch.setattr(decode, "PyAV", reached)
    for name in ("page.mp4", "playlist.avi", "playlist.mp4", "concat.avi", "noise.avi", "empty.mp4"):
        (tmp_path / name).write_bytes(BAD[name])
        with pytest.raises(DataError, match="not a video"):
            decode.open_video(tmp_path / name)


def test_what_is_no_regular_file(tmp_path: Path):
    (tmp_path / "folder.avi").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    for name in ("folder.avi", "pipe.mp4", "loop.mp4", "missing.mp4"):
        with pytest.raises(DataError, match=name):
            decode.open_video(tmp_path / name)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_damaged_files(film: Film, tmp_path: Path, decoder: decode.Decoder):
    fast = tmp_path / "fast.mp4"
    numbered.ffmpeg(["-i", str(film("prepared")), "-c", "copy", "-movflags", "faststart", str(fast)])
    content = fast.read_bytes()
    cut, late = tmp_path / "cut.mp4", tmp_path / "late.mp4"
    cut.write_bytes(content[: len(content) * 6 // 10])
    late.write_bytes(film("prepared").read_bytes()[:-200])  # its index is at the end
    with pytest.raises(DataError, match="cut"), decode.open_video(cut, decoder) as video:
        video.get([0, 85])
    with pytest.raises(DataError, match="cut short"):
        decode.open_video(late, decoder)


def test_sound_alone(tmp_path: Path):
    path = tmp_path / "sound.mp4"
    numbered.ffmpeg(["-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac", str(path)])
    with pytest.raises(DataError, match="no picture"):
        decode.open_video(path)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_too_large_to_decode_is_refused_by_its_header(tmp_path: Path, suffix: str):
    path = tmp_path / f"bomb{suffix}"
    numbered.ffmpeg(["-f", "lavfi", "-i", "color=s=8192x2064:d=0.04", "-c:v", "mjpeg", str(path)])
    with pytest.raises(DataError, match=r"8192x2064 px, .* the limits are"):
        decode.open_video(path)


@pytest.mark.parametrize("name", ["-i.mp4", "a b.mp4", "ü\n'\".mp4", "http:x.mp4", "concat:a|b.mp4", "%03d.mp4"])
def test_odd_names(film: Film, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(film("prepared"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for decoder in ("decord", "pyav"):
        assert shown(Path(name), [7], decoder) == [7]


def test_nothing_is_left_open(film: Film):
    def once() -> None:
        for kind in ("prepared", "h264_open_group", "mpeg4_avi"):
            shown(film(kind), [3, 9])

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        once()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_changed_file_is_looked_at_again(film: Film, tmp_path: Path):
    path = tmp_path / "changing.mkv"
    shutil.copy(film("vp8_webm"), path)
    with decode.open_video(path) as video:
        assert video.decoder == "decord"
    shutil.copy(film("h264_mkv"), path)
    with decode.open_video(path) as video:
        assert video.decoder == "pyav"


def test_a_decoder_that_cannot_be_had_is_known_before_any_video(monkeypatch: pytest.MonkeyPatch):
    decode.check("auto")
    decode.check("pyav")
    with pytest.raises(ConfigError, match="no decoder 'decrod'; did you mean 'decord'"):
        decode.check("decrod")
    monkeypatch.setattr(decode, "_installed", lambda name: False)
    decode.check("auto")
    with pytest.raises(ConfigError, match="pip install torchcodec"):
        decode.check("torchcodec")


def test_versions_name_what_is_installed():
    versions = decode.decoder_versions()
    assert "av" in versions and ("decord" in versions or "decord2" in versions)


def test_sniffing_knows_containers_by_their_first_bytes(film: Film):
    kinds = {".mp4": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi", ".ts": "mpegts"}
    kinds |= {".flv": "flv", ".wmv": "asf", ".mpg": "mpeg"}
    for kind in numbered.KINDS:
        path = film(kind)
        assert container.inspect(path).kind == kinds[path.suffix], kind
