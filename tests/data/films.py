"""Films in MP4 as they are prepared, and what the demuxer says of them."""

from pathlib import Path

import torch

from data import numbered
from vidkd.data import container, decode
from vidkd.data.decode import Facts
from vidkd.data.pyav import PyAV
from vidkd.errors import DataError

PREPARED = numbered.KINDS["prepared"][1]


def film(path: Path, options: str, size: str = "128x96", frames: int = 50) -> Path:
    """A moving picture with colours, so that a wrong conversion shows."""
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25"]
    output = ["-frames:v", str(frames), "-pix_fmt", "yuv420p", str(path)]
    numbered.ffmpeg([*source, *options.split(), *output])
    return path


def sequence(path: Path) -> torch.Tensor:
    """[N, 3, H, W]: every frame, from the start to the end, through FFmpeg's demuxer."""
    frames = PyAV(path, Facts("mov"))
    try:
        return frames.read(list(range(frames.frames)))
    finally:
        frames.close()


def container_stored(path: Path):
    with path.open("rb") as file:
        return container._mp4_header(path, file, path.stat().st_size).stored


def frames_or_error(path: Path, indices: list[int], decoder: decode.Decoder = "auto") -> torch.Tensor | str:
    try:
        with decode.open_video(path, decoder) as video:
            return video.get(indices)
    except DataError as error:
        return str(error)
