"""A prepared data set of no size at all: a bright square moves in one of four directions."""

import hashlib
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow as pa

from vidkd import annotations
from vidkd.data import index
from vidkd.types import Segments

CLASSES = ("right", "left", "down", "up")
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def make(
    root: Path,
    train: int = 24,
    test: int = 13,
    frames: int = 12,
    size: int = 32,
    flip: str = "changes_labels",
    suffix: str = ".mp4",
    options: tuple[str, ...] = (),
) -> Path:
    """Write the data set into `root`: `train` and `test` videos, every fourth of a class, and 8 in part val.

    `options` are the encoder's, as in `encode`.
    """
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for part, count in (("train", train), ("val", 8), ("test", test)):
        for i in range(count):
            path = root / f"{part}_{i:03d}{suffix}"
            encode(path, square(rng, STEPS[i % 4], frames, size), *options)
            content = path.read_bytes()
            checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
            rows.append(
                {"path": path.name, "bytes": len(content), "checksum": checksum, "frames": frames, "fps": 25.0}
                | {"width": size, "height": size, "label": CLASSES[i % 4], "group": "", "status": "ok", "reason": ""}
                | {"split1": part}
            )
    schema = pa.schema([*index.SCHEMA.items(), ("split1", pa.string())])
    index.write(root, pa.Table.from_pylist(rows, schema), CLASSES, {"name": "tiny", "horizontal_flip": flip})
    middle = [(row["path"].removesuffix(".mp4"), 0.1, frames / 25 - 0.1, row["label"]) for row in rows]
    annotations.write(root / "segments.csv", Segments.of(middle))  # for the task detection
    return root


def square(rng: np.random.Generator, step: tuple[int, int], frames: int, size: int) -> np.ndarray:
    """[T, H, W, 3] uint8: noise, and a square that wraps around."""
    clip = rng.integers(0, 40, (frames, size, size, 3)).astype(np.uint8)
    y, x = rng.integers(0, size, 2)
    side = size // 4
    for t in range(frames):
        ys = (y + 2 * t * step[0] + np.arange(side)) % size
        xs = (x + 2 * t * step[1] + np.arange(side)) % size
        clip[t][np.ix_(ys, xs)] = 230
    return clip


def encode(path: Path, clip: np.ndarray, *options: str) -> None:
    """[T, H, W, 3] uint8 to a video file at 25 frames/s; H.264 without B-frames unless `options` say otherwise."""
    _, h, w, _ = clip.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r", "25", "-i", "-"]
    codec = options or ("-c:v", "libx264", "-g", "16", "-bf", "0", "-pix_fmt", "yuv420p", "-crf", "12")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *raw, *codec, str(path)]
    subprocess.run(command, input=clip.tobytes(), check=True)
