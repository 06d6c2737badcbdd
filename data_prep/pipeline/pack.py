"""Prepared videos with their frames packed (vidkd/data/packed.py): larger files, and nothing left to decode."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from data_prep.pipeline.listing import Item, Listing
from data_prep.pipeline.produce import Facts, Make
from vidkd.errors import DataError

FORMS = ("raw", "jpeg")  # and the suffixes of their files


def listing_of(listing: Listing, form: str) -> Listing:
    """The same videos, to be made in this form: their paths in `listing.rows` are changed."""
    listing.rows.rename(lambda path: re.sub(r"\.(mp4|raw|jpeg)\Z", f".{form}", path))
    return dataclasses.replace(listing, form=form)


def make_packed(make: Make, form: Literal["raw", "jpeg"], item: Item, target: Path) -> Facts:
    """Have `make` make the item's .mp4, and pack its frames into `target`: both forms show the very same pixels."""
    from vidkd.data.decode import open_video, pack  # imports torch, and only packing needs it

    video = target.with_name(f"{target.name}.mp4")
    try:
        facts = make(item, video)
        if facts.status != "ok":
            return facts
        with open_video(video) as opened:
            if opened.frames != facts.frames:
                raise DataError(f"{facts.frames} frames in sequence, {opened.frames} by its index: leave out --copy")
            width, height = pack(opened, target, form)
        return dataclasses.replace(facts, width=width, height=height)
    except DataError as error:
        reason = str(error).removeprefix(f"{video}: ").removeprefix(f"{target}: ")
        return Facts(status="unreadable", reason=f"{Path(item.source).name}: {reason}")
    finally:
        video.unlink(missing_ok=True)
