"""Videos whose frame number can be read off the picture: 16 black or white blocks, a bit each."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
from torch import Tensor

from vidkd.data import index
from vidkd.data.index import Index

FRAMES = 90
BLOCKS = 4  # a side

# name -> (file suffix, ffmpeg's output options)
KINDS: dict[str, tuple[str, str]] = {
    "prepared": (".mp4", "-c:v libx264 -preset veryfast -g 16 -bf 0 -sc_threshold 0"),
    "h264_b_frames": (".mp4", "-c:v libx264 -preset fast -g 24 -bf 3 -b_strategy 0 -sc_threshold 0"),
    "h264_pyramid": (
        ".mov",
        "-c:v libx264 -preset fast -g 40 -bf 4 -sc_threshold 0 -b-pyramid normal -movflags +faststart",
    ),
    "h264_open_group": (
        ".mp4",
        "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -sc_threshold 0 -x264-params keyint=24:open-gop=1:scenecut=0",
    ),
    "h264_short_groups": (".mp4", "-c:v libx264 -preset fast -g 24 -bf 2 -movflags frag_keyframe+empty_moov"),
    "vfr_short_groups": (".mp4", "-vf setpts=N+N*N/20 -fps_mode passthrough -c:v libx264 -preset fast -g 24 -bf 2"),
    "h264_mkv": (".mkv", "-c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0"),
    "h264_mkv_open_group": (
        ".mkv",
        "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -sc_threshold 0 -x264-params keyint=24:open-gop=1:scenecut=0",
    ),
    "h264_mkv_no_b_frames": (".mkv", "-c:v libx264 -preset fast -g 24 -bf 0 -sc_threshold 0 -x264-params slices=3"),
    # Its "key frames" are whole some frames later: a column at a time is drawn anew.
    "h264_refreshed": (".mp4", "-c:v libx264 -preset veryfast -g 12 -bf 0 -x264-params intra-refresh=1"),
    "h264_mkv_refreshed": (".mkv", "-c:v libx264 -preset veryfast -g 12 -bf 0 -x264-params intra-refresh=1"),
    "h264_fragmented_refreshed": (
        ".mp4",
        "-c:v libx264 -preset veryfast -g 12 -bf 0 -x264-params intra-refresh=1 -movflags frag_keyframe+empty_moov",
    ),
    "h264_all_intra": (".mp4", "-c:v libx264 -preset veryfast -g 1"),
    "h264_fragmented": (
        ".mp4",
        "-c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0 -movflags frag_keyframe+empty_moov",
    ),
    "h264_late_start": (".mp4", "-c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0 -output_ts_offset 5"),
    "h264_avi": (".avi", "-c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0"),
    "h264_ts": (".ts", "-c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0"),
    "h264_flv": (".flv", "-c:v libx264 -preset fast -g 24 -bf 0"),
    "vfr_mp4": (
        ".mp4",
        "-vf setpts=N+N*N/20 -fps_mode passthrough -c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0",
    ),
    "vfr_mkv": (
        ".mkv",
        "-vf setpts=N+N*N/20 -fps_mode passthrough -c:v libx264 -preset fast -g 24 -bf 2 -sc_threshold 0",
    ),
    "vp9_webm": (".webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 24 -b:v 1M"),
    "vp8_webm": (".webm", "-c:v libvpx -deadline realtime -cpu-used 8 -g 24 -b:v 1M"),
    "hevc_mp4": (".mp4", "-c:v libx265 -preset ultrafast -x265-params keyint=24:bframes=3:log-level=none"),
    "xvid_avi": (".avi", "-c:v libxvid -g 24 -q:v 3"),
    "mpeg4_avi": (".avi", "-c:v mpeg4 -vtag XVID -g 12 -bf 2 -q:v 3"),
    "mpeg4_avi_one_key_frame": (".avi", "-c:v mpeg4 -g 600 -bf 2 -q:v 3 -sc_threshold 1000000000"),
    "mpeg4_avi_no_b_frames": (".avi", "-c:v mpeg4 -g 12 -bf 0 -q:v 3"),
    "mpeg4_mp4": (".mp4", "-c:v mpeg4 -g 24 -bf 2 -sc_threshold 0 -q:v 3"),
    "mjpeg_avi": (".avi", "-c:v mjpeg -q:v 3"),
    "mpeg2_ps": (".mpg", "-c:v mpeg2video -g 12 -bf 2 -q:v 3"),
    "wmv": (".wmv", "-c:v wmv2 -g 12 -q:v 3"),
    "av1_mp4": (".mp4", "-c:v libsvtav1 -preset 12 -g 24 -svtav1-params lookahead=0"),
    "ten_bits": (".mp4", "-c:v libx264 -preset fast -pix_fmt yuv420p10le -g 24 -bf 2 -sc_threshold 0"),
    "full_chroma": (".mp4", "-c:v libx264 -preset fast -pix_fmt yuv444p -g 24 -bf 2 -sc_threshold 0"),
}


def picture(number: int, width: int, height: int) -> np.ndarray:
    """[H, W, 3] uint8."""
    y = np.arange(height)[:, None] * BLOCKS // height
    x = np.arange(width)[None, :] * BLOCKS // width
    bit = (number >> (y * BLOCKS + x)) & 1
    return np.repeat((bit * 200 + 25).astype(np.uint8)[:, :, None], 3, axis=2)


def encode(path: Path, options: str, frames: int = FRAMES, size: tuple[int, int] = (128, 96), fps: int = 25) -> Path:
    """A video of `frames` numbered frames of `size` (width, height)."""
    width, height = size
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i pipe:"
    format_ = "" if "-pix_fmt" in options or "mjpeg" in options else "-pix_fmt yuv420p"
    ffmpeg([*source.split(), *options.split(), *format_.split(), "-threads", "1", str(path)], width, height, frames)
    return path


def prepared(root: Path, frames: Sequence[int], size: tuple[int, int] = (96, 96), train: int | None = None) -> Index:
    """A prepared data set of one video for each number of `frames`; the first `train` of them train, the rest test."""
    rows = []
    for i, n in enumerate(frames):
        path = encode(root / f"clip_{i}.mp4", KINDS["prepared"][1], n, size)
        row = {"path": path.name, "bytes": path.stat().st_size, "checksum": "", "frames": n, "fps": 25.0}
        row |= {"width": size[0], "height": size[1], "label": "ab"[i % 2], "group": "", "status": "ok", "reason": ""}
        rows.append(row | {"split1": "train" if train is None or i < train else "test"})
    schema = pa.schema([*index.SCHEMA.items(), ("split1", pa.string())])
    card = {"name": "numbered", "horizontal_flip": "keeps_labels"}
    index.write(root, pa.Table.from_pylist(rows, schema), ("a", "b"), card)
    return index.read(root)


def ffmpeg(arguments: Sequence[str], width: int = 0, height: int = 0, frames: int = 0) -> None:
    pictures = b"".join(picture(i, width, height).tobytes() for i in range(frames))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *arguments]
    done = subprocess.run(command, input=pictures, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def numbers(frames: Tensor) -> list[int]:
    """The numbers drawn in frames [T, 3, H, W]."""
    gray = frames.float().mean(1)
    height, width = gray.shape[1:]
    found = []
    for frame in gray:
        number = 0
        for row in range(BLOCKS):
            for column in range(BLOCKS):
                y, x = (2 * row + 1) * height // (2 * BLOCKS), (2 * column + 1) * width // (2 * BLOCKS)
                if frame[y - 3 : y + 4, x - 3 : x + 4].mean() > 125:
                    number |= 1 << (row * BLOCKS + column)
        found.append(number)
    return found
