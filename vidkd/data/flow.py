"""Optical flow in the place of pictures: what moves where in a video, computed from it as it is read.

Frame t shows the motion from t to t + 1 (the last one repeats), x and y in px of the picture it is computed in, cut off
at a bound and brought to 0..255: 128 is rest. Needs OpenCV: pip install 'vidkd[flow]'.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vidkd.data import container
from vidkd.data.decode import Video, open_video
from vidkd.errors import ConfigError, DataError

ALGORITHMS = ("dis", "farneback")


@dataclass(frozen=True)
class Settings:
    """How flow is computed and stored."""

    algorithm: str = "dis"  # Kroeger et al., ECCV 2016, OpenCV's medium preset; or farneback, SCIA 2003
    bound_px: float = 20.0  # what is faster along x or y is stored as that fast

    def __str__(self) -> str:
        return f"flow 1 {self.algorithm} {self.bound_px:g}"


def check() -> None:
    """ConfigError where OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise ConfigError("optical flow needs OpenCV, which is not installed here: pip install 'vidkd[flow]'")


def is_flow(path: Path) -> bool:
    """Whether the file holds optical flow, as data_prep stores it."""
    header = container.inspect(path)
    return header.kind == "packed" and header.codec == "flow"


class Flow:
    """A decoder's place: the flow of an open video, which stays its owner's to close."""

    errors: tuple[type[Exception], ...] = ()  # those of the video are DataErrors already

    def __init__(self, video: Video, settings: Settings = Settings(), short_side_px: int | None = None) -> None:
        """`short_side_px`: of the pictures that motion is seen in, which are made smaller before; None: as they are."""
        self.video, self.settings = video, settings
        width, height = video.width, video.height
        short = min(width, height)
        scale = min(short, short_side_px or short) / short
        self.size_px = round(width * scale), round(height * scale)

    @property
    def frames(self) -> int:
        return self.video.frames

    @property
    def fps(self) -> float:
        return self.video.fps

    def read(self, indices: list[int]) -> Tensor:
        """[n, 2, H, W] uint8, fewer where the video ends before."""
        made = list(self.walk(indices))
        return torch.stack(made) if made else torch.empty(0, 2, *self.size_px[::-1], dtype=torch.uint8)

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        """[2, H, W] uint8, one by one, for the frames at `indices`, ascending and each once."""
        last = self.frames - 1
        pairs = [(i, i + 1) if i < last else (max(last - 1, 0), last) for i in indices if i <= last]
        compute, held = _algorithm(self.settings.algorithm), {}
        needed = sorted({i for pair in pairs for i in pair})
        frames = zip(needed, self.video.walk(needed), strict=True)
        for first, second in pairs:
            while second not in held:
                i, frame = next(frames)
                held = {j: gray for j, gray in held.items() if j >= first} | {i: self._gray(frame)}
            yield self._stored(compute(held[first], held[second]) if first != second else None)

    def close(self) -> None:
        """The video is its owner's."""

    def _gray(self, frame: Tensor) -> Any:
        cv2: Any = import_module("cv2")
        width, height = self.size_px
        if tuple(frame.shape[1:]) != (height, width):
            frame = F.resize(frame, [height, width], antialias=True)
        return cv2.cvtColor(frame.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)

    def _stored(self, motion: Any) -> Tensor:
        if motion is None:  # a video of one frame rests
            return torch.full((2, *self.size_px[::-1]), 128, dtype=torch.uint8)
        bound = self.settings.bound_px
        share = (torch.from_numpy(motion).permute(2, 0, 1).clamp(-bound, bound) + bound) / (2 * bound)
        return (255 * share).round().to(torch.uint8)


def flow_of(video: Video, settings: Settings = Settings(), short_side_px: int | None = None) -> Video:
    """The flow of an open video, as a video."""
    check()
    return Video(video.path, "flow", Flow(video, settings, short_side_px))


@contextmanager
def instead_of(video: Video, stored: Path | None, short_side_px: int | None) -> Iterator[Video]:
    """What a network of flow sees of the open `video`: itself if it is flow, the flow `stored` of it, or that computed
    in pictures of `short_side_px`. ConfigError if neither is said; DataError for what is not the flow of this video."""
    if is_flow(video.path):
        yield video
    elif stored is not None:
        if not is_flow(stored):
            raise DataError(f"{stored}: holds no optical flow that data_prep flow has stored")
        with open_video(stored) as flow:
            if flow.frames != video.frames:
                raise DataError(f"{stored}: {flow.frames} frames, the video has {video.frames}; it is of another one")
            yield flow
    elif short_side_px is not None:
        yield flow_of(video, short_side_px=short_side_px)
    else:
        raise ConfigError(
            "a network of optical flow: give --flow FILE (python -m data_prep flow), or --flow-side PX to compute it, "
            "the short side of the videos that it was trained on the flow of"
        )


def _algorithm(name: str) -> Callable[[Any, Any], Any]:
    """(gray [H, W] uint8, the next one) -> [H, W, 2] float, px."""
    cv2: Any = import_module("cv2")  # its type stubs refuse None where it asks for it
    cv2.setNumThreads(1)  # whoever computes flow of many videos has processes already
    if name == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    parameters = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, **parameters, flags=0)
