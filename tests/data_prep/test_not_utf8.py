"""A name whose bytes are not UTF-8: that video is refused, by a name that can be read, and the others go on."""

import csv
import os
from pathlib import Path

import pytest

from data_prep.pipeline.database import blob, name_of, printable
from data_prep.pipeline.produce import checksum_of


@pytest.fixture
def latin(tmp_path, make_video) -> Path:
    """A good video, one of a Latin-1 name, and one in each of two folders of Latin-1 names."""
    root = tmp_path / "latin"
    good = make_video(root / "a" / "good.mp4", frames=3)
    for name in (b"a/\xe9.mp4", b"a/deep\xff/x.mp4", b"caf\xe9/y.mp4"):
        path = os.fsencode(root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.link(good, path)
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_one_row_each_that_is_refused(tmp_path, latin, data_prep, read_rows, workers):
    out = tmp_path / "out"
    words = ["folder", "--root", latin, "--out", out, "--test-fraction", 0, "--workers", workers]
    status, said = data_prep(*words)
    assert status == 2 and "1 ok, 3 refused" in said and "Traceback" not in said
    rows = read_rows(out)
    names = {r"a/\xe9.mp4": r"\xe9.mp4", r"a/deep\xff/x.mp4": r"deep\xff", r"caf\xe9/y.mp4": r"caf\xe9"}
    assert set(rows) == {"a/good.mp4", *names} and rows["a/good.mp4"]["status"] == "ok"
    for path, name in names.items():
        assert rows[path]["status"] == "refused"
        assert rows[path]["reason"] == f'{path.rpartition("/")[2]}: the name "{name}" is not UTF-8; rename it'
    with (out / "sources.csv").open(encoding="utf-8", newline="") as file:
        sources = {row["path"]: row for row in csv.DictReader(file)}
    assert sources[r"a/\xe9.mp4"]["source"] == rf"{latin}/a/\xe9.mp4"
    assert {row["source_checksum"] for row in sources.values()} == {checksum_of(latin / "a/good.mp4")}
    if workers == 1:
        assert data_prep(*words, "--allow-failures", 3)[0] == 0
        assert data_prep("verify", out)[0] == data_prep("stats", out)[0] == 0
        os.rename(os.fsencode(latin) + b"/a/\xe9.mp4", latin / "a/é.mp4")
        assert data_prep(*words, "--allow-failures", 2)[0] == 0 and read_rows(out)["a/é.mp4"]["status"] == "ok"


def test_where_lists_name_the_videos(tmp_path, make_video, data_prep, read_rows):
    """A video of a listed name in such a folder is refused; one that no list can name is none of the data set."""
    root = tmp_path / "in"
    good = make_video(root / "A" / "v_A_g01_c01.avi", "avi", frames=3)
    (root / "splits.csv").write_text("clip,label,split1\nv_A_g01_c01.avi,A,train\nv_A_g02_c01.avi,A,test\n")
    os.mkdir(os.fsencode(root) + b"/\xe9")
    os.link(good, os.fsencode(root) + b"/\xe9/v_A_g02_c01.avi")
    os.link(good, os.fsencode(root) + b"/A/v_A_\xe9_c01.avi")
    status, said = data_prep("ucf101", "--root", root, "--out", tmp_path / "out")
    assert status == 2 and "1 ok, 1 refused" in said
    assert rf"1 of the unlisted, which no list can name; the first is {root}/A/v_A_\xe9_c01.avi" in said
    assert read_rows(tmp_path / "out")["A/v_A_g02_c01.mp4"]["reason"].endswith(
        r'the name "\xe9" is not UTF-8; rename it'
    )


def test_a_root_of_such_a_name(tmp_path, data_prep):
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    os.makedirs(f"{root}/a")
    status, said = data_prep("folder", "--root", root, "--name", "x", "--out", tmp_path / "out")
    assert status == 2 and rf"--root {tmp_path}/\xe9: its name is not UTF-8; rename it" in said
    assert not (tmp_path / "out").exists()


def test_a_data_set_of_such_a_name(tmp_path, videos, data_prep):
    status, said = data_prep("folder", "--root", videos, "--name", os.fsdecode(b"\xe9"), "--out", tmp_path / "out")
    assert status == 2 and "the data set" in said and "one line of text" in said and "Traceback" not in said


def test_names_stay_apart():
    """What one was called can be told from its printable form: of two that are not UTF-8, forms differ."""
    names = [
        os.fsdecode(name) for name in (b"\xe9", b"\xc9", b"\\xe9\xff", b"\xe9\xff", b"\\\xe9", b"\xff", b"x\n\xe9")
    ]
    assert len({printable(name) for name in names}) == len(names)
    assert printable(names[2]) == r"\\xe9\xff" and printable("näme \\ ☃") == "näme \\ ☃"
    assert [name_of(blob(name)) for name in (*names, "\ud800", "é")] == [*names, "\ud800", "é"]
