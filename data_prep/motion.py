"""Rendered clips (see pipeline/rendering.py), or long videos of them: the data set of the demo and of the tests."""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.pipeline import claim, prepare, produce, rendering, untrimmed, writer
from data_prep.pipeline.listing import Item, Listing, Rows
from data_prep.pipeline.rendering import CLASSES, PARTS, Settings
from vidkd.errors import ConfigError, one_of

UNTRIMMED = 300  # frames of an untrimmed video: 12 s, some four actions
RECIPE = 2  # one more whenever the same settings would make other pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    prepare.add_output_arguments(parser)
    parser.add_argument("--train", type=int, default=320, help="clips to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=0, help="clips to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=160, help="clips to test on (default: %(default)s)")
    parser.add_argument("--size", type=int, default=defaults.size, help="px, even (default: %(default)s)")
    parser.add_argument("--frames", type=int, help=f"a clip (default: {defaults.frames}; {UNTRIMMED} untrimmed)")
    parser.add_argument("--untrimmed", action="store_true", help="long videos with several actions, and segments.csv")
    parser.add_argument("--classes", metavar="N or NAME,NAME", help="the first N, or these (default: all)")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--difficulty", type=float, default=defaults.difficulty, help="0..1, how strong the background is (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    args.frames = args.frames or (UNTRIMMED if args.untrimmed else Settings().frames)
    if args.size < 16 or args.size % 2 or args.frames < 2 or not 0 <= args.difficulty <= 1:
        raise ConfigError("--size must be even and 16 or more, --frames 2 or more, --difficulty 0 to 1")
    if min(args.train, args.val, args.test, args.seed) < 0 or not args.train + args.val + args.test:
        raise ConfigError("--train, --val, --test and --seed must be 0 or more, with at least one clip in all")
    settings = Settings(args.size, args.frames, args.seed, args.difficulty)
    classes = chosen(args.classes or str(len(CLASSES)))
    counts = dict(zip(PARTS, (args.train, args.val, args.test), strict=True))
    items = videos(counts) if args.untrimmed else clips(counts, classes)
    listing = Listing(
        name="motion_untrimmed" if args.untrimmed else "motion",
        classes=classes,
        rows=Rows(items, ("split1",)),
        horizontal_flip="changes_labels",
        licence="rendered by this program; no rights reserved",
    )
    make, recipe = functools.partial(make_clip, settings), f"motion {RECIPE} {settings}"
    if args.untrimmed or classes != tuple(CLASSES):
        recipe += f" {classes}"
    if args.untrimmed:
        make = functools.partial(untrimmed.make, settings, classes)
    with claim.claimed(args.out, listing):
        produce.produce(args.out, listing, make, recipe, args.workers)
        if args.untrimmed:
            listing.notes["actions"] = untrimmed.write_segments(args.out, settings, classes, listing.rows)
        return writer.finish(args.out, listing, recipe, vars(settings))


def chosen(said: str) -> tuple[str, ...]:
    """The classes that --classes says: "4", the first four, or "move_left,move_up"."""
    names = tuple(CLASSES)[: int(said)] if said.isdecimal() else tuple(said.split(","))
    for name in set(names) - CLASSES.keys():
        raise ConfigError(f"--classes: {one_of(name, list(CLASSES), 'class')}")
    if len(names) < 2 or len(set(names)) < len(names) or (said.isdecimal() and int(said) > len(CLASSES)):
        raise ConfigError(f"--classes: 2 to {len(CLASSES)}, or as many different names, not {said}")
    return names


def videos(counts: dict[str, int]) -> Iterator[Item]:
    """The long videos of each part; as a whole they are of no class."""
    for part, count in counts.items():
        for i in range(count):
            yield Item(f"{part}_{i:05d}.mp4", f"{part}/{i}", "", parts=(part,))


def clips(counts: dict[str, int], names: tuple[str, ...] = tuple(CLASSES)) -> Iterator[Item]:
    """The clips of each part, the classes in turn."""
    for part, count in counts.items():
        for i in range(count):
            label = names[i % len(names)]
            yield Item(f"{label}/{part}_{i:05d}.mp4", f"{part}/{i}", label, parts=(part,))


def make_clip(settings: Settings, item: Item, target: Path) -> produce.Facts:
    """Render the clip and encode it into `target`."""
    part, i = item.source.split("/")
    rng = np.random.default_rng([settings.seed, PARTS.index(part), int(i)])
    video = rendering.render(rendering.draw(rng, settings), item.label, settings)
    return rendering.encode(video, settings, target)
