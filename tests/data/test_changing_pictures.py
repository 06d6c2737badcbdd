"""A video whose size or way up changes midway is refused by whatever decoder reads it: none is squeezed or half turned.

Films that decord would be given by themselves (.mkv, at least 80 px wide, no B-frames) and as they are prepared.
"""

from pathlib import Path

import pytest

from data import films, numbered
from vidkd.data import decode
from vidkd.errors import DataError

STREAM = "-c:v libx264 -preset ultrafast -bf 0 -g 10 -r 25 -f h264"
TURN = "-c copy -bsf:v h264_metadata=display_orientation=insert:rotate=90 -f h264"


def changing(path: Path, what: str) -> Path:
    """20 frames and 20 more of another size, or to be turned; or 20 of which the first alone says so, or every one."""
    folder, every = path.parent, what == "every frame"  # ffmpeg writes it to key frames alone
    first = films.film(folder / "first.h264", STREAM.replace("-g 10", "-g 1") if every else STREAM, "128x96", 20)
    if what == "size":
        second = films.film(folder / "second.h264", STREAM, "96x128", 20)
    else:
        second = folder / "second.h264"
        numbered.ffmpeg(["-f", "h264", "-i", str(first), *TURN.split(), str(second)])
    both = b"" if what in ("first frame", "every frame") else first.read_bytes()
    (folder / "both.h264").write_bytes(both + second.read_bytes())
    between = folder / "both.ts"  # which gives the frames their times
    numbered.ffmpeg(["-r", "25", "-f", "h264", "-i", str(folder / "both.h264"), "-c", "copy", str(between)])
    numbered.ffmpeg(["-i", str(between), "-c", "copy", str(path)])
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("what", ["size", "turn", "first frame"])
def test_refused_by_every_decoder(tmp_path: Path, what: str, suffix: str, decoder: decode.Decoder):
    path = changing(tmp_path / f"film{suffix}", what)
    found = films.frames_or_error(path, list(range(20 if what == "first frame" else 40)), decoder)
    assert isinstance(found, str)
    wrong = "its picture changes size" if what == "size" else "which way up its picture is to be seen changes"
    assert wrong in found, found


@pytest.mark.parametrize("what", ["turn", "first frame"])
def test_frames_that_are_passed_over_count_too(tmp_path: Path, what: str):
    """The frames asked for look alike, and a frame between or before says that they are to be turned."""
    path = changing(tmp_path / "film.mp4", what)
    with decode.open_video(path) as video, pytest.raises(DataError, match="which way up"):
        video.get([5, 6] if what == "first frame" else [15, 35])


def test_a_walk_is_refused_where_it_changes(tmp_path: Path):
    path = changing(tmp_path / "film.mp4", "size")
    with decode.open_video(path, "pyav") as video, pytest.raises(DataError, match="changes size"):
        list(video.walk(range(40)))
