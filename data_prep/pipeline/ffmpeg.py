"""The ffmpeg program, and the one way in which prepared videos are encoded."""

import functools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import imageio_ffmpeg

from vidkd.data import container

GOP = 16  # frames from key frame to key frame: the fastest random access for its size (docs/performance.md)
STREAM = re.compile(r"^\[info\] +Stream #0:\d+.*?: Video: .*?, (\d+)x(\d+)(.*)$", re.MULTILINE)
COVER = "(attached pic)"  # what ffmpeg calls a still picture beside the sound; it is never mapped
RATE = re.compile(r"([\d.]+)(k?) fps")
# From the times of frames, where nothing else says it, as in Ogg. One in thousands is no guess, but the clock itself.
GUESSED_RATE = re.compile(r"([\d.]+)() tbr")
TURNED = re.compile(r"rotation of -?(90|270)")
COMPLAINT = re.compile(r"\[(?:error|fatal)\] (.*)")
NO_PICTURE = "it holds no picture, only sound or data"
DISK_FULL = "No space left on device"
TOO_LARGE = "exceeds specified max pixel count"
FRAMES = re.compile(r"\bframe= *(\d+)")
CHANGED = re.compile(r"Reconfiguring filter graph because (.*)")
SIZE = re.compile(r"\b(\d+)x(\d+)\b")


class FfmpegError(Exception):
    """ffmpeg failed or took too long; the text is the last thing it said."""


@dataclass(frozen=True, slots=True)
class Report:
    """What ffmpeg said about a video while it read it."""

    width: int  # px, as shown: after the rotation that the file asks for
    height: int
    fps: Fraction | None  # the mean; None where the file does not say
    frames: int  # decoded
    complaints: tuple[str, ...]  # of its decoder and demuxer, in order
    changes: str = ""  # why its frames are not all pictures of one kind, if so: ffmpeg would squeeze the later ones


@functools.cache
def executable() -> str:
    return imageio_ffmpeg.get_ffmpeg_exe()


@functools.cache
def version() -> str:
    head = subprocess.run([executable(), "-version"], capture_output=True, text=True, check=True).stdout
    return head.splitlines()[0]


def source(path: Path, kind: str) -> list[str]:
    """The options to read the video file `path`, of the container `kind`: it, and nothing else, with bounds."""
    bounds = ["-max_pixels", str(container.MAX_PIXELS), "-protocol_whitelist", "file"]
    bounds += ["-flags", "+unaligned"]  # cut off all that the header says, at the left too
    return [*bounds, "-threads", "1", "-f", kind, "-i", f"file:{path.absolute()}", "-map", "0:V:0"]


def output(target: Path, crf: int, preset: str, tune: str = "") -> list[str]:
    """The options to write H.264 in MP4 that every decoder can enter at any frame, the same bytes each time."""
    gop = ["-g", str(GOP), "-keyint_min", str(GOP), "-sc_threshold", "0", "-bf", "0", "-flags", "+cgop+bitexact"]
    picture = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-threads", "1"]
    picture += ["-tune", tune] if tune else []
    file = ["-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-movflags", "+faststart"]
    return [*picture, *gop, *file, "-f", "mp4", f"file:{target.absolute()}"]


def read(path: Path, kind: str, timeout_s: float, first_frames: int = container.MAX_FRAMES) -> Report:
    """Decode the video, or its first frames, and report on it."""
    counted = ["-frames:v", str(first_frames), "-fps_mode", "passthrough", "-f", "null", "-"]
    return report(run([*source(path, kind), *counted], timeout_s=timeout_s))


def count(path: Path) -> tuple[int, int, int]:
    """(width, height, frames decoded) of a video that this program has written.

    In this process, four times as fast as another ffmpeg; files from elsewhere are left to a process of their own.
    """
    try:
        with av.open(str(path.absolute()), format="mp4", options={"protocol_whitelist": "file"}) as file:
            stream = file.streams.video[0]
            stream.thread_count = 1
            return stream.width, stream.height, sum(1 for _ in file.decode(stream))
    except (av.error.FFmpegError, IndexError) as error:
        raise FfmpegError(f"what was written cannot be read ({error})") from None


def run(arguments: Sequence[str], timeout_s: float, stdin: bytes = b"") -> str:
    """Run ffmpeg; what it said. FfmpegError if it failed."""
    level = ["-hide_banner", "-nostats", "-loglevel", "repeat+level+info", "-stats"]
    command = [executable(), *level, *([] if stdin else ["-nostdin"]), "-y", *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise FfmpegError(f"it took more than {timeout_s:g} s") from None
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode:
        complaints = COMPLAINT.findall(said) or [f"ffmpeg ended with status {done.returncode}"]
        full = next((text for text in complaints if DISK_FULL in text), None)
        nothing = NO_PICTURE if "matches no streams" in said else None
        raise FfmpegError((full or nothing or complaints[0])[:200])
    return said


def report(said: str) -> Report:
    """What ffmpeg said, in figures."""
    stream = next((found for found in STREAM.finditer(said) if COVER not in found[3]), None)
    if stream is None:
        raise FfmpegError(NO_PICTURE)
    width, height = int(stream[1]), int(stream[2])
    if TURNED.search(said):
        width, height = height, width
    rate = RATE.search(stream[3]) or GUESSED_RATE.search(stream[3])
    counts = FRAMES.findall(said)
    frames = int(counts[-1]) if counts else 0
    complaints = tuple(text.strip()[:200] for text in COMPLAINT.findall(said))
    shown = Fraction(rate[1]) * (1000 if rate[2] else 1) if rate else None
    return Report(width, height, shown and exact_rate(shown), frames, complaints, _changes(said, stream))


def _changes(said: str, stream: re.Match[str]) -> str:
    """What changed along the way of a video that began as `stream` says; other colours are nothing to speak of."""
    first = f"{stream[1]}x{stream[2]}"
    for why in CHANGED.findall(said):
        if (size := SIZE.search(why)) and size[0] != first:
            return f"its picture changes size along the way, from {first} to {size[0]}: cut it there"
        if "matrix" in why:
            return "which way up its picture is meant to be seen changes along the way: encode it anew, upright"
    return ""


def exact_rate(shown: Fraction) -> Fraction:
    """The frame rate that was rounded to two digits, as ffmpeg shows it."""
    for whole in (24, 30, 48, 60, 120):
        if abs(Fraction(whole * 1000, 1001) - shown) <= Fraction(1, 200):
            return Fraction(whole * 1000, 1001)
    return shown
