"""Each data set from its own lists and layout."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data_prep import kinetics
from data_prep.pipeline.holdout import choose
from vidkd.data import index


@pytest.fixture
def named_videos(tmp_path, make_video):
    """named_videos("a/x.avi", ...) makes these files of three frames below a folder, and returns the folder."""

    def make(*names: str) -> Path:
        first = make_video(tmp_path / "one.avi", "avi", frames=3)
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(first.read_bytes())
        return tmp_path / "videos"

    return make


# Real files.


def test_real_ucf101_files(shared, tmp_path, data_prep, read_rows):
    """The original XviD files, by the official lists: every frame there, in its own group and parts."""
    root, out = shared / "data/ucf101_raw", tmp_path / "out"
    words = ["ucf101", "--root", root, "--out", out, "--annotations", shared / "annotations/ucf101_splits"]
    status, said = data_prep(*words)
    assert status == 2 and "13296 of the 13320" in said and "--allow-missing" in said
    assert data_prep(*words, "--allow-missing", "--workers", 2)[0] == 0
    table = read_rows(out)
    assert len(table) == 24 and len(index.read(out).classes) == 6
    assert all(row["status"] == "ok" and not row["reason"] and row["height"] == 128 for row in table.values())
    assert table["Archery/v_Archery_g01_c01.mp4"]["frames"] == 131
    assert table["Archery/v_Archery_g01_c01.mp4"]["group"] == "Archery_g01"
    assert table["Archery/v_Archery_g01_c01.mp4"]["split1"] == "test"


# Layouts.


def test_ucf101_hold_out_keeps_groups(named_videos, tmp_path, data_prep, read_rows):
    stems = [f"v_{label}_g{g:02d}_c{c:02d}" for label in ("A", "B") for g in range(1, 7) for c in (1, 2, 3)]
    root = named_videos(*(f"UCF-101/{stem.split('_')[1]}/{stem}.avi" for stem in stems))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 A\n2 B\n")
    for n in (1, 2, 3):
        test = [stem for stem in stems if f"_g{n:02d}_" in stem]
        line = "{0}/{1}.avi".format
        (lists / f"testlist{n:02d}.txt").write_text("".join(f"{line(s.split('_')[1], s)}\n" for s in test))
        train = [stem for stem in stems if stem not in test]
        (lists / f"trainlist{n:02d}.txt").write_text("".join(f"{line(s.split('_')[1], s)} 1\n" for s in train))
    out = tmp_path / "out"
    assert data_prep("ucf101", "--root", root, "--out", out, "--holdout", 0.2)[0] == 0
    table = read_rows(out)
    for split in ("split1", "split2", "split3"):
        parts = {(row["label"], row["group"], row[split]) for row in table.values()}
        assert len(parts) == 12  # no group in two parts
        assert Counter((label, part) for label, _, part in parts)["A", "val"] == 1


def test_hmdb51_layout(named_videos, tmp_path, data_prep, read_rows):
    names = ["film_#1_wave_u_cm_np1_fr_med_0", "film_#1_wave_u_cm_np1_fr_med_1", "other_wave_h_nm_np1_ba_bad_0"]
    root = named_videos(*(f"wave/{name}.avi" for name in names))
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for n in (1, 2, 3):
        (lists / f"wave_test_split{n}.txt").write_text("".join(f"{name}.avi {i} \n" for i, name in enumerate(names)))
    assert data_prep("hmdb51", "--root", root, "--out", tmp_path / "out")[0] == 0
    table = read_rows(tmp_path / "out")
    assert [table[f"wave/{name}.mp4"]["split2"] for name in names] == ["", "train", "test"]
    assert [table[f"wave/{name}.mp4"]["group"] for name in names] == ["film_#1", "film_#1", "other"]


def test_jhmdb_official_layout(named_videos, tmp_path, data_prep, read_rows):
    names = ["a_clap_u_nm_np1_fr_med_0", "b_clap_u_nm_np1_fr_med_0"]
    root = named_videos(*(f"ReCompress_Videos/clap/{name}.avi" for name in names))
    (root / "splits").mkdir()
    (root / "splits/clap_test_split1.txt").write_text(f"{names[0]}.avi 1\n{names[1]}.avi 2\n")
    assert data_prep("jhmdb", "--root", root, "--out", tmp_path / "out")[0] == 0
    assert [row["split1"] for row in read_rows(tmp_path / "out").values()] == ["train", "test"]


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_kinetics_layout(named_videos, tmp_path, data_prep, read_rows):
    root = named_videos("train/a b/-Ab_cd_000010_000020.mp4", "xyz.mp4", "val/a b/v1_000000_000010.avi")
    (root / "train.csv").write_text(
        f'{KINETICS}a b,-Ab_cd,10,20,train,0\n"c, d",xyz,5,15,train,0\n"c, d",gone,5,15,train,0\n'
    )
    (root / "validate.csv").write_text(f"{KINETICS}a b,v1,0.0,10.0,val,0\n")
    (root / "test.csv").write_text("youtube_id,time_start,time_end,split\nzzz,1,2,test\n")
    words = ["kinetics", "--root", root, "--out", tmp_path / "out", "--name", "kinetics700"]
    status, said = data_prep(*words)
    assert status == 2 and "1 of the 4 videos" in said and "gone_000005_000015" in said
    assert data_prep(*words, "--allow-missing")[0] == 0
    table = read_rows(tmp_path / "out")
    assert {path: (row["label"], row["split1"], row["group"]) for path, row in table.items()} == {
        "a b/-Ab_cd_000010_000020.mp4": ("a b", "train", "-Ab_cd"),
        "c, d/xyz.mp4": ("c, d", "train", "xyz"),
        "a b/v1_000000_000010.mp4": ("a b", "val", "v1"),
    }
    assert kinetics.part_of(Path("kinetics_700_val.csv")) == "val" and not kinetics.part_of(Path("classes.csv"))


def test_kinetics_classes_keep_their_numbers(named_videos, tmp_path, data_prep, read_rows):
    """Who names the classes has a network that counts on their order, also where a copy lacks some."""
    root = named_videos("a_000000_000010.avi", "b_000000_000010.avi")
    (root / "train.csv").write_text(f"{KINETICS}zumba,a,0,10,train,0\nabseiling,b,0,10,train,0\n")
    (root / "test.csv").write_text("youtube_id,time_start,time_end,split\nx,1,2,test\ny,1,2,test\n")
    names = tmp_path / "names.txt"
    words = ["kinetics", "--root", root, "--out", tmp_path / "out", "--classes", names]
    names.write_text("abseiling\nknitting\n")
    status, said = data_prep(*words)
    assert status == 2 and "'zumba'" in said and "names.txt" in said and not (tmp_path / "out").exists()
    names.write_text("knitting\nzumba\nabseiling\n")
    status, said = data_prep(*words)
    assert status == 0 and index.read(tmp_path / "out").classes == ("knitting", "zumba", "abseiling")
    assert "test.csv: without labels, left out 2" in said


def test_ssv2_layout(named_videos, tmp_path, data_prep, read_rows):
    root = named_videos("20bn/7.avi", "20bn/8.avi", "20bn/9.avi")
    labels = {"Pushing something from left to right": "1", "Holding something": "0"}
    rows = [
        {"id": "7", "label": "pushing a cup", "template": "Pushing [something] from left to right"},
        {"id": "9", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]},
    ]
    (tmp_path / "labels").mkdir()
    files = {"labels": labels, "train": rows, "validation": [{"id": "8", "template": "Holding [something]"}]}
    for name, content in {**files, "test": [{"id": "1"}]}.items():
        (tmp_path / "labels" / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    words = ["ssv2", "--root", root, "--annotations", tmp_path / "labels", "--out", tmp_path / "out"]
    assert data_prep(*words)[0] == 0
    data = index.read(tmp_path / "out")
    assert data.classes == ("Holding something", "Pushing something from left to right") and data.flip_changes_labels
    found = {path: (row["label"], row["split1"]) for path, row in read_rows(tmp_path / "out").items()}
    assert found == {
        "Pushing something from left to right/7.mp4": ("Pushing something from left to right", "train"),
        "Holding something/9.mp4": ("Holding something", "train"),
        "Holding something/8.mp4": ("Holding something", "val"),
    }


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train", [{"id": "7"}], "has no id and template"),
        ("train", [{"id": "7", "template": "Eating [something]"}], "is of no class"),
        ("train", {}, "is not a JSON list"),
        ("labels", {"Holding something": "3"}, "are not 0 to 0"),
        ("labels", {"Holding something": None}, "should map each class"),
    ],
)
def test_wrong_ssv2_lists(named_videos, tmp_path, data_prep, name, content, told):
    files = {"labels": {"Holding something": "0"}, "train": [], "validation": []}
    root = named_videos("7.avi")
    for each, right in files.items():
        (root / f"{each}.json").write_text(json.dumps(content if each == name else right))
    status, said = data_prep("ssv2", "--root", root, "--out", tmp_path / "out")
    assert status == 2 and told in said and "Traceback" not in said


def test_ucf101_in_other_letters(named_videos, tmp_path, data_prep, read_rows):
    """The mirror of UCF101 writes HandstandPushups where the lists write HandStandPushups."""
    root = named_videos("v_Handstand_g01_c01.avi")
    (root / "splits.csv").write_text(
        "clip,label,split1,split2,split3\nv_HandStand_g01_c01.avi,Handstand,train,test,train\n"
    )
    assert data_prep("ucf101", "--root", root, "--out", tmp_path / "out")[0] == 0
    assert read_rows(tmp_path / "out")["Handstand/v_HandStand_g01_c01.mp4"]["split2"] == "test"
    (root / "splits.csv").write_text("clip,label,split1,split2,split3\n")
    assert "names no video" in data_prep("ucf101", "--root", root, "--out", tmp_path / "out2")[1]
    (root / "splits.csv").write_text("clip,label,split1,split2\nv_HandStand_g01_c01.avi,Handstand,train,Test\n")
    status, said = data_prep("ucf101", "--root", root, "--out", tmp_path / "out2")
    assert status == 2 and "split2: a video is in part 'Test', which is none of: train, val, test" in said


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_lists(named_videos, tmp_path, data_prep, separator, read_rows):
    root = named_videos("x/a clip.avi", "y/b.avi", "c.avi")
    (tmp_path / "train.txt").write_text(f"x/a clip.avi{separator}2\n\ny/b.avi{separator}0\n")
    (tmp_path / "val.txt").write_text(f"{root.absolute()}/c.avi{separator}0\n")
    (tmp_path / "names").write_text("zero\none\ntwo\n")
    words = ["list", "--root", root, "--train", tmp_path / "train.txt", "--val", tmp_path / "val.txt"]
    assert data_prep(*words, "--out", tmp_path / "a", "--classes", tmp_path / "names")[0] == 0
    found = {path: (row["label"], row["split1"]) for path, row in read_rows(tmp_path / "a").items()}
    assert found == {"x/a clip.mp4": ("two", "train"), "y/b.mp4": ("zero", "train"), "c.mp4": ("zero", "val")}
    assert data_prep(*words, "--out", tmp_path / "b")[0] == 0
    assert index.read(tmp_path / "b").classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "train.txt: no video is listed"),
        ("c.avi 99999999999", "the label 99999999999: there may be"),
        ("c.avi " + "9" * 5000, "there may be"),
        ("alone", "not a path and a label"),
        ("c\0.avi 1", "'c\\x00.avi' is not the path of a video"),
        (". 1", "'.' is not the path of a video"),
        ("../out.avi 1", "outside of --root"),
        ("/etc/passwd 1", "outside of --root"),
    ],
)
def test_wrong_lists(named_videos, tmp_path, data_prep, line, told):
    (tmp_path / "train.txt").write_text(line + "\n")
    words = ["list", "--root", named_videos("c.avi"), "--train", tmp_path / "train.txt", "--out", tmp_path / "out"]
    status, said = data_prep(*words)
    assert status == 2 and told in said and "Traceback" not in said


def test_a_class_named_twice(named_videos, tmp_path, data_prep):
    (tmp_path / "train.txt").write_text("c.avi 0\n")
    (tmp_path / "names").write_text("x\ny\nx\n")
    words = ["list", "--root", named_videos("c.avi"), "--train", tmp_path / "train.txt", "--out", tmp_path / "out"]
    status, said = data_prep(*words, "--classes", tmp_path / "names")
    assert status == 2 and "the class 'x' is named twice" in said


def test_folders_with_parts(named_videos, tmp_path, data_prep, read_rows):
    root = named_videos("train/a/1.avi", "validation/a/1.avi", "test/b/deep/er/1.avi")
    assert data_prep("folder", "--root", root, "--out", tmp_path / "out", "--flip-changes-labels")[0] == 0
    found = {path: (row["label"], row["split1"]) for path, row in read_rows(tmp_path / "out").items()}
    assert found == {
        "train/a/1.mp4": ("a", "train"),
        "validation/a/1.mp4": ("a", "val"),
        "test/b/deep/er/1.mp4": ("b", "test"),
    }
    assert index.read(tmp_path / "out").flip_changes_labels


def test_choice_of_groups():
    """A quarter of each class, in whole groups; a class never loses its last group; another seed, another choice."""
    labels = ["a"] * 40 + ["b"] * 8 + ["c"]
    groups = [f"a{i // 4}" for i in range(40)] + [f"b{i // 4}" for i in range(8)] + ["c0"]

    def chosen_by(fraction: float, seed: int) -> set[str]:
        return set(choose(zip(labels, groups, strict=True), fraction, seed))

    chosen = chosen_by(0.25, seed=0)
    taken = Counter(label for label, group in zip(labels, groups, strict=True) if group in chosen)
    assert taken == {"a": 8, "b": 4} or taken == {"a": 12, "b": 4}
    assert chosen_by(0.25, seed=0) == chosen != chosen_by(0.25, seed=1)
    assert chosen_by(0.0, seed=0) == set()


def test_a_hold_out_of_nothing_is_said(named_videos, tmp_path, data_prep):
    root = named_videos(*(f"A/v_A_g0{group}_c01.avi" for group in (1, 2, 3, 4)))
    splits = "".join(f"v_A_g0{group}_c01.avi,A,train,{'train' if group < 3 else 'test'}\n" for group in (1, 2, 3, 4))
    (root / "splits.csv").write_text(f"clip,label,split1,split2\n{splits}")
    said = data_prep("ucf101", "--root", root, "--out", tmp_path / "out", "--holdout", 0.2)[1]
    assert "nothing held out in split2: too few groups" in said and "3 train, 1 val" in said
    said = data_prep("ucf101", "--root", root, "--out", tmp_path / "out", "--holdout", 0.5)[1]
    assert "nothing held out" not in said
