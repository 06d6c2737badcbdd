"""Optical flow of a prepared data set: a data set of its own, of the same videos, labels and splits.

A second network is trained on it, and its answers are averaged with those of the first (two streams). Frame t shows the
motion from t to t + 1 (the last one repeats), x and y in px of the prepared picture, cut off at --bound and brought to
0..255: 128 is rest. Needs OpenCV: pip install 'vidkd[flow]'.
"""

import argparse
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.pipeline import pack as packing
from data_prep.pipeline import prepare, produce, writer
from data_prep.pipeline.listing import Item, Listing, table_of
from data_prep.pipeline.produce import Facts
from vidkd.data import index
from vidkd.data.index import pc
from vidkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from vidkd.data.decode import Video

ALGORITHMS = ("dis", "farneback")
NAMES = {"flow": "optical flow already", "features": "features, no videos"}
SEGMENTS = "segments.csv"  # of a data set for detection: it goes along


@dataclass(frozen=True)
class Settings:
    """How flow is computed and stored."""

    algorithm: str = "dis"  # Kroeger et al., ECCV 2016, OpenCV's medium preset; or farneback, SCIA 2003
    bound_px: float = 20.0  # what is faster along x or y is stored as that fast

    def __str__(self) -> str:
        return f"flow 1 {self.algorithm} {self.bound_px:g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("--root", type=Path, required=True, help="the prepared data set of the videos")
    prepare.add_output_arguments(parser)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=defaults.algorithm, help="(%(default)s)")
    parser.add_argument("--bound", type=float, default=defaults.bound_px, metavar="PX", help="(%(default)s a frame)")


def run(args: argparse.Namespace) -> int:
    if args.bound <= 0 or args.workers < 0:
        raise ConfigError("--bound must be above 0, --workers 0 or more")
    if find_spec("cv2") is None:
        raise ConfigError("optical flow needs OpenCV, which is not installed here: pip install 'vidkd[flow]'")
    data = index.read(args.root)
    if data.modality != "rgb":
        raise DataError(f"{args.root}: holds {NAMES[data.modality]}; give the data set that it was made of")
    settings = Settings(args.algorithm, args.bound)
    listing = listing_of(data)
    produce.produce(args.out, listing, functools.partial(make_flow, settings), str(settings), args.workers)
    if (data.root / SEGMENTS).is_file():
        shutil.copyfile(data.root / SEGMENTS, args.out / SEGMENTS)
    failed = pc.sum(pc.not_equal(data.table["status"], "ok")).as_py()  # there already, and in no part
    return writer.finish(args.out, listing, asdict(settings), failed)


def listing_of(data: index.Index) -> Listing:
    """The videos of a prepared data set, to be made into flow."""

    def items() -> Iterator[Item]:
        for row in data.table.to_pylist():
            parts = tuple(row[split] for split in data.splits)
            yield Item(row["path"], str((data.root / row["path"]).absolute()), row["label"], row["group"], parts)

    listing = Listing(
        name=f"{data.name} flow",
        classes=data.classes,
        splits=tuple(data.splits),
        table=table_of(items(), data.splits),
        horizontal_flip=data.card["horizontal_flip"],
        licence="as of the videos",
        notes={"made_of": str(data.root), "index": data.checksum()},
    )
    return packing.listing_of(listing, "flow")


def make_flow(settings: Settings, item: Item, target: Path) -> Facts:
    """Write the flow of the item's video into `target`."""
    from vidkd.data.decode import open_video, pack  # imports torch

    try:
        with open_video(Path(item.source)) as video:
            frames, fps = video.frames, video.fps
            width, height = pack(video, target, "flow", flow(video, settings))
        return Facts(frames, fps, width, height)
    except DataError as error:
        return Facts(status="unreadable", reason=str(error))


def flow(video: "Video", settings: Settings) -> "Iterator[Tensor]":
    """[2, H, W] uint8 for each frame of the video: the motion to the next one along x and y."""
    import cv2
    import torch

    cv2.setNumThreads(1)  # each worker is one process already

    def stored(motion: Any) -> "Tensor":
        bound = settings.bound_px
        share = (torch.from_numpy(motion).permute(2, 0, 1).clamp(-bound, bound) + bound) / (2 * bound)
        return (255 * share).round().to(torch.uint8)

    compute = _algorithm(settings.algorithm)
    before: Any = None
    made: Tensor | None = None
    for frame in video.walk(range(video.frames)):
        gray = cv2.cvtColor(frame.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        if before is not None:
            made = stored(compute(before, gray))
            yield made
        before = gray
    if before is not None:
        yield made if made is not None else torch.full((2, *before.shape), 128, dtype=torch.uint8)


def _algorithm(name: str) -> Callable[[Any, Any], Any]:
    """(gray [H, W] uint8, the next one) -> [H, W, 2] float, px."""
    cv2: Any = import_module("cv2")  # its type stubs refuse None where it asks for it

    if name == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    parameters = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, **parameters, flags=0)
