"""Pictures turned, not of square pixels, or changing midway: what is prepared is what ffmpeg shows, or refused."""

from pathlib import Path

import pytest
import torch

from data.test_changing_pictures import changing
from data.test_orientation import as_ffmpeg_shows, turned
from data_prep.pipeline import ffmpeg
from vidkd.data import decode


@pytest.mark.parametrize("options", [(), ("--copy",), ("--frames", "raw"), ("--frames", "jpeg")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_turned_and_anamorphic_in_every_form(tmp_path, make_video, data_prep, read_rows, suffix, options):
    """Turned as it is meant to be seen; pixels that are not square are taken as they are stored, in every form."""
    root = tmp_path / "in" / "a"
    root.mkdir(parents=True)
    upright = make_video(tmp_path / f"upright{suffix}", suffix[1:])
    turned(root / f"turned{suffix}", upright, "-display_rotation 90")
    wide = ["-i", f"file:{upright}", "-c", "copy", "-bsf:v", "h264_metadata=sample_aspect_ratio=2/1"]
    ffmpeg.run([*wide, f"file:{root / f'wide{suffix}'}"], 60)
    words = ["--root", tmp_path / "in", "--out", tmp_path / "out", "--short-side", "source", "--crf", 8, *options]
    status, said = data_prep("folder", *words)
    assert status == 0, said
    rows = {Path(path).stem: (path, row) for path, row in read_rows(tmp_path / "out").items()}
    for name, size in (("turned", (48, 64)), ("wide", (64, 48))):
        path, row = rows[name]
        assert (row["width"], row["height"], row["frames"]) == (*size, 20)
        truth = as_ffmpeg_shows(root / f"{name}{suffix}")
        with decode.open_video(tmp_path / "out" / path) as video, decode.open_video(root / f"{name}{suffix}") as source:
            found, own = video.get(range(20)), source.get(range(20))
        assert own.shape == truth.shape == found.shape
        assert torch.equal(own, truth)
        lost = (found.float() - truth.float()).abs().mean()
        assert lost < 16 < (found.flip(-1, -2).float() - truth.float()).abs().mean()


@pytest.mark.parametrize("options", [(), ("--copy",), ("--frames", "raw")])
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("size", "its picture changes size along the way, from 128x96 to 96x128"),
        ("turn", "which way up its picture is meant to be seen changes along the way"),
        ("first frame", "which way up its picture is meant to be seen changes along the way"),
        ("every frame", "which way up its picture is meant to be seen changes along the way"),  # from what headers say
    ],
)
def test_what_changes_midway_is_refused(tmp_path, data_prep, read_rows, what, told, options):
    """ffmpeg would squeeze the rest into the size of the first frame, and not say so."""
    root = tmp_path / "in" / "a"
    root.mkdir(parents=True)
    for suffix in (".mkv", ".mp4"):
        changing(tmp_path / f"{suffix[1:]}{suffix}", what).rename(root / f"{suffix[1:]}{suffix}")
    status, said = data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", *options)
    assert status == 2 and said.count(told) == 2, said
    assert {row["status"] for row in read_rows(tmp_path / "out").values()} == {"refused"}
    assert not [path for path in (tmp_path / "out" / "a").iterdir() if path.is_file()]


def test_the_rate_of_a_container_that_gives_no_mean(tmp_path, data_prep, read_rows):
    """Ogg has only the times of frames; 25 a second would be a film that is slower than its source."""
    path = tmp_path / "in" / "a" / "film.ogv"
    path.parent.mkdir(parents=True)
    film = ["-f", "lavfi", "-i", "testsrc2=size=200x120:rate=30", "-frames:v", "30", "-c:v", "libtheora"]
    ffmpeg.run([*film, f"file:{path}"], 60)
    status, said = data_prep("folder", "--root", tmp_path / "in", "--out", tmp_path / "out", "--test-fraction", 0)
    assert status == 0, said
    row = read_rows(tmp_path / "out")["a/film.mp4"]
    assert (row["frames"], row["fps"], row["reason"]) == (30, 30, "")
