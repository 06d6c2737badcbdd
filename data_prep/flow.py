"""Optical flow of a prepared data set: a data set of its own, of the same videos, labels and splits.

A second network is trained on it, and its answers are averaged with those of the first (two streams). Frame t shows the
motion from t to t + 1 (the last one repeats), x and y in px of the prepared picture, cut off at --bound and brought to
0..255: 128 is rest. Needs OpenCV: pip install 'vidkd[flow]'.
"""

import argparse
import functools
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from data_prep.pipeline import claim, prepare, produce, writer
from data_prep.pipeline import pack as packing
from data_prep.pipeline.listing import Item, Listing, Rows
from data_prep.pipeline.produce import Facts
from vidkd.data import flow, index
from vidkd.data.decode import open_video, pack
from vidkd.data.flow import ALGORITHMS, Settings
from vidkd.data.index import pc
from vidkd.errors import ConfigError, DataError

NAMES = {"flow": "optical flow already", "features": "features, no videos"}
SEGMENTS = ("segments.csv", "ambiguous.csv")  # of a data set for detection: they go along


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("--root", type=Path, required=True, help="the prepared data set of the videos")
    prepare.add_output_arguments(parser)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=defaults.algorithm, help="(%(default)s)")
    parser.add_argument("--bound", type=float, default=defaults.bound_px, metavar="PX", help="(%(default)s a frame)")


def run(args: argparse.Namespace) -> int:
    if args.bound <= 0 or args.workers < 0:
        raise ConfigError("--bound must be above 0, --workers 0 or more")
    flow.check()
    data = index.read(args.root)
    if data.modality != "rgb":
        raise DataError(f"{args.root}: holds {NAMES[data.modality]}; give the data set that it was made of")
    settings = Settings(args.algorithm, args.bound)
    listing = listing_of(data)
    with claim.claimed(args.out, listing):
        produce.produce(args.out, listing, functools.partial(make_flow, settings), str(settings), args.workers)
        for name in SEGMENTS:
            if (data.root / name).is_file():
                shutil.copyfile(data.root / name, args.out / name)
        failed = pc.sum(pc.not_equal(data.facts["status"], "ok")).as_py()  # there already, and in no part
        return writer.finish(args.out, listing, str(settings), asdict(settings), failed)


def listing_of(data: index.Index) -> Listing:
    """The videos of a prepared data set, to be made into flow."""

    def items() -> Iterator[Item]:
        for batch in data.batches("path", "label", "group", *data.splits):
            for row in batch.to_pylist():
                parts = tuple(row[split] for split in data.splits)
                yield Item(row["path"], str((data.root / row["path"]).absolute()), row["label"], row["group"], parts)

    listing = Listing(
        name=f"{data.name} flow",
        classes=data.classes,
        rows=Rows(items(), data.splits),
        horizontal_flip=data.card["horizontal_flip"],
        licence="as of the videos",
        notes={"made_of": str(data.root), "index": data.checksum()},
    )
    return packing.listing_of(listing, "flow")


def make_flow(settings: Settings, item: Item, target: Path) -> Facts:
    """Write the flow of the item's video into `target`."""
    try:
        with open_video(Path(item.source)) as video:
            frames, fps = video.frames, video.fps
            width, height = pack(flow.flow_of(video, settings), target, "flow")
        return Facts(frames, fps, width, height)
    except DataError as error:
        return Facts(status="unreadable", reason=str(error))
