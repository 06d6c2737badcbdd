"""The table of RELIABILITY C1: every kind of bad file ends as one of four words, with a reason, in bounded time."""

import os
import time
from pathlib import Path

import pytest

from data_prep.pipeline import ffmpeg
from data_prep.pipeline.listing import Item
from data_prep.pipeline.transcode import Settings, transcode

SETTINGS = Settings(short_side=32, timeout_s=20)


def become(source: Path, tmp_path: Path, settings: Settings = SETTINGS):
    target = tmp_path / "made.mp4"
    began = time.monotonic()
    facts = transcode(settings, Item("made.mp4", str(source), "a"), target)
    assert time.monotonic() - began < 10
    assert facts.status != "ok" or target.exists()
    assert facts.status == "ok" or facts.reason.startswith(f"{source.name}: ")
    return facts


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["avi", "mp4", "faststart", "mkv"])
def test_cut_in_the_middle(tmp_path, make_video, kind, share):
    """Decoders read what is left of an AVI or a Matroska file as if it were all."""
    whole = make_video(tmp_path / f"v.{kind}", kind)
    assert become(whole, tmp_path).status == "ok"
    (tmp_path / "made.mp4").unlink()
    assert become(cut(whole, share), tmp_path).status == "truncated"


TEXTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{bait}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {bait}\n",
    "http": "#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n",
    "html": "<!DOCTYPE html><html><body>404</body></html>",
    "empty": "",
}


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts"])
@pytest.mark.parametrize("text", sorted(TEXTS))
def test_text_is_refused(tmp_path, make_video, text, suffix):
    """A playlist would make ffmpeg open the file it names."""
    bait = make_video(tmp_path / "bait.ts", "ts")
    disguised = tmp_path / f"v{suffix}"
    disguised.write_text(TEXTS[text].format(bait=bait))
    assert become(disguised, tmp_path).status == "refused"


def test_ffmpeg_itself_opens_no_second_file(tmp_path, make_video):
    """Were a playlist to pass for a video, the demuxer that its first bytes ask for would still be the only one."""
    bait = make_video(tmp_path / "bait.ts", "ts")
    playlist = tmp_path / "v.avi"
    playlist.write_text(TEXTS["hls"].format(bait=bait))
    for kind in ("avi", "mov", "matroska", "mpegts"):
        with pytest.raises(ffmpeg.FfmpegError):
            ffmpeg.read(playlist, kind, 10)


def test_odd_files(tmp_path, make_video):
    assert become(tmp_path / "missing.avi", tmp_path).status == "refused"
    (tmp_path / "folder.avi").mkdir()
    assert become(tmp_path / "folder.avi", tmp_path).status == "refused"
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    assert become(tmp_path / "loop.avi", tmp_path).status in ("refused", "unreadable")
    os.mkfifo(tmp_path / "pipe.avi")
    assert become(tmp_path / "pipe.avi", tmp_path).status == "refused"


def test_damage_inside(tmp_path, make_video):
    """Bytes flipped in the pictures: so many that the video is not used, whatever a decoder makes of it."""
    path = make_video(tmp_path / "v.avi", "avi", frames=50)
    content = bytearray(path.read_bytes())
    for i in range(6000, len(content) - 1000, 29):
        content[i] ^= 0xFF
    path.write_bytes(content)
    facts = become(path, tmp_path)
    assert facts.status in ("unreadable", "truncated"), facts


def test_no_picture(tmp_path):
    ffmpeg.run(["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", "-f", "mp4", str(tmp_path / "a.mp4")], 20)
    facts = become(tmp_path / "a.mp4", tmp_path)
    assert facts.status == "unreadable" and "picture" in facts.reason


def test_a_bomb_is_capped(tmp_path, make_video):
    """A small file with pictures of 8192 x 8192 px, in a container that we read and in one that ffmpeg reads."""
    bomb = make_video(tmp_path / "bomb.mp4", "mp4", frames=1, size="8192x8192")
    assert become(bomb, tmp_path).status == "refused"
    big = make_video(tmp_path / "bomb.mkv", "mkv", frames=1, size="8192x8192")
    assert become(big, tmp_path).status == "refused"


def test_too_slow_is_given_up(tmp_path, make_video):
    slow = make_video(tmp_path / "v.mp4", frames=200, size="640x480")
    facts = become(slow, tmp_path, Settings(timeout_s=0.01))
    assert facts.status == "unreadable" and "took more than 0.01 s" in facts.reason


@pytest.mark.parametrize(
    "name", ["a b.avi", "näive ☃.avi", "-dash.avi", "two\nlines.avi", "100%d.avi", "a:b.avi", "'q\".avi", "http:x.avi"]
)
def test_odd_names(tmp_path, make_video, name):
    plain = make_video(tmp_path / "in" / "plain.avi", "avi", frames=3)
    assert become(plain.rename(plain.parent / name), tmp_path).frames == 3
