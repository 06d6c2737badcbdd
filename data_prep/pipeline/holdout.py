"""A part taken from the training part: whole groups, about the same share of every class."""

import hashlib
from collections.abc import Iterable, Iterator

from data_prep.pipeline.database import Database
from data_prep.pipeline.listing import Listing, Rows
from vidkd.errors import ConfigError

SCHEMA = """
CREATE TABLE videos (label TEXT, own TEXT);
CREATE TABLE members (label TEXT, own TEXT, n INTEGER, PRIMARY KEY (label, own)) WITHOUT ROWID;
CREATE TABLE chosen (own TEXT PRIMARY KEY) WITHOUT ROWID;
"""


def hold_out(listing: Listing, fraction: float, seed: int) -> None:
    """Move `fraction` of the videos of part train to part val, in every split of the listing.

    Where the groups are too few for that, a note in the listing says so.
    """
    empty = []
    for split, part in zip(listing.splits, listing.rows.parts, strict=True):
        if listing.rows.db.one(f"SELECT 1 FROM items WHERE {part} = 'val' LIMIT 1"):
            raise ConfigError(f"--holdout: {listing.name} already has a part val in {split}")
        move(listing.rows, part, "val", fraction, seed)
        if not listing.rows.db.one(f"SELECT 1 FROM items WHERE {part} = 'val' LIMIT 1"):
            empty.append(split)
    if empty:
        listing.notes["holdout"] = (
            f"nothing held out in {', '.join(empty)}: too few groups a class for {fraction:g} of it"
        )


def move(rows: Rows, column: str, to: str, fraction: float, seed: int) -> None:
    """Move `fraction` of the videos whose part in this column is train; one without a group is a group."""
    group, train = "CASE grp WHEN '' THEN path ELSE grp END", f"{column} = 'train'"
    pairs = rows.db.rows(f"SELECT label, {group} FROM items WHERE {train}")
    rows.db.run("CREATE TABLE held (own TEXT PRIMARY KEY) WITHOUT ROWID")
    rows.db.fill("INSERT INTO held VALUES (?)", ((own,) for own in choose(pairs, fraction, seed)))
    rows.db.run(f"UPDATE items SET {column} = ? WHERE {train} AND {group} IN held", to)
    rows.db.run("DROP TABLE held")


def choose(pairs: Iterable[tuple[str, str]], fraction: float, seed: int) -> Iterator[str]:
    """The groups to hold out, of one pair (class, group) a video; no class loses its last group.

    A group may have videos of several classes.
    """
    db = Database(SCHEMA)
    db.function("order_of", lambda own: hashlib.sha256(f"{seed}\0{own}".encode()).digest())
    db.fill("INSERT INTO videos VALUES (?, ?)", pairs)
    db.run("INSERT INTO members SELECT label, own, COUNT(*) FROM videos GROUP BY label, own")
    db.run("CREATE INDEX by_group ON members (own)")
    left: dict[str, int] = dict(db.rows("SELECT label, COUNT(*) FROM members GROUP BY label"))
    for label in sorted(left):
        total = db.one("SELECT SUM(n) FROM members WHERE label = ?", label)
        taken = db.one("SELECT TOTAL(n) FROM members WHERE label = ? AND own IN chosen", label)
        missing = fraction * total - taken
        drawn = db.rows("SELECT own, n FROM members WHERE label = ? ORDER BY order_of(own)", label)
        for own, n in drawn:
            if 2 * missing < 1:
                break
            nearer = n - missing <= missing  # with it than without it
            if not nearer or db.one("SELECT 1 FROM chosen WHERE own = ?", own):
                continue
            labels = [name for (name,) in db.rows("SELECT label FROM members WHERE own = ?", own)]
            if all(left[name] > 1 for name in labels):
                db.run("INSERT INTO chosen VALUES (?)", own)
                missing -= n
                for name in labels:
                    left[name] -= 1
                yield own
