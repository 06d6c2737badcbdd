"""python -m vidkd.extract DATA --out FOLDER (--model RUN | --network NAME --size-px N [--weights FILE])
                           [--tap late] [--window 16] [--stride 8] [--fps 10]

Features of every video of a prepared data set: what a network's tap says of a window that slides over it, averaged over
the window, one row of FOLDER/<video>.npy [T, C] (float32) every --stride frames. Row i is centred on frame
(i + 1/2) * stride of the video as it is read (at --fps, or at its own rate); beyond its ends the video stands still.

FOLDER is a prepared data set again, of features: data.root of a run whose network is `sequence`, or a `detector` on it.
features.json says what they are: frames a second, window, stride, offset (the centre of the first row), network, tap,
weights. The same command goes on where it was stopped; videos that are done are not opened again.
"""

import argparse
import hashlib
import io
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError
from torch import Tensor
from tqdm import tqdm

from vidkd import checkpoint, cli, distiller, export, run_dir
from vidkd.config import ClipSpec, Network
from vidkd.data import features, index, sampling, transforms, walking
from vidkd.data.decode import open_video
from vidkd.data.index import Index
from vidkd.errors import ConfigError, DataError, one_of
from vidkd.taps import Tapped
from vidkd.types import View

REMEDY = "; delete the folder and extract again"  # where what it says of itself cannot be read
KEPT = ("segments.csv", "ambiguous.csv")  # what a task reads beside the index


@dataclass(frozen=True)
class Recipe:
    """How a video becomes features."""

    network: Tapped
    tap: str
    window: int  # frames
    stride: int
    size_px: int
    fps: float | None  # None: each video at its own rate
    batch: int


def main(argv: list[str]) -> int:
    args = _arguments().parse_args(argv)
    recipe, said = _recipe(args)
    data = index.read(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, **said, "index_sha256": data.checksum()}
    description = args.out / features.DESCRIPTION
    if description.exists() and (found := run_dir.differences(about, run_dir.read_json(description, REMEDY))):
        raise ConfigError(f"{args.out}: holds other features: {'; '.join(found)}; choose another --out")
    checkpoint.write_atomic(description, (json.dumps(about, indent=1) + "\n").encode())
    made = extract(data, recipe, args.out)
    print(f"{made} of {len(data)} videos extracted into {args.out}, the others were there")
    return 0


def extract(data: Index, recipe: Recipe, out: Path) -> int:
    """Features of every video of the index, and the index of them; how many were not there yet. DataError for a video
    that is not as the index says."""
    bad = [row for row in data.facts.select(["path", "status"]).to_pylist() if row["status"] != "ok"]
    if bad:
        raise DataError(
            f"{data.root}: {bad[0]['path']!r} is {bad[0]['status']}; mend it and prepare the data set again"
        )
    rows, made = [], 0
    table = data.table
    for row in tqdm(table.to_pylist(), unit="video", disable=None):
        name = str(Path(row["path"]).with_suffix(".npy"))
        target = out / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_atomic(target, _npy(of_video(data.root / row["path"], recipe)))
            made += 1
        content = target.read_bytes()
        facts = {"path": name, "bytes": len(content), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}"}
        facts |= {"frames": features.Features(target).frames, "fps": (recipe.fps or row["fps"]) / recipe.stride}
        rows.append(row | facts | {"width": 1, "height": 1})
    for name in KEPT:
        if (data.root / name).exists():
            shutil.copyfile(data.root / name, out / name)
    description = json.loads((out / features.DESCRIPTION).read_text(encoding="utf-8"))
    card = {"name": f"{data.name}_features", "horizontal_flip": "changes_labels"}
    card |= {"modality": "features", "features": description}
    index.write(out, pa.Table.from_pylist(rows, table.schema), data.classes, card)
    return made


