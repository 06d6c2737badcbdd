"""Frames packed as raw or jpeg: the clips of the .mp4, bit for bit or nearly, by the same pipeline and reader."""

import os
import re
import struct
from pathlib import Path

import pytest
import torch

from data import numbered
from data_prep.pipeline.listing import Item
from data_prep.pipeline.pack import make_packed
from data_prep.pipeline.produce import Facts
from vidkd.config import Augment, ClipSpec, Data, RandAugment, ViewSpec
from vidkd.data import clips, container, index, packed
from vidkd.data.decode import open_video
from vidkd.errors import DataError

FORMS = ("raw", "jpeg")


@pytest.fixture
def prepared(tmp_path, videos, data_prep) -> dict[str, index.Index]:
    """The same videos as H.264 and packed."""
    for form in ("video", *FORMS):
        words = ["--root", videos, "--out", tmp_path / form, "--test-fraction", 0, "--short-side", 56]
        status, said = data_prep("folder", *words, "--frames", form)
        assert status == 0, said
    return {form: index.read(tmp_path / form) for form in ("video", *FORMS)}


def settings(**more: object) -> Data:
    augment = Augment(color_jitter=0.4, randaugment=RandAugment())
    return Data.model_validate({"root": Path("."), "clip": ClipSpec(frames=8, stride=2), "augment": augment} | more)


def test_clips_are_those_of_the_video_bit_for_bit(prepared):
    views = {"teacher": ViewSpec(size_px=40), "student": ViewSpec(size_px=24, frames=3)}
    parts = [prepared[form].part("split1", "train") for form in ("video", "raw")]
    assert parts[0].names() == parts[1].names()
    for make in (clips.TestClips, lambda *words: clips.TrainClips(*words, run_seed=0)):
        encoded, raw = (make(part, settings(), views) for part in parts)
        for key in [(epoch, i) for epoch in range(4) for i in range(len(parts[0]))]:
            a, b = encoded.load(key), raw.load(key)
            assert (a.name, a.label, a.address) == (b.name, b.label, b.address)
            assert all(torch.equal(a.views[name], b.views[name]) for name in views)


def test_jpeg_is_near(prepared):
    for row in prepared["jpeg"].table.to_pylist():
        path = prepared["jpeg"].root / row["path"]
        with open_video(path) as made, open_video(prepared["video"].root / f"{row['path'][:-5]}.mp4") as video:
            assert (made.frames, made.width, made.height) == (video.frames, video.width, video.height)
            assert made.fps == pytest.approx(video.fps)
            wanted = [made.frames - 1, 3, 0, 3]
            luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # JPEG halves the colours of these hard edges
            error = ((made.get(wanted).float() - video.get(wanted).float()) * luma).sum(1).abs()
            assert error.mean() < 4 and error.flatten(1).mean(1).max() < 5  # of 255
        assert path.stat().st_size < row["frames"] * row["width"] * row["height"] * 3 / 2


@pytest.mark.parametrize("form", FORMS)
def test_every_request(tmp_path, form):
    video = numbered.encode(tmp_path / "v.mp4", numbered.KINDS["prepared"][1])
    with open_video(video) as opened:
        packed.write(tmp_path / "v", form, opened.walk(range(90)), 90, 25.0)
    with open_video(tmp_path / "v", "decord") as opened:
        assert opened.decoder == "packed"
        for request in ([0], [89], [5] * 4, [88, 3, 3, 50], list(range(17, 48, 2)), [1, 2, 4], list(range(90))):
            assert numbered.numbers(opened.get(request)) == request
        assert numbered.numbers(torch.stack(list(opened.walk([4, 7, 89])))) == [4, 7, 89]
        with pytest.raises(DataError, match="has no frame 90"):
            opened.get([89, 90])
        with pytest.raises(DataError, match="has no frame 91"):
            list(opened.walk([3, 91]))


def test_what_is_returned_is_not_written_back(tmp_path):
    path = tmp_path / "v.raw"
    packed.write(path, "raw", torch.zeros(3, 3, 4, 6, dtype=torch.uint8), 3, 25.0)
    with open_video(path) as video:
        frames = video.get([0, 1, 2])
    frames += 9
    with open_video(path) as video:
        assert not video.get([0, 1, 2]).any()


