"""The commands on the official lists: each video accounted for, each part as large as it is said to be."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data_prep import jhmdb, ucf101
from data_prep.pipeline import official

UCF101 = {"split1": (9537, 3783), "split2": (9586, 3734), "split3": (9624, 3696)}
HMDB51 = dict.fromkeys(("split1", "split2", "split3"), (3570, 1530))


def sizes(out: Path) -> dict[str, tuple[int, int]]:
    """(train, test) of each split, as the command has counted the rows of its index."""
    counts = json.loads((out / "provenance.json").read_text())["counts"]
    return {name: (part["train"], part["test"]) for name, part in counts.items() if name.startswith("split")}


@pytest.mark.parametrize(
    ("name", "total", "classes", "expected"), [("ucf101", 13_320, 101, UCF101), ("hmdb51", 6766, 51, HMDB51)]
)
def test_whole_data_sets_by_their_commands(
    shared, tmp_path, data_prep, read_rows, make_video, name, total, classes, expected
):
    """All the official names; two of the videos are real, the others empty: refused, counted, and in their parts."""
    lists_at = shared / f"annotations/{name}_splits"
    lists = ucf101.official_lists(lists_at) if name == "ucf101" else official.hmdb_lists(lists_at)
    named = list(lists.named)
    for i, video in enumerate(named):
        path = tmp_path / "in" / video.label / f"{video.stem}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(path, "avi", frames=3) if i in (0, 5000) else path.touch()
    words = [name, "--root", tmp_path / "in", "--annotations", lists_at, "--out", tmp_path / "out"]
    status, said = data_prep(*words)
    assert status == 2 and f"{total - 2} videos failed" in said and f"{classes} classes" in said
    assert sizes(tmp_path / "out") == expected
    rows = read_rows(tmp_path / "out")
    assert len(rows) == total and Counter(row["status"] for row in rows.values()) == {"ok": 2, "refused": total - 2}
    assert all("it is empty" in row["reason"] for row in rows.values() if row["status"] == "refused")
    (tmp_path / "in" / named[7].label / f"{named[7].stem}.avi").unlink()
    status, said = data_prep(*words)
    assert status == 2 and f"1 of the {total} videos that the lists name are not there" in said


def test_ucf101_groups_are_kept_apart(shared):
    named = list(ucf101.official_lists(shared / "annotations/ucf101_splits").named)
    assert len({video.group for video in named}) == 101 * 25
    for i in range(3):
        train, test = ({video.group for video in named if video.parts[i] == part} for part in ("train", "test"))
        assert not train & test


def test_a_fortieth_of_jhmdb(shared, tmp_path, data_prep):
    words = ["jhmdb", "--root", shared / "data/jhmdb21", "--out", tmp_path / "out", "--copy"]
    assert data_prep(*words, "--shard", "0/40")[0] == 0
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 24
    lists = official.own_lists(shared / "data/jhmdb21/splits.csv", jhmdb.COLUMNS, official.hmdb_source)
    assert lists.splits[0] == "split1" and len(lists.classes) == 21
    assert Counter(video.parts[0] for video in lists.named) == {"train": 660, "test": 268}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "folder", "total", "split1"),
    [("jhmdb", "jhmdb21", 928, (660, 268)), ("ucf101", "ucf101_6", 731, (529, 202))],
)
def test_all_the_real_clips(shared, tmp_path, data_prep, command, folder, total, split1):
    words = [command, "--root", shared / "data" / folder, "--out", tmp_path / "out", "--copy", "--workers", 2]
    if command == "ucf101":
        words += ["--annotations", shared / "annotations/ucf101_splits", "--allow-missing"]
    status, said = data_prep(*words)
    assert status == 0 and f"{total} ok" in said, said
    assert sizes(tmp_path / "out")["split1"] == split1
    assert data_prep("verify", tmp_path / "out")[0] == 0
