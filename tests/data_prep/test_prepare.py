"""From files to a prepared data set: what is in it, what is not done twice, what a kill leaves behind."""

import csv
import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from data_prep.pipeline import avi, ffmpeg, transcode
from data_prep.pipeline.listing import Item
from data_prep.pipeline.produce import checksum_of
from data_prep.pipeline.transcode import output_size
from vidkd.data import container, index
from vidkd.data.decode import open_video
from vidkd.errors import DataError


def test_what_comes_out(tmp_path, videos, data_prep, read_rows):
    """Every frame, evenly spaced, none stored out of order, a key frame every 16, no sound, even sides."""
    out = tmp_path / "out"
    status, said = data_prep("folder", "--root", videos, "--out", out, "--short-side", 56)
    assert status == 0, said
    table = read_rows(out)
    shape = {
        path.split("/")[1]: (r["frames"], r["width"], r["height"], round(r["fps"], 3)) for path, r in table.items()
    }
    assert shape == {"a.mp4": (30, 74, 56, 25), "b.mp4": (18, 66, 50, 29.97), "c.mp4": (20, 56, 70, 15)}
    for path, row in table.items():
        header = container.inspect(out / path)
        assert header.plain and header.codec == "avc1" and header.frames == row["frames"]
        assert sync_frames(out / path) == list(range(1, row["frames"] + 1, 16))
        assert b"soun" not in (out / path).read_bytes()
        with open_video(out / path) as video:
            assert video.frames == row["frames"] and video.fps == pytest.approx(row["fps"], abs=1e-6)
    assert (out / "classes.txt").read_text() == "jump\nsit down\n"
    assert len(index.read(out).part("split1", "test")) == 2  # a fifth of three, in whole videos, of each class
    card = json.loads((out / "provenance.json").read_text())
    assert card["counts"]["status"] == {"ok": 6} and card["settings"]["short_side"] == 56
    assert not list(out.rglob(".tmp*"))
    with (out / "sources.csv").open(newline="") as file:
        made_of = {row["path"]: (Path(row["source"]), row["source_checksum"]) for row in csv.DictReader(file)}
    assert made_of.keys() == table.keys() and made_of["jump/b.mp4"][0] == videos / "jump/b.MKV"
    assert all(checksum_of(source) == checksum for source, checksum in made_of.values())
    assert card["sources"] == {"path": "sources.csv", "checksum": checksum_of(out / "sources.csv")}


def sync_frames(path: Path) -> list[int]:
    """The key frames that the MP4's own table names, from 1."""
    content = path.read_bytes()
    at = content.index(b"stss") + 8
    (count,) = struct.unpack_from(">I", content, at)
    return list(struct.unpack_from(f">{count}I", content, at + 4))


def test_frames_are_the_source_s(tmp_path, videos, data_prep):
    """Frame i of the prepared video shows what frame i of the source shows."""
    data_prep("folder", "--root", videos, "--out", tmp_path / "out", "--short-side", "source", "--crf", 8)
    for source in sorted(videos.rglob("*.*")):
        made = tmp_path / "out" / source.relative_to(videos).with_suffix(".mp4")
        with open_video(source, "pyav") as a, open_video(made) as b:
            assert a.frames == b.frames
            pairs = zip(a.get(range(a.frames)).float(), b.get(range(b.frames)).float(), strict=True)
            assert max((x - y).abs().mean() for x, y in pairs) < 8


def test_an_avi_header_that_lies(tmp_path, make_video, data_prep, read_rows):
    """The header of an AVI saves a look at the file; what is decoded decides."""
    path = make_video(tmp_path / "in" / "a" / "v.avi", "avi", frames=12, size="160x120")
    assert avi.picture(path) == avi.Picture(160, 120, Fraction(25))
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, content.index(b"strh") + 28, 1, 10)  # scale and rate: ffmpeg takes its word
    struct.pack_into("<ii", content, content.index(b"strf") + 12, 60, 60)
    path.write_bytes(content)
    assert avi.picture(path) == avi.Picture(60, 60, Fraction(10))
    data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", "--short-side", 60)
    row = read_rows(tmp_path / "out")["a/v.mp4"]
    assert (row["width"], row["height"], row["frames"], row["fps"]) == (80, 60, 12, 10)


