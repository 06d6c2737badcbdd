"""Folders as people have them: each file in them is prepared, or counted among what is not."""

import json
import os

import pytest


@pytest.fixture
def root(tmp_path, make_video):
    source = make_video(tmp_path / "one.mp4", frames=3)
    for name in ("a/1.mp4", "a/deep/2.mp4", "b/3.mp4"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    return tmp_path / "in"


def prepared(root, tmp_path, data_prep, read_rows, failures=0) -> tuple[set[str], str, dict]:
    out = tmp_path / "out"
    status, said = data_prep("folder", "--root", root, "--out", out, "--test-fraction", 0, "--allow-failures", failures)
    assert status == 0, said
    return set(read_rows(out)), said, json.loads((out / "provenance.json").read_text())["notes"]


def test_what_is_passed_over_is_counted(root, tmp_path, data_prep, read_rows):
    (root / "empty").mkdir()
    for name in ("a/.hidden.mp4", "a/notes.txt", "b/picture.gif", "readme"):
        (root / name).write_bytes(b"x")
    paths, said, notes = prepared(root, tmp_path, data_prep, read_rows)
    assert paths == {"a/1.mp4", "a/deep/2.mp4", "b/3.mp4"}
    assert notes["left out"] == "1 hidden, 3 without the suffix of a video" and notes["left out"] in said
    assert notes["no videos"] == "empty"


def test_links_to_folders_are_followed_and_lead_round_nowhere(root, tmp_path, data_prep, read_rows):
    """A class of links is a class; a link to where one is already is none."""
    (tmp_path / "elsewhere").mkdir()
    (root / "b").rename(tmp_path / "elsewhere/b")
    (root / "b").symlink_to(tmp_path / "elsewhere/b")
    (root / "a/up").symlink_to(root)
    (root / "a/itself.mp4").symlink_to(root / "a/itself.mp4")
    (root / "a/nowhere.mp4").symlink_to(root / "nowhere.mp4")
    (tmp_path / "elsewhere/b/round").symlink_to(root / "a")  # a/up is gone; b/round/up leads back
    (root / "a/deep/there").symlink_to(tmp_path / "elsewhere/b")
    paths, said, notes = prepared(root, tmp_path, data_prep, read_rows, 4)
    assert "1 refused" not in said and "4 refused" in said
    paths = {path for path in paths if path.split("/")[-1] not in ("itself.mp4", "nowhere.mp4")}
    assert paths == {"a/1.mp4", "a/deep/2.mp4", "a/deep/there/3.mp4", "b/3.mp4", "b/round/1.mp4", "b/round/deep/2.mp4"}
    assert notes["left out"] == "4 a link to a folder above it"


def test_a_video_of_no_class(root, tmp_path, data_prep):
    os.rename(root / "b/3.mp4", root / "3.mp4")
    status, said = data_prep("folder", "--root", root, "--out", tmp_path / "out")
    assert status == 2 and f"{root}/3.mp4: lies in no folder of a class" in said


def test_what_lies_beside_the_parts(root, tmp_path, data_prep, read_rows):
    (root / "train").mkdir()
    for name in ("a", "b"):
        (root / name).rename(root / "train" / name)
    (root / "list.csv").write_text("x")
    paths, said, _ = prepared(root, tmp_path, data_prep, read_rows)
    assert paths == {"train/a/1.mp4", "train/a/deep/2.mp4", "train/b/3.mp4"} and "1 beside the parts" in said


def test_a_video_and_a_folder_of_one_name(root, tmp_path, data_prep):
    """a/1.mp4 cannot be made where a/1.mp4/2.mp4 is to be."""
    os.rename(root / "a/1.mp4", root / "a/1.avi")
    os.rename(root / "a/deep", root / "a/1.mp4")
    status, said = data_prep("folder", "--root", root, "--out", tmp_path / "out")
    assert status == 2 and "'a/1.mp4' would be a video and a folder" in said and "Traceback" not in said
