"""From annotated untrimmed videos to a prepared data set: the index, segments.csv, and ambiguous.csv kept apart."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.pipeline import prepare
from data_prep.pipeline.listing import Item, Listing, Rows
from data_prep.pipeline.scanning import ADVICE, Found
from vidkd import annotations
from vidkd.annotations import Annotations
from vidkd.data import index
from vidkd.errors import DataError
from vidkd.types import Segments

SPLITS = ("split1",)
Clock = Callable[[Segments, Mapping[str, float]], Segments]  # (as annotated, video -> frames/s) -> in seconds


def run(
    args: argparse.Namespace,
    name: str,
    said: Annotations,
    part_of: Mapping[str, str],
    *,
    files: tuple[Path, ...],
    licence: str,
    notes: Mapping[str, Any],
    flip_changes_labels: bool = False,
    clock: Clock = lambda segments, _fps: segments,
    by_hand: str = ADVICE,
) -> int:
    """Prepare the annotated videos that lie below --root; `part_of` says the part of each video that is wanted.

    Segments are written with the videos that were made, and with no others.
    """
    on_disk = Found(args.root, by_hand)
    found = _by_bare_name(on_disk)
    wanted = sorted(video for video in part_of)
    missing = [video for video in wanted if video.rpartition("/")[2] not in found]
    if missing and not args.allow_missing:
        raise DataError(
            f"{args.root}: {len(missing)} of the {len(wanted)} annotated videos are not there, the first is "
            f"{missing[0]!r}. {by_hand}. Or go on without them with --allow-missing"
        )
    items = [
        Item(f"{video}.mp4", found[stem], "", parts=(part_of[video],))
        for video in wanted
        if (stem := video.rpartition("/")[2]) in found
    ]
    counts: dict[str, Any] = {"annotated": len(wanted), "missing": len(missing), "unlisted": len(found) - len(items)}
    if on_disk.not_utf8:
        counts["not UTF-8"] = on_disk.of_no_list()
    listing = Listing(
        name=name,
        classes=tuple(sorted(set(said.actions.label))),
        rows=Rows(items, SPLITS),
        horizontal_flip="changes_labels" if flip_changes_labels else "keeps_labels",
        licence=licence,
        files=files,
        notes={**notes, **counts},
    )
    status = prepare.run(listing, args)
    if (args.out / "index.csv").exists():
        name_of = {video: listing.rows.placed(f"{video}.mp4").removesuffix(".mp4") for video in wanted}
        own = replace(said, actions=_renamed(said.actions, name_of), ambiguous=_renamed(said.ambiguous, name_of))
        _write(args.out, own, clock, {name_of[video]: part for video, part in part_of.items()})
    return status


def _by_bare_name(on_disk: Found) -> dict[str, str]:
    """The path of each video by the name that annotations call it. DataError if two that differ in size have one."""
    found: dict[str, str] = {}
    for stem, path in on_disk.items():
        first = found.setdefault(annotations.bare(stem), path)
        if first != path and Path(first).stat().st_size != Path(path).stat().st_size:
            raise DataError(f"{first} and {path}: two different videos of one name; remove one of them")
    return found


def _renamed(own: Segments, name_of: Mapping[str, str]) -> Segments:
    return replace(own, video=np.array([name_of.get(video, video) for video in own.video], object))


def _write(out: Path, said: Annotations, clock: Clock, part_of: Mapping[str, str]) -> None:
    """segments.csv and, if there are any, ambiguous.csv; and a word on what no training can use."""
    data = index.read(out)
    names = [str(Path(path).with_suffix("")) for path in data.facts["path"].to_pylist()]
    facts = zip(data.facts["frames"].to_pylist(), data.facts["fps"].to_pylist(), strict=True)
    fps, duration_s = {}, {}
    for video, (frames, rate) in zip(names, facts, strict=True):
        fps[video], duration_s[video] = rate, frames / rate if rate else 0.0
    actions, unsure = (clock(each, fps) for each in (said.actions, said.ambiguous))
    actions, unsure = (each.where(np.isin(each.video, names)) for each in (actions, unsure))
    annotations.write(out / "segments.csv", actions, part_of)
    if len(unsure):
        annotations.write(out / "ambiguous.csv", unsure, part_of)
    per_video = Counter(actions.video)
    print(f"  segments   {len(actions)} in {len(per_video)} videos, {len(unsure)} ambiguous ones kept apart")
    late = [v for v, start in zip(actions.video, actions.start_s, strict=True) if start >= duration_s[v]]
    if late:
        print(
            f"  warning    {len(late)} actions begin when their video is over, the first in {late[0]!r}: they count in "
            "the evaluation, and no training sees them"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prepare.add_arguments(parser)
    parser.add_argument("--allow-missing", action="store_true", help="go on if annotated videos are not on disk")


def parts(said: Annotations, meaning: Mapping[str, str]) -> dict[str, str]:
    """The part of each video whose subset `meaning` names, as in {"validation": "train", "test": "test"}."""
    return {video: meaning[subset] for video, subset in said.subset.items() if subset in meaning}


def joined(each: Mapping[str, Annotations]) -> Annotations:
    """Several files as one, the subset of each named by its key."""

    def columns(which: str) -> Segments:
        parts = [getattr(said, which) for said in each.values()]
        return Segments(
            *(np.concatenate([getattr(p, c) for p in parts]) for c in ("video", "start_s", "end_s", "label"))
        )

    subset = {video: name for name, said in each.items() for video in said.subset}
    return Annotations(columns("actions"), columns("ambiguous"), subset, "")
