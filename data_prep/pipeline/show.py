"""Write a contact sheet of a prepared data set: a row a video, frames from its start to its end."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.pipeline import verify
from vidkd.data import index
from vidkd.data.index import pc
from vidkd.errors import ConfigError, DataError

LETTERS = 34  # a line beside the frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a prepared data set")
    parser.add_argument("--sheet", type=Path, required=True, help="the picture to write: .png, .jpg, .pdf, .svg")
    parser.add_argument("--videos", type=int, default=16, help="rows, the classes in turn (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="columns (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    if args.videos < 1 or args.frames < 1:
        raise ConfigError("--videos and --frames must be 1 or more")
    data = index.read(args.folder)
    rows = unchanged(data, pick(data, args.videos))
    try:
        _draw(data, rows, args.frames, args.sheet)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise ConfigError(f"--sheet {args.sheet}: cannot be written ({error})") from None
    print(f"{args.sheet}: {len(rows)} of {len(data)} videos of {data.name}")
    return 0


def pick(data: index.Index, count: int) -> list[dict[str, Any]]:
    """Videos of every class in turn, spread over the class: neighbours in the index are often cut from one source."""
    usable = np.flatnonzero(pc.equal(data.facts["status"], "ok"))
    known = pa.array([*data.classes, ""])
    codes = pc.index_in(data.facts["label"], value_set=known).to_numpy()[usable]
    of_class = [usable[codes == code] for code in range(len(known))]
    share = -(-count // max(len(np.unique(codes)), 1))
    while sum(min(share, len(rows)) for rows in of_class) < min(count, len(usable)):  # small classes leave room
        share += 1
    picked = [_spread(rows, share) for rows in of_class]
    turns = [rows[turn] for turn in range(share) for rows in picked if turn < len(rows)]
    if not turns:
        raise DataError(f"{data.root}: no video in it is ok")
    return data.facts.take(turns[:count]).to_pylist()


def unchanged(data: index.Index, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; DataError where a file is not as long as they say: it would be shown with what is known of another."""
    for row in rows:
        if wrong := verify.wrong_with(data.root, row, depth=0):
            raise DataError(
                f"{data.root}: {row['path']!r} {wrong}; python -m data_prep verify says what else is not what was "
                "prepared: bring it back, or prepare the data set again"
            )
    return rows


def _spread(rows: np.ndarray, count: int) -> list[int]:
    """`count` of them at even distances, or all."""
    count = min(count, len(rows))
    return [int(rows[i * len(rows) // count]) for i in range(count)]


def words(row: Mapping[str, Any], splits: Sequence[str]) -> list[str]:
    """What is said of a video beside its frames, line by line; what is too long has an ellipsis for its end, or for
    its beginning where it is a name: those of one source differ in their ends."""
    parts = " ".join(row[name] or "-" for name in splits)
    lines = [row["label"], f"{row['width']}x{row['height']}, {row['frames']} frames", parts]
    lines = [line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…" for line in lines]
    name = row["path"].rpartition("/")[2].rpartition(".")[0]
    lines.insert(1, name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}")
    return lines if row["label"] else lines[1:]


def _draw(data: index.Index, rows: list[dict[str, Any]], columns: int, sheet: Path) -> None:
    from matplotlib.figure import Figure  # both are slow to import, and only this command needs them

    from vidkd.data import colours
    from vidkd.data.decode import open_video

    figure = Figure(figsize=(1.5 * columns + 2, 1.3 * len(rows) + 0.3), dpi=80, layout="constrained")
    said = [data.name, f"part in {', '.join(data.splits)}"] if data.splits else [data.name]
    figure.suptitle("; ".join([*said, colours.LEGEND] if data.modality == "flow" else said), fontsize=8)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        at = [round(i * (row["frames"] - 1) / max(columns - 1, 1)) for i in range(columns)]
        with open_video(data.root / row["path"]) as video:
            frames = colours.rgb(video.get(at)).permute(0, 2, 3, 1).numpy()
        for axis, frame, t in zip(line, frames, at, strict=True):
            axis.imshow(frame)
            axis.set_axis_off()
            axis.set_title(f"{t / row['fps']:.2f} s", fontsize=6, pad=1)
        text = "\n".join(words(row, data.splits))
        line[0].text(-0.08, 0.5, text, fontsize=7, ha="right", va="center", transform=line[0].transAxes)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(sheet)