@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_d13_a_header_with_more_frames_than_are_shown(tmp_path, make_video, data_prep, read_rows, copy):
    """As a cutter leaves it that copies: frames from the key frame before on are stored, and not to be shown."""
    make_video(tmp_path / "whole.mp4", "mp4", frames=30)
    (tmp_path / "in" / "a").mkdir(parents=True)
    cut = tmp_path / "in" / "a" / "v.mp4"
    words = ["-ss", "0.4", "-i", tmp_path / "whole.mp4", "-c", "copy", cut]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)
    announced = container.inspect(cut).frames
    data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", *copy)
    row = read_rows(tmp_path / "out")["a/v.mp4"]
    assert row["status"] == "ok"
    assert row["frames"] < announced
    assert f"its header announces {announced} frames: the {row['frames']} that are shown count" in row["reason"]


@pytest.mark.parametrize(
    ("source", "short", "made"),
    [
        ((320, 240), 128, (170, 128)),
        ((240, 320), 128, (128, 170)),
        ((100, 80), 128, (100, 80)),
        ((321, 241), 0, (320, 240)),
        ((64, 33), 32, (62, 32)),
        ((4000, 10), 128, (4000, 10)),
    ],
)
def test_sizes(source, short, made):
    assert output_size(*source, short) == made


def test_odd_names_and_the_index(tmp_path, make_video, data_prep):
    """What a file may be called does not matter to any file that is written or read."""
    names = ["a b", "näive ☃", "-dash", "two\nlines", 'quote", comma', "c:\\d", "", ".", "100%d"]
    for name in names:
        make_video(tmp_path / "in" / "-class, one" / f"x{name}.y.avi", "avi", frames=3)
    assert data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "o:ut")[0] == 0
    data = index.read(tmp_path / "o:ut")
    assert data.table.num_rows == len(names) and data.classes == ("-class, one",)
    part = data.part("split1", "train")
    for i in range(len(part)):
        with open_video(part[i].path) as video:
            assert video.frames == 3
    assert data_prep("verify", tmp_path / "o:ut", "--deep")[0] == 0


