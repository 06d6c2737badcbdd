"""The ffmpeg program, and the one way in which prepared videos are encoded."""

import functools
import subprocess
from collections.abc import Sequence

import imageio_ffmpeg

GOP = 16  # frames from key frame to key frame: the fastest random access for its size (docs/performance.md)


class FfmpegError(Exception):
    """ffmpeg failed or took too long; the text is the last thing it said."""


@functools.cache
def executable() -> str:
    return imageio_ffmpeg.get_ffmpeg_exe()


@functools.cache
def version() -> str:
    head = subprocess.run([executable(), "-version"], capture_output=True, text=True, check=True).stdout
    return head.splitlines()[0]


def encoding(crf: int, preset: str) -> list[str]:
    """H.264 in MP4 that every decoder can enter at any frame, the same bytes each time."""
    gop = ["-g", str(GOP), "-keyint_min", str(GOP), "-sc_threshold", "0", "-bf", "0", "-flags", "+cgop+bitexact"]
    picture = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-threads", "1"]
    container = ["-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4"]
    return [*picture, *gop, *container]


def run(arguments: Sequence[str], stdin: bytes | None = None, timeout_s: float = 600) -> tuple[str, str]:
    """Run ffmpeg; what it wrote to stdout and to stderr. FfmpegError if it failed."""
    command = [executable(), "-hide_banner", "-loglevel", "error", *([] if stdin else ["-nostdin"]), "-y", *arguments]
    try:
        done = subprocess.run(command, input=stdin or b"", capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise FfmpegError(f"it took more than {timeout_s:g} s") from None
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode:
        raise FfmpegError(last_line(said) or f"ffmpeg ended with status {done.returncode}")
    return done.stdout.decode("utf-8", "replace"), said


def last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
