"""python -m vidkd.data.show ROOT [--config CONFIG [KEY=VALUE ...]] [--out SHEET.png] [--part PART] [--clips N]

A contact sheet of what the networks really see of the prepared data set ROOT: clips as the loader makes them in
training, every view of a clip in its own row, its frames below each other where they show the same moment.
Without CONFIG: a usual configuration, a teacher at 112 px and a student at 56 px with half the frames.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vidkd import config_file
from vidkd.config import ClipSpec, Data, ViewSpec
from vidkd.data import clips, colours, index, order, sampling
from vidkd.data.index import Index, Part
from vidkd.errors import ConfigError, VidkdError

INCHES = 1.15  # a frame's side on the sheet
DPI = 100
LETTERS = 28  # of a video's name


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.data.show", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of CONFIG")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--split", help="default: the configuration's, or the first there is")
    parser.add_argument("--part", help="default: the configuration's training part, or train")
    parser.add_argument("--clips", type=int, default=6, help="videos, spread over the part")
    parser.add_argument("--epoch", type=int, default=0, help="another epoch shows other clips of the same videos")
    args = parser.parse_intermixed_args(argv)
    if args.clips < 1 or args.epoch < 0:
        raise ConfigError(f"--clips {args.clips} --epoch {args.epoch}: at least 1 clip, of epoch 0 or later")
    data_set = index.read(args.root)
    data, views = _settings(args.root, args.config, args.overrides, data_set)
    part = data_set.part(args.split or data.split, args.part or data.train)
    sheet = draw(data_set, part, data, views, args.clips, args.epoch)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(sheet).print_png(args.out)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: cannot be written ({error.strerror})") from None
    print(f"written to {args.out}: look at it")  # noqa: T201
    return 0


def _settings(
    root: Path, config: Path | None, overrides: list[str], data_set: Index
) -> tuple[Data, dict[str, ViewSpec]]:
    if config is not None:
        run = config_file.load(config, [*overrides, f"data.root={root}"])
        clips.check(data_set, run)
        return run.data, run.views()
    if overrides:
        raise ConfigError(f"{overrides[0]}: overrides are of a configuration; say which with --config")
    flip = 0.0 if data_set.flip_changes_labels else 0.5
    usual = {"root": root, "split": data_set.splits[0] if data_set.splits else "split1", "augment": {"flip": flip}}
    data = Data.model_validate(usual | {"clip": ClipSpec(frames=16, stride=2)})
    return data, {"teacher": ViewSpec(size_px=112), "student": ViewSpec(size_px=56, frames=8)}


def draw(data_set: Index, part: Part, data: Data, views: dict[str, ViewSpec], n: int, epoch: int) -> Figure:
    """`n` videos of the part, one row a view, one column a frame of the clip."""
    positions = sorted({round(k * (len(part) - 1) / max(n - 1, 1)) for k in range(n)})
    source = clips.TrainClips(part, data, views, run_seed=0)
    columns, rows = data.clip.frames, len(positions) * len(views)
    figure = Figure(figsize=(columns * INCHES + 2.2, rows * (INCHES + 0.3) + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(
        f"{data_set.name}, {data.clip.frames} frames {data.clip.stride} apart, epoch {epoch}; under each frame: "
        f"its number in the video and its time{f'; {colours.LEGEND}' if data_set.modality == 'flow' else ''}",
        fontsize=11,
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, i in enumerate(positions):
        video, item = part[i], source.load((epoch, i))
        indices, _ = source.span(video, order.generator(data.seed, epoch, i))  # its first draw, as in the clip
        for below, (name, frames) in enumerate(item.views.items()):
            line = axes[row * len(views) + below]
            kept = sampling.subsample(range(columns), frames.shape[2])
            _row(line, frames[0].transpose(0, 1), kept, [(j, j / video.fps) for j in indices])
            label = f"{name}\n{frames.shape[-1]} px, {frames.shape[2]} frames"
            heading = (
                f"{data_set.classes[video.label]}\n{_ending(video.name.rsplit('/', 1)[-1])}\n" if not below else ""
            )
            line[0].text(-0.12, 0.5, heading + label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def _ending(name: str) -> str:
    """The name, or an ellipsis and its end: videos of one source differ there."""
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"


def _row(line: list, frames: Tensor, columns: list[int], times: list[tuple[int, float]]) -> None:
    """Each frame of [T, C, H, W] in its column, pixel for pixel; nothing in the columns that the view leaves out."""
    for axis in line:
        axis.set_axis_off()
    for column, frame in zip(columns, colours.rgb(frames.to(torch.uint8)), strict=True):
        line[column].imshow(frame.permute(1, 2, 0).numpy(), interpolation="nearest")
        number, seconds = times[column]
        line[column].set_title(f"{number} · {seconds:.2f} s", fontsize=7, y=-0.2)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VidkdError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