@torch.no_grad()
def of_video(path: Path, recipe: Recipe) -> Tensor:
    """[T, C] float32: one row for every `stride` frames that are read, the last one perhaps for fewer."""
    network = recipe.network
    with open_video(path) as video:
        source = sampling.at_rate(video.frames, video.fps, recipe.fps)
        first = recipe.stride // 2 - recipe.window // 2
        starts = range(first, first + math.ceil(len(source) / recipe.stride) * recipe.stride, recipe.stride)
        spans = [[source[min(max(i, 0), len(source) - 1)] for i in range(s, s + recipe.window)] for s in starts]

        def made(_: int, frame: Tensor) -> Tensor:
            window = transforms.centre(*frame.shape[1:])
            return transforms.view(transforms.crop(frame[None], window), transforms.Drawn(window), recipe.size_px)[0]

        found = []
        for portion in walking.portions(video, spans, recipe.batch, made, set()):
            seen: View = network(torch.stack(portion).transpose(1, 2).to(network.mean.device))
            found.append(seen.taps[recipe.tap].float().flatten(2).mean(dim=2).cpu())
    everything = torch.cat(found)
    if not torch.isfinite(everything).all():
        raise DataError(f"{path}: the network's answers are not finite; its weights are bad")
    return everything


def _recipe(args: argparse.Namespace) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and the description of what it makes."""
    if (args.model is None) == (args.network is None):
        raise ConfigError("say what extracts: either --model RUN, or --network NAME with --size-px N")
    for name in ("window", "stride", "batch", "fps"):
        if (value := getattr(args, name)) is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name} {value}: must be positive")
    if args.model is not None:
        student = export.load_student(args.model)
        network, size_px, clip, fps = student.tapped, student.view.size_px, student.clip, student.fps
        weights = args.model / export.WEIGHTS if args.model.is_dir() else args.model
    else:
        network, size_px, clip, fps, weights = *_of_the_zoo(args), ClipSpec(frames=16), None, args.weights
    if args.tap not in network.taps or network.taps[args.tap].axes != "BCTHW":
        maps = [name for name, tap in network.taps.items() if tap.axes == "BCTHW"]
        raise ConfigError(f"--tap: {network.name}: {one_of(args.tap, maps, 'map')}")
    window, rate = args.window or clip.frames, args.fps or fps
    network.input.check(network.name, window, size_px)
    recipe = Recipe(
        network.eval().to(args.device), args.tap, window, args.stride or max(window // 2, 1), size_px, rate, args.batch
    )
    said = {"network": network.name, "tap": args.tap, "channels": network.taps[args.tap].channels, "size_px": size_px}
    said |= {"weights_sha256": weights and hashlib.sha256(weights.read_bytes()).hexdigest(), "video_fps": rate}
    said |= {"window_frames": window, "stride_frames": recipe.stride, "offset_frames": recipe.stride / 2}
    return recipe, said


def _of_the_zoo(args: argparse.Namespace) -> tuple[Tapped, int]:
    if args.size_px is None:
        raise ConfigError("--network needs --size-px, the side of what it sees")
    try:
        section = Network.model_validate(
            {"name": args.network, "weights": args.weights, "reset_head": args.weights is not None}
            | {"view": {"size_px": args.size_px}}
        )
    except ValidationError as error:
        raise ConfigError(f"--network, --size-px: {error.errors()[0]['msg']}") from None
    torch.manual_seed(0)  # without weights, the same random ones every time
    network, account = distiller.build_network(section, 1, args.window or 16)
    print(account or f"{section.name}: no --weights, random ones")
    return network, args.size_px


def _npy(rows: Tensor) -> bytes:
    content = io.BytesIO()
    np.save(content, rows.numpy())
    return content.getvalue()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidkd.extract", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a prepared data set (python -m data_prep)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", type=Path, metavar="RUN", help="a run directory, or the student.safetensors in it")
    parser.add_argument("--network", metavar="NAME", help="a network of the zoo")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of --network")
    parser.add_argument("--size-px", type=int, metavar="N", help="side of what --network sees")
    parser.add_argument("--tap", default="late", help="which map (default: late)")
    parser.add_argument("--window", type=int, metavar="N", help="frames (default: the model's clip, or 16)")
    parser.add_argument("--stride", type=int, metavar="N", help="frames between rows (default: half a window)")
    parser.add_argument("--fps", type=float, metavar="N", help="read at this rate (default: the model's, or as it is)")
    cli.add_window_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
