"""From a listing of video files to a prepared data set: the options and the steps that all such data sets share."""

import argparse
import functools
import os
from dataclasses import asdict
from pathlib import Path

from data_prep.pipeline import archives, claim, holdout, pack, produce, writer
from data_prep.pipeline.database import is_utf8, printable
from data_prep.pipeline.listing import Listing
from data_prep.pipeline.transcode import Settings, transcode
from vidkd.errors import ConfigError

MAX_TIMEOUT_S = 10**6
MAX_WORKERS = 1024  # of one machine; --shard and --executor are for more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every data set that is made from video files."""
    defaults = Settings()
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="where the videos lie, a folder or an archive; nothing in it is changed",
    )
    add_output_arguments(parser)
    parser.add_argument(
        "--short-side", type=_short_side, default=defaults.short_side, metavar="PX", help="px, or `source` (128)"
    )
    parser.add_argument("--copy", action="store_true", help="take H.264 .mp4 as they are: link or copy, check, count")
    parser.add_argument(
        "--frames",
        choices=("video", *pack.FORMS),
        default="video",
        help="keep them as H.264 (default), or packed for small data sets: raw reads fastest and is about a hundred "
        "times as large, jpeg about ten times",
    )
    parser.add_argument("--crf", type=int, default=defaults.crf, help="x264's quality (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=defaults.timeout_s, metavar="S", help="a video (600 s)")
    parser.add_argument("--allow-failures", type=int, default=0, metavar="N", help="use the rest if so many fail (0)")
    parser.add_argument(
        "--holdout", type=float, default=0.0, metavar="F", help="the fraction of train to make part val, whole groups"
    )
    parser.add_argument("--holdout-seed", type=int, default=0, metavar="SEED")
    parser.add_argument(
        "--executor",
        choices=("processes", "dask", "ray"),
        default="processes",
        help="who makes them: this machine (default), or the cluster that DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, "
        "whose machines must see --root and --out under the same paths",
    )
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="make every N-th video, from I on")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the prepared folder, made here")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: %(default)s)")


def begin(args: argparse.Namespace) -> None:
    """ConfigError where the options contradict each other or the disk; then --root and --annotations become folders."""
    root, out = args.root.absolute(), args.out.absolute()
    real_root, real_out = Path(os.path.realpath(root)), Path(os.path.realpath(out))  # a link may lead into it
    if not args.root.exists():
        raise ConfigError(f"--root {args.root}: no such file or folder")
    if not is_utf8(str(root)):  # then every video of it would be refused
        raise ConfigError(f"--root {printable(str(root))}: its name is not UTF-8; rename it")
    if real_out == real_root or real_root in real_out.parents or real_out in real_root.parents:
        raise ConfigError(f"--out {args.out}: must lie beside --root {args.root}, which is never changed")
    bounds = {
        "--holdout": (0 <= args.holdout < 1, "0 or more and below 1"),
        "--crf": (0 <= args.crf <= 51, "0 to 51"),
        "--timeout": (0 < args.timeout <= MAX_TIMEOUT_S, f"above 0, and at most {MAX_TIMEOUT_S}"),
        "--workers": (0 <= args.workers <= MAX_WORKERS, f"0 to {MAX_WORKERS}"),
        "--allow-failures": (args.allow_failures >= 0, "0 or more"),
    }
    if wrong := [f"{option} must be {right}" for option, (is_right, right) in bounds.items() if not is_right]:
        raise ConfigError("; ".join(wrong))
    for name, ending in (("root", "unpacked"), ("annotations", "annotations")):
        path = getattr(args, name, None)
        if path is not None and archives.is_archive(path):
            folder = args.out.with_name(f"{args.out.name}.{ending}")
            archives.unpack(path, folder)
            setattr(args, name, folder)


def run(listing: Listing, args: argparse.Namespace) -> int:
    """Make the prepared data set; the exit status of the command."""
    if args.holdout:
        holdout.hold_out(listing, args.holdout, args.holdout_seed)
    settings = Settings(args.short_side, args.crf, copy=args.copy, timeout_s=args.timeout)
    make, named = functools.partial(transcode, settings), str(settings)
    if args.frames != "video":
        listing = pack.listing_of(listing, args.frames)
        make, named = functools.partial(pack.make_packed, make, args.frames), f"{named} {args.frames}"
    more = {"frames": args.frames}
    if args.holdout:
        more |= {"holdout": args.holdout, "holdout_seed": args.holdout_seed}
    if origin := archives.origin_of(args.root):
        more["unpacked_from"] = origin
    with claim.claimed(args.out, listing, args.shard):
        if args.shard[1] > 1:
            claim.same_rows(args.out, listing, args.shard)
        produce.produce(args.out, listing, make, named, args.workers, args.shard, args.executor)
        if args.shard[1] > 1 and (left := writer.left_to_make(args.out, listing, named)):
            print(
                f"{args.out}: shard {args.shard[0]} of {args.shard[1]} is done; {left} of {len(listing.rows)} videos "
                "are still to be made with these options by other shards, of which the last to end writes the index"
            )
            return 0
        with claim.in_turn(args.out):
            status = writer.finish(args.out, listing, named, {**asdict(settings), **more}, args.allow_failures)
            claim.forget_rows(args.out)
            return status


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short_side(text: str) -> int:
    if text == "source":
        return 0
    if not text.isdecimal() or not 16 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"must be 16 to 4096 or `source`, not {text!r}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and len(text) < 20 and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 to N-1, not {text[:40]!r}")
    return int(i), int(n)
