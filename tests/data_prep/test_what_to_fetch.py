"""Asked for what is not there: each data set says what to fetch, from where, and which option names it."""

import json

import pytest

from data_prep import activitynet, thumos14


@pytest.mark.parametrize(
    ("name", "fetch"),
    {
        "ucf101": "UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip",
        "hmdb51": "hmdb51_org.rar and test_train_splits.rar from https://serre.lab.brown.edu/hmdb51.html",
        "jhmdb": "JHMDB_video.zip and splits.zip from http://jhmdb.is.tue.mpg.de",
        "kinetics": "the csv files from https://github.com/cvdfoundation/kinetics-dataset",
        "ssv2": "https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
        "thumos14": "TH14_validation_set_mp4.zip and TH14_Test_set_mp4.zip from https://www.crcv.ucf.edu/THUMOS14",
        "activitynet": "activity_net.v1-3.min.json from http://activity-net.org/download.html",
    }.items(),
)
def test_what_a_person_has_to_fetch(tmp_path, data_prep, name, fetch):
    """Asked for what is not there: the files, from where, and the options that name them, with and without lists."""
    (tmp_path / "empty").mkdir()
    words = [name, "--root", tmp_path / "empty", "--out", tmp_path / "out"]
    for options in ([], ["--annotations", tmp_path / "empty"]):
        if name in ("thumos14", "activitynet") and not options:
            continue  # they insist on --annotations
        status, said = data_prep(*words, *options)
        assert status == 2 and fetch in said and "--root" in said and "--annotations" in said


@pytest.mark.parametrize("name", ["thumos14", "activitynet"])
def test_where_to_get_videos_that_are_listed_only(tmp_path, data_prep, monkeypatch, name):
    """The lists are there, and no video is."""
    lists = tmp_path / "lists"
    lists.mkdir()
    (tmp_path / "empty").mkdir()
    for part in ("val", "test"):
        (lists / f"{part}_Annotation.csv").write_text(f"video,type,start,end\nvideo_{part}_1,A,0,1\n")
    (lists / "anet.json").write_text(json.dumps({"database": {"v_x": {"subset": "training", "annotations": []}}}))
    monkeypatch.setattr(thumos14, "check", lambda *_: None)
    monkeypatch.setattr(activitynet, "EXPECTED", {})
    annotations = lists / "anet.json" if name == "activitynet" else lists
    words = [name, "--root", tmp_path / "empty", "--annotations", annotations, "--out", tmp_path / "out"]
    status, said = data_prep(*words)
    assert status == 2 and "no videos were found in it. Get " in said and "--root" in said, said


def ucf101(lists, names):
    (lists / "classInd.txt").write_text("1 A\n")
    for part, own in (("train", names), ("test", [])):
        for n in (1, 2, 3):
            (lists / f"{part}list{n:02d}.txt").write_text("".join(f"A/{name}.avi 1\n" for name in own))


def kinetics(lists, names):
    rows = "".join(f"A,{name},0,10,train\n" for name in names)
    (lists / "train.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")


def hmdb51(lists, names):
    (lists / "A_test_split1.txt").write_text("".join(f"{name}.avi 1\n" for name in names))


def ssv2(lists, names):
    train = [{"id": name, "template": "A"} for name in names]
    for name, content in {"labels": {"A": "0"}, "train": train, "validation": []}.items():
        (lists / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("write", "fetch"),
    [
        (ucf101, "Get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from https://www.crcv.ucf.edu"),
        (kinetics, "https://github.com/cvdfoundation/kinetics-dataset, which says how to get the videos"),
        (hmdb51, "Get hmdb51_org.rar and test_train_splits.rar from https://serre.lab.brown.edu/hmdb51.html"),
        (ssv2, "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"),
    ],
)
def test_lists_without_their_videos(tmp_path, data_prep, make_video, write, fetch):
    """No --root; an empty one; one with other videos alone, which no option makes good; one with some of them."""
    lists, root = tmp_path / "lists", tmp_path / "videos"
    lists.mkdir()
    write(lists, names := [f"v_A_g0{n}_c01" for n in (1, 2, 3)])
    words = [write.__name__, "--root", root, "--annotations", lists, "--out", tmp_path / "out"]

    def refused(told, *options):
        status, said = data_prep(*words, *options)
        assert status == 2 and told in said and fetch in said and "--root" in said, said
        assert said.count("error:") == 1 and not (tmp_path / "out").exists()
        return said

    refused("no such file or folder")
    root.mkdir()
    refused("no videos were found in it")
    make_video(root / "other.avi", "avi", frames=3)
    assert "--allow-missing" not in refused("3 of the 3 videos that the lists name are not there", "--allow-missing")
    (root / "other.avi").rename(root / f"{names[1]}.avi")
    assert "Or go on without them with --allow-missing" in refused("2 of the 3 videos that the lists name are not")
    status, said = data_prep(*words, "--allow-missing")
    assert status == 0 and "1 videos, 1 classes" in said and "missing    2" in said, said