@pytest.mark.parametrize("form", FORMS)
def test_open_files_stay_constant(prepared, form):
    part = prepared[form].part("split1", "train")
    source = clips.TrainClips(part, settings(), {"student": ViewSpec(size_px=24)}, run_seed=0)
    source.load((0, 0))
    before = len(os.listdir("/proc/self/fd"))
    kept = [source.load((epoch, i)) for epoch in range(20) for i in range(len(part))]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 20 * len(part)


def test_verified_made_once_and_mended(prepared, data_prep, tmp_path, videos):
    for form in FORMS:
        out = prepared[form].root
        assert data_prep("verify", out, "--deep")[0] == 0
        path = out / f"jump/a.{form}"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        status, said = data_prep("verify", out)
        assert status == 2 and f"jump/a.{form}" in said and "5 good, 1 bad" in said
        path.unlink()
        others = {p: p.stat().st_ino for p in out.rglob(f"*.{form}")}
        words = ["folder", "--root", videos, "--out", out, "--test-fraction", 0, "--short-side", 56, "--frames"]
        assert data_prep(*words, form)[0] == 0 and data_prep("verify", out)[0] == 0
        assert others == {p: p.stat().st_ino for p in others}
        assert not list(out.rglob("*.mp4")) and not list(out.rglob(".tmp*"))
        status, said = data_prep(*words, "video")
        assert status == 2 and "holds something else" in said
    assert data_prep("show", prepared["raw"].root, "--sheet", tmp_path / "sheet.png", "--videos", 2)[0] == 0


def test_copied_and_not_readable_alike(tmp_path, make_video, data_prep, read_rows):
    """--copy packs what the source shows; a source whose index and pictures disagree is not packed."""
    root = tmp_path / "in"
    source = make_video(root / "a" / "v.mp4", "b_frames", frames=21)
    words = ["--test-fraction", 0, "--copy", "--frames", "raw"]
    assert data_prep("folder", "--root", root, "--out", tmp_path / "out", *words)[0] == 0
    assert read_rows(tmp_path / "out")["a/v.raw"]["frames"] == 21
    with open_video(source) as video, open_video(tmp_path / "out/a/v.raw") as raw:
        assert torch.equal(video.get(range(21)), raw.get(range(21)))

    def wrong(item, target):
        target.write_bytes(source.read_bytes())
        return Facts(20, 25.0, 64, 48)

    facts = make_packed(wrong, "raw", Item("a/v.raw", str(source), "a"), tmp_path / "x")
    assert facts.status == "unreadable" and facts.reason.startswith("v.mp4: 20 frames in sequence, 21 by its index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def damaged(path: Path, change) -> DataError:
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content) or content)
    with pytest.raises(DataError) as error, open_video(path) as video:
        video.get(range(3))
    return error.value


def put(form: str, at: int, *values):
    return lambda content: struct.pack_into(form, content, at, *values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c[:30], "cut short"),
        (lambda c: c[:-1], "its header asks for|damaged"),
        (lambda c: c + b"x", "its header asks for"),
        (put("8s", 8, b"png"), "header is damaged"),
        (put("<I", 16, 0), "header is damaged|asks for"),
        (put("<II", 20, 60000, 60000), "limits|asks for"),
        (put("<d", 28, float("nan")), "header is damaged"),
    ],
)
def test_damaged_headers(tmp_path, form, change, told):
    path = tmp_path / "v"
    packed.write(path, form, torch.zeros(3, 3, 16, 24, dtype=torch.uint8), 3, 25.0)
    assert container.inspect(path).frames == 3
    error = damaged(path, change)
    assert str(error).startswith(str(path)) and re.search(told, str(error))


@pytest.mark.parametrize(
    "change",
    [
        put("<Q", 64 + 8, 2**40),  # a picture that begins beyond the end
        put("<Q", 64, 0),
        lambda c: c[: c.index(b"\xff\xd8") + 2] + bytes(len(c) - c.index(b"\xff\xd8") - 2),
        lambda c: c.replace(struct.pack(">HH", 16, 24), struct.pack(">HH", 65000, 65000)),  # a bomb
    ],
)
def test_damaged_pictures(tmp_path, change):
    path = tmp_path / "v.jpeg"
    packed.write(path, "jpeg", torch.zeros(3, 3, 16, 24, dtype=torch.uint8), 3, 25.0)
    assert re.search("is damaged|cannot decode", str(damaged(path, change)))
