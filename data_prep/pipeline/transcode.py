"""One source video to one prepared video, or the reason why not."""

import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data_prep.pipeline import avi, ffmpeg
from data_prep.pipeline.avi import Picture
from data_prep.pipeline.database import is_utf8, printable
from data_prep.pipeline.ffmpeg import FfmpegError, Report
from data_prep.pipeline.listing import Item
from data_prep.pipeline.produce import Facts
from vidkd.data import complete, container
from vidkd.errors import DataError

DAMAGE = 0.05  # decoder complaints a frame, from which on a video is unreadable
TUNE = "fastdecode"  # nearly twice the decoding speed for 7 % more bytes and 0.003 less SSIM (docs/performance.md)
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"  # the same pixels on every machine
UNKNOWN_FPS = 25  # where the file does not say


@dataclass(frozen=True)
class Settings:
    """How videos are encoded."""

    short_side: int = 128  # px; 0 keeps the source's size
    crf: int = 23
    preset: str = "veryfast"
    copy: bool = False  # take H.264 in MP4 as it is: quick to prepare, slower to read where it has B-frames
    timeout_s: float = 600.0

    def __str__(self) -> str:
        return f"transcode 2 {self.short_side} {self.crf} {self.preset} {self.copy}"


def transcode(settings: Settings, item: Item, target: Path) -> Facts:
    """Make `target` from the item's source; on failure the status and reason say why."""
    path = Path(item.source)
    kind, found = look(path)
    if found.status != "ok":
        return found
    try:
        if settings.copy and container.inspect(path).codec == "avc1":
            return _copied(path, kind, target, settings)
        return _encoded(path, kind, target, settings)
    except FfmpegError as error:
        return _failed(path, "refused" if ffmpeg.TOO_LARGE in str(error) else "unreadable", str(error))


def look(path: Path) -> tuple[str, Facts]:
    """The container of a file, and whether a decoder should get to see it: by its bytes alone."""
    if strange := [printable(part) for part in path.parts if not is_utf8(part)]:
        return "", _failed(path, "refused", f'the name "{strange[0]}" is not UTF-8; rename it')
    try:
        if not path.is_file():
            gone = "it is not there" if not path.exists() else "not a regular file"
            return "", _failed(path, "refused", gone)
        with path.open("rb") as file:
            kind = container.sniff(file.read(1024))
        if kind and (missing := complete.missing_bytes(path, kind)):
            return kind, _failed(path, "truncated", f"at least {missing} bytes are missing at its end")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or str(error)
        return "", _failed(path, "unreadable", f"cannot be read ({reason})")
    try:
        container.inspect(path)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        cut = kind == "mov" and "cut short" in reason
        damaged = "damaged" in reason
        return kind, _failed(path, "truncated" if cut else "unreadable" if damaged else "refused", reason)
    return kind, Facts()


def output_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even sides with the source's shape: the short one `short_side`, never larger than the source; 0 keeps it."""
    short = min(width, height)
    wanted = min(short, short_side) if short_side else short
    scale = wanted / short
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _copied(path: Path, kind: str, target: Path, settings: Settings) -> Facts:
    seen = ffmpeg.read(path, kind, settings.timeout_s)
    announced = container.inspect(path).frames
    if bad := _judge(path, seen, announced):
        return bad
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)
    return Facts(seen.frames, float(seen.fps or UNKNOWN_FPS), seen.width, seen.height, reason=_remark(seen, announced))


def _encoded(path: Path, kind: str, target: Path, settings: Settings) -> Facts:
    announced = _announced(path, kind)
    picture = announced or _picture(ffmpeg.read(path, kind, settings.timeout_s, first_frames=1))
    seen = _encode(path, kind, picture, target, settings)
    if announced and not _agree(announced, seen):
        picture = _picture(seen)
        seen = _encode(path, kind, picture, target, settings)
    expected = container.inspect(path).frames
    if bad := _judge(path, seen, expected):
        return bad
    width, height, frames = ffmpeg.count(target)
    if frames != seen.frames:
        return _failed(path, "unreadable", f"{seen.frames} frames went in and {frames} came out")
    return Facts(frames, float(picture.fps), width, height, reason=_remark(seen, expected))


def _announced(path: Path, kind: str) -> Picture | None:
    """What the header says is shown, where reading it takes no other program; it may be wrong."""
    if kind == "avi":
        return avi.picture(path)
    header = container.inspect(path)
    if header.stored is None or not header.fps:
        return None
    return Picture(header.width, header.height, ffmpeg.exact_rate(Fraction(round(100 * header.fps), 100)))


def _encode(path: Path, kind: str, picture: Picture, target: Path, settings: Settings) -> Report:
    width, height = output_size(picture.width, picture.height, settings.short_side)
    scale = f"scale={width}:{height}:{SCALING}"
    # Time stamps are set anew, evenly: every frame once, whatever stamps the source has.
    filters = ["-vf", f"{scale},settb=1/({picture.fps}),setpts=N", "-enc_time_base", "filter"]
    bounds = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-frames:v", str(container.MAX_FRAMES + 1)]
    output = ffmpeg.output(target, settings.crf, settings.preset, TUNE)
    return ffmpeg.report(ffmpeg.run([*ffmpeg.source(path, kind), *bounds, *filters, *output], settings.timeout_s))


def _picture(seen: Report) -> Picture:
    return Picture(seen.width, seen.height, seen.fps or Fraction(UNKNOWN_FPS))


def _agree(announced: Picture, seen: Report) -> bool:
    """Whether the header told the truth; ffmpeg rounds the frame rate to two digits."""
    same_rate = seen.fps is not None and abs(seen.fps - announced.fps) < Fraction(2, 100)
    return same_rate and (announced.width, announced.height) == (seen.width, seen.height)


def _judge(path: Path, seen: Report, announced: int) -> Facts | None:
    """What is wrong with a video that could be read, if anything; `announced` frames, 0 if unknown."""
    if seen.frames == 0:
        return _failed(path, "unreadable", seen.complaints[0] if seen.complaints else "it has no frames")
    if seen.frames > container.MAX_FRAMES:
        return _failed(path, "refused", f"more than {container.MAX_FRAMES} frames")
    if seen.changes:
        return _failed(path, "refused", seen.changes, seen.frames)
    first = f"; the first complaint: {seen.complaints[0]}" if seen.complaints else ""
    if seen.complaints and seen.frames < announced:
        return _failed(path, "truncated", f"{seen.frames} of {announced} frames could be decoded{first}", seen.frames)
    if len(seen.complaints) > DAMAGE * seen.frames:
        return _failed(path, "unreadable", f"damaged: {len(seen.complaints)} complaints{first}", seen.frames)
    return None


def _remark(seen: Report, announced: int) -> str:
    """A word in the index on a video that is used all the same."""
    remarks = [f"{len(seen.complaints)} decoder complaints: {seen.complaints[0]}"] if seen.complaints else []
    if announced not in (0, seen.frames):
        remarks.append(f"its header announces {announced} frames: the {seen.frames} that are shown count")
    if seen.fps is None:
        remarks.append(f"it does not say its frame rate: {UNKNOWN_FPS} assumed")
    return "; ".join(remarks)


def _failed(path: Path, status: str, reason: str, frames: int = 0) -> Facts:
    return Facts(frames=frames, status=status, reason=f"{printable(path.name)}: {reason}")
