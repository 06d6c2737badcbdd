"""A validation part taken from the training part: whole groups, about the same share of every class."""

import dataclasses
import hashlib
from collections import Counter, defaultdict

import pyarrow as pa

from data_prep.pipeline.listing import Listing
from vidkd.errors import ConfigError


def hold_out(listing: Listing, fraction: float, seed: int) -> Listing:
    """The listing with `fraction` of the videos of part train moved to part val, in every split."""
    table = listing.table
    labels, groups = table["label"].to_pylist(), table["group"].to_pylist()
    paths = table["path"].to_pylist()
    keys = [group or path for group, path in zip(groups, paths, strict=True)]
    for name in listing.splits:
        parts = table[name].to_pylist()
        if "val" in parts:
            raise ConfigError(f"--holdout: {listing.name} already has a part val in {name}")
        train = [i for i, part in enumerate(parts) if part == "train"]
        chosen = choose([labels[i] for i in train], [keys[i] for i in train], fraction, seed)
        held = ["val" if part == "train" and keys[i] in chosen else part for i, part in enumerate(parts)]
        table = table.set_column(table.column_names.index(name), name, pa.array(held, pa.string()))
    return dataclasses.replace(listing, table=table)


def choose(labels: list[str], groups: list[str], fraction: float, seed: int) -> set[str]:
    """The groups to hold out; no class loses its last group. A group may have videos of several classes."""
    videos: dict[str, Counter[str]] = defaultdict(Counter)  # class -> group -> videos
    classes: dict[str, set[str]] = defaultdict(set)  # group -> classes
    for label, group in zip(labels, groups, strict=True):
        videos[label][group] += 1
        classes[group].add(label)
    left = {label: len(members) for label, members in videos.items()}
    chosen: set[str] = set()
    for label in sorted(videos):
        members = videos[label]
        missing = fraction * sum(members.values()) - sum(members[group] for group in members.keys() & chosen)
        for group in sorted(members.keys() - chosen, key=lambda g: _order(seed, g)):
            nearer = members[group] - missing <= missing  # with it than without it
            if nearer and all(left[name] > 1 for name in classes[group]):
                chosen.add(group)
                missing -= members[group]
                for name in classes[group]:
                    left[name] -= 1
    return chosen


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
