"""Videos that the tests make, and a data_prep command that runs in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.pipeline import ffmpeg
from vidkd.data import index

SOURCES = {
    "avi": ["-c:v", "mpeg4", "-vtag", "XVID", "-bf", "2", "-g", "50", "-q:v", "5", "-f", "avi"],
    "mp4": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-pix_fmt", "yuv420p", "-f", "mp4"],
    "b_frames": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p", "-f", "mp4"],
    "faststart": ["-c:v", "libx264", "-preset", "ultrafast", "-movflags", "+faststart", "-f", "mp4"],
    "mkv": ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "matroska"],
    "webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-f", "webm"],
    "ts": ["-c:v", "libx264", "-preset", "ultrafast", "-f", "mpegts"],
}


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """make_video(path, kind, ...) writes a moving picture into the file."""

    def make(path, kind="mp4", frames=20, size="64x48", rate="25", sound=False, more=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}"]
        noise = ["-f", "lavfi", "-i", "sine=duration=1"] if sound else []
        output = ["-frames:v", str(frames), *SOURCES[kind], "-threads", "1"]  # the same file on any number of cores
        ffmpeg.run([*picture, *noise, *more, *output, f"file:{path}"], 60)
        return path

    return make


@pytest.fixture
def data_prep(monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """data_prep("folder", "--root", ...) -> (exit status, all that was printed); one process unless told otherwise."""

    def command(*words: object) -> tuple[int, str]:
        argv = [str(word) for word in words]
        if "--out" in argv and "--workers" not in argv:
            argv += ["--workers", "1"]
        monkeypatch.setattr(sys, "argv", ["data_prep", *argv])
        status = main(argv)
        out, err = capfd.readouterr()
        return status, out + err

    return command


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """All files of a prepared folder and what is in them; command line, journal and who wrote it left out."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (p for p in sorted(folder.rglob("*")) if p.is_file())
        left_out = {"provenance.json", ".journal.jsonl"}
        files = (p for p in files if p.name not in left_out and not p.name.startswith(".lock"))
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}

    return read


@pytest.fixture
def videos(tmp_path, make_video) -> Path:
    """Two classes of three videos each, AVI with B-frames and sound among them."""
    root = tmp_path / "videos"
    for label in ("jump", "sit down"):
        make_video(root / label / "a.avi", "avi", frames=30, size="160x120", sound=True)
        make_video(root / label / "b.MKV", "mkv", frames=18, size="66x50", rate="30000/1001")
        make_video(root / label / "c.mp4", "b_frames", frames=20, size="56x70", rate="15")
    return root


@pytest.fixture
def read_rows() -> Callable[[Path], dict[str, dict]]:
    """The rows of a prepared data set, by path."""
    return lambda out: {row["path"]: row for row in index.read(out).table.to_pylist()}
