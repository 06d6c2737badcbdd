"""Check a prepared data set against its index: sizes and checksums, with --deep every frame."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.pipeline import ffmpeg, prepare
from data_prep.pipeline.ffmpeg import FfmpegError
from data_prep.pipeline.produce import checksum_of
from vidkd.data import container, index
from vidkd.errors import DataError

DECODED = ("frames", "fps", "width", "height")
FPS_ERROR = 0.01  # of a frame rate: programs round it to two digits, and tell the mean of what varies in two ways
SHOWN = 20
TIMEOUT_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a prepared data set")
    parser.add_argument("--sizes-only", action="store_true", help="no checksums: a second for a hundred thousand files")
    parser.add_argument("--deep", action="store_true", help="decode every video and count its frames")
    parser.add_argument("--workers", type=int, default=prepare.cores(), help="threads (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    data = index.read(args.folder)
    check = partial(wrong_with, args.folder, depth=0 if args.sizes_only else 2 if args.deep else 1)
    bad, good, skipped = 0, 0, 0
    # Threads suffice: hashing and waiting for ffmpeg both leave the interpreter free.
    with ThreadPoolExecutor(max(1, args.workers)) as pool, tqdm(total=len(data), disable=None) as bar:
        for batch in data.batches("path", "bytes", "checksum", *DECODED, "status"):
            rows = [row for row in batch.to_pylist() if row["status"] == "ok"]
            skipped += batch.num_rows - len(rows)
            bar.update(batch.num_rows - len(rows))
            for row, wrong in zip(rows, pool.map(check, rows), strict=True):
                good += not wrong
                bad += bool(wrong)
                if wrong and bad <= SHOWN:
                    bar.write(f"{row['path']!r}: {wrong}")
                bar.update()
    if bad > SHOWN:
        print(f"... and {bad - SHOWN} more")
    print(f"{args.folder}: {good} good, {bad} bad, {skipped} marked as failed in the index")
    return 2 if bad else 0


def wrong_with(root: Path, row: dict[str, Any], depth: int) -> str:
    """What is wrong with the video of this row, or nothing. Depth 0 looks at its size, 1 reads it, 2 decodes it."""
    path = root / row["path"]
    try:
        size = path.stat().st_size
        if size != row["bytes"]:
            return f"has {size} bytes instead of {row['bytes']}"
        if depth >= 1 and checksum_of(path) != row["checksum"]:
            return "its content has changed: the checksum differs"
        if depth >= 2:
            frames, fps, *size = _decoded(path)
            if frames != row["frames"]:
                return f"{frames} frames can be decoded instead of {row['frames']}"
            if size != [row["width"], row["height"]]:
                return f"is {size[0]}x{size[1]} px instead of {row['width']}x{row['height']}"
            if fps and abs(fps - row["fps"]) > max(FPS_ERROR, FPS_ERROR * row["fps"]):
                return f"has {fps:.5g} frames a second instead of {row['fps']:.5g}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (FfmpegError, DataError) as error:
        return f"cannot be decoded ({error})"
    return ""


def _decoded(path: Path) -> tuple[int, float, int, int]:
    """(frames, frames a second or 0 if it does not say, width, height), by decoding all of it."""
    if container.inspect(path).kind not in ("packed", "features"):
        seen = ffmpeg.read(path, "mov", TIMEOUT_S)
        return seen.frames, float(seen.fps or 0), seen.width, seen.height
    from vidkd.data.decode import open_video  # imports torch

    with open_video(path) as video:
        return sum(1 for _ in video.walk(range(video.frames))), video.fps, video.width, video.height