def test_names_that_cannot_be_written_down(tmp_path, make_video, data_prep):
    video = make_video(tmp_path / "in" / "two\nlines" / "x.mp4", frames=3)  # test_not_utf8.py has other ones
    status, said = data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "out")
    assert status == 2 and "must be one line" in said
    bytes_of = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    bytes_of.mkdir()
    (bytes_of / "list").write_text("x.mp4 0\n")
    status, said = data_prep("list", "--root", bytes_of, "--train", bytes_of / "list", "--out", tmp_path / "out")
    assert status == 2 and "not UTF-8" in said
    words = ["list", "--name", "x", "--root", video.parent, "--train", bytes_of / "list"]
    status, said = data_prep(*words, "--out", bytes_of / "out")
    assert status == 2 and "not UTF-8" in said
    assert data_prep(*words, "--out", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out/provenance.json").read_text())["listing_files"]


def test_copy_takes_files_as_they_are(tmp_path, make_video, data_prep, read_rows):
    root = tmp_path / "videos"
    good = make_video(root / "a" / "good.mp4", "b_frames", frames=21, size="300x200")
    make_video(root / "a" / "old.avi", "avi", frames=11, size="300x200")
    assert data_prep("folder", "--root", root, "--out", tmp_path / "out", "--copy")[0] == 0
    table = read_rows(tmp_path / "out")
    assert (tmp_path / "out/a/good.mp4").read_bytes() == good.read_bytes()
    assert table["a/good.mp4"]["frames"] == 21 and table["a/good.mp4"]["height"] == 200
    assert table["a/old.mp4"]["frames"] == 11 and table["a/old.mp4"]["height"] == 128


def test_failures_are_counted_and_decided_upon(tmp_path, videos, data_prep, read_rows):
    out = tmp_path / "out"
    (videos / "jump" / "d.avi").write_text("#EXTM3U\n")
    cut = (videos / "jump" / "a.avi").read_bytes()
    (videos / "jump" / "a.avi").write_bytes(cut[: len(cut) // 2])
    status, said = data_prep("folder", "--root", videos, "--out", out, "--test-fraction", 0)
    assert status == 2 and "1 refused, 1 truncated" in said and "--allow-failures 2" in said and "Traceback" not in said
    assert read_rows(out)["jump/a.mp4"]["status"] == "truncated" and not (out / "jump/a.mp4").exists()
    with pytest.raises(DataError, match="2 of 7 videos"):
        index.read(out).part("split1", "train")
    assert data_prep("folder", "--root", videos, "--out", out, "--test-fraction", 0, "--allow-failures", 1)[0] == 2
    assert data_prep("folder", "--root", videos, "--out", out, "--test-fraction", 0, "--allow-failures", 2)[0] == 0
    assert len(index.read(out).part("split1", "train")) == 5 and len(read_rows(out)) == 7


def test_hold_out(tmp_path, videos, data_prep, read_rows):
    words = ["folder", "--root", videos, "--out", tmp_path / "out", "--test-fraction", 0, "--holdout", 0.3]
    assert data_prep(*words)[0] == 0
    parts = [(row["label"], row["split1"]) for row in read_rows(tmp_path / "out").values()]
    assert parts.count(("jump", "val")) == parts.count(("sit down", "val")) == 1


def test_two_frame_rates_and_a_turn(tmp_path, make_video, data_prep, read_rows):
    """Uneven time stamps lose no frame; a picture that asks to be turned is turned."""
    root = tmp_path / "videos"
    make_video(root / "a" / "even.mp4", frames=30, size="64x48")
    uneven = ["-vf", "setpts='if(lt(N,10),N,3*N-20)/25/TB'", "-fps_mode", "passthrough"]
    make_video(root / "a" / "uneven.mp4", frames=30, size="64x48", more=uneven)
    turned = ["-display_rotation", "90", "-i", str(root / "a/even.mp4"), "-c", "copy", str(root / "a/turned.mp4")]
    ffmpeg.run(turned, 20)
    assert data_prep("folder", "--root", root, "--out", tmp_path / "out", "--test-fraction", 0)[0] == 0
    table = read_rows(tmp_path / "out")
    assert table["a/uneven.mp4"]["frames"] == 30 and table["a/uneven.mp4"]["fps"] == pytest.approx(
        30 / (68 / 25), abs=0.01
    )
    assert (table["a/turned.mp4"]["width"], table["a/turned.mp4"]["height"]) == (48, 64)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--root", "nowhere", "--out", "out"], "no such file or folder"),
        (["--root", "videos", "--out", "videos/out"], "must lie beside"),
        (["--root", "videos", "--out", "."], "must lie beside"),
        (["--root", "videos", "--out", "other"], "holds something else"),
        (["--root", "videos", "--out", "out", "--timeout", "nan"], "--timeout must be above 0"),
        (["--root", "videos", "--out", "out", "--workers", "9999999999"], "--workers must be 0 to 1024"),
        (["--root", "videos", "--out", "out", "--allow-failures", "-1"], "--allow-failures must be 0 or more"),
        (["--root", "videos", "--out", "other", "--name", "a\nb"], "the data set 'a\\nb': a name must be one line"),
        (["--root", "empty", "--out", "out"], "no videos"),
        (["--root", "videos", "--out", "out", "--holdout", "1.5"], "--holdout"),
        (["--root", "videos", "--out", "/proc/x"], "cannot be written to"),
    ],
)
def test_one_clear_error(tmp_path, data_prep, monkeypatch, words, told):
    for name in ("videos/a", "empty", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "videos/a/v.avi").write_bytes(b"")
    (tmp_path / "other/thesis.doc").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    status, said = data_prep("folder", *words)
    assert status == 2 and said.startswith("error: ") and told in said and "Traceback" not in said


def test_a_full_disk_is_not_the_video_s_fault(tmp_path, videos, data_prep, monkeypatch):
    def full(*_: object, **__: object) -> str:
        raise ffmpeg.FfmpegError("Error writing trailer: No space left on device")

    monkeypatch.setattr(ffmpeg, "run", full)
    status, said = data_prep("folder", "--root", videos, "--out", tmp_path / "out")
    assert status == 2 and "the disk is full" in said
    monkeypatch.undo()
    assert not (tmp_path / "out/index.csv").exists() and not list((tmp_path / "out").rglob("*.mp4"))


def test_a_command_starts_without_torch():
    """Every worker process is a command that starts; torch alone would take longer than most videos."""
    code = "import sys; from data_prep.__main__ import _parser; _parser(['jhmdb']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    listed = subprocess.run([sys.executable, "-m", "data_prep", "-h"], capture_output=True, text=True, check=True)
    assert all(f"\n    {name} " in listed.stdout for name in ("jhmdb", "ssv2", "motion", "verify", "stats"))


def test_two_videos_of_one_name(tmp_path, make_video, data_prep):
    make_video(tmp_path / "v/a/x.mp4")
    make_video(tmp_path / "v/a/x.avi", "avi")
    status, said = data_prep("folder", "--root", tmp_path / "v", "--out", tmp_path / "out")
    assert status == 2 and "a second video for 'a/x.mp4'" in said


def test_verify_and_show(tmp_path, videos, data_prep):
    out = tmp_path / "out"
    data_prep("folder", "--root", videos, "--out", out)
    assert data_prep("verify", out, "--deep")[0] == 0
    assert data_prep("show", out, "--sheet", tmp_path / "sheet.png", "--videos", 3, "--frames", 3)[0] == 0
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert data_prep("show", out, "--sheet", tmp_path / "sheet.xyz")[0] == 2
    video = out / "jump/a.mp4"
    content = bytearray(video.read_bytes())
    content[len(content) // 2] ^= 1
    video.write_bytes(content)
    assert data_prep("verify", out, "--sizes-only")[0] == 0
    status, said = data_prep("verify", out)
    assert status == 2 and "jump/a.mp4" in said and "5 good, 1 bad" in said
    video.write_bytes(content[:-1])
    assert "bytes instead of" in data_prep("verify", out, "--sizes-only")[1]
    video.unlink()
    assert "cannot be read" in data_prep("verify", out)[1]
    assert data_prep("verify", tmp_path / "nothing")[0] == 2


@pytest.mark.parametrize("rate", ["25", "30000/1001", "12.5"])
def test_a_plain_mp4_is_known_by_its_header(tmp_path, make_video, monkeypatch, rate):
    """Its size and rate are read in this process, and a header that lies about them changes nothing."""
    path = make_video(tmp_path / "a.mp4", "mp4", frames=20, size="160x120", rate=rate)
    made = {}

    def make(name: str, source: Path) -> bytes:
        item = Item("a.mp4", str(source), "a")
        facts = transcode.transcode(transcode.Settings(short_side=64), item, tmp_path / name)
        assert (facts.status, facts.frames, facts.width, facts.height) == ("ok", 20, 86, 64), facts
        made[name] = facts
        return (tmp_path / name).read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(transcode, "_announced", lambda path, kind: None)
        asked = make("asked.mp4", path)
    content = path.read_bytes()
    at = content.index(b"avc1", content.index(b"stsd")) + 28  # width and height in the sample entry
    lying = tmp_path / "lying.mp4"
    lying.write_bytes(content[:at] + (320).to_bytes(2, "big") + content[at + 2 :])
    assert make("told.mp4", lying) == asked
    with monkeypatch.context() as patch:
        patch.setattr(transcode.ffmpeg, "read", None)  # no other program is asked
        assert make("read.mp4", path) == asked
    assert made["read.mp4"] == made["asked.mp4"]


def test_a_link_does_not_hide_that_out_lies_in_root(tmp_path, videos, data_prep):
    link = tmp_path / "link"
    link.symlink_to(videos)
    before = sorted(videos.rglob("*"))
    for root, out in ((videos, link / "out"), (link, videos / "out"), (link, videos), (videos / "jump", link)):
        status, said = data_prep("folder", "--root", root, "--out", out)
        assert status == 2
        assert f"--out {out}: must lie beside --root {root}, which is never changed" in said
    assert sorted(videos.rglob("*")) == before
