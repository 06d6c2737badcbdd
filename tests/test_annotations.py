"""Annotation and detection files: the official ones with their counts, small ones of every form, and broken ones."""

import json

import numpy as np
import pytest

from vidkd import annotations
from vidkd.errors import DataError
from vidkd.types import Segments


@pytest.fixture
def thumos(shared):
    return shared / "annotations" / "thumos14"


@pytest.mark.parametrize(
    ("name", "actions", "ambiguous", "videos"),
    [
        ("val_Annotation.csv", 3007, 89, 200),
        ("val_Annotation_ours.csv", 3007, 0, 200),
        ("test_Annotation.csv", 3358, 99, 213),
        ("test_Annotation_ours.csv", 3358, 0, 212),
    ],
)
def test_counts_of_the_thumos14_lists(thumos, name, actions, ambiguous, videos):
    said = annotations.read(thumos / name)
    assert (len(said.actions), len(said.ambiguous), len(said.subset)) == (actions, ambiguous, videos)
    assert len(set(said.actions.label)) == 20


@pytest.mark.parametrize(
    ("name", "subset", "actions", "videos"),
    [
        ("thumos_gt.json", "train", 3007, 200),
        ("thumos_gt.json", "test", 3311, 210),
        ("thumos14_actionformer.json", "Test", 3358, 212),
        ("thumos14_actionformer.json", "validation", 3007, 200),
    ],
)
def test_counts_of_the_thumos14_json(thumos, name, subset, actions, videos):
    path = thumos / name
    said = annotations.read(path).only(subset, path)
    assert (len(said.actions), len(said.subset)) == (actions, videos)


def test_csv_and_json_of_thumos14_say_the_same(thumos):
    path = thumos / "thumos14_actionformer.json"
    one, other = annotations.read(thumos / "test_Annotation_ours.csv"), annotations.read(path).only("test", path)
    a, b = (sorted(zip(s.video, s.start_s, s.end_s, s.label, strict=True)) for s in (one.actions, other.actions))
    assert a == b


def test_durations_of_thumos14(thumos):
    for name, mean, median, most, long in (("val", 4.0, 2.9, 118.1, 9), ("test", 4.5, 3.2, 86.6, 10)):
        actions = annotations.read(thumos / f"{name}_Annotation_ours.csv").actions
        length = actions.end_s - actions.start_s
        assert (round(length.mean(), 1), round(float(np.median(length)), 1)) == (mean, median)
        assert (round(length.max(), 1), int((length > 25.6).sum())) == (most, long)


def test_activitynet(shared):
    path = shared / "annotations" / "activitynet" / "anet_anno_action.json"
    said = annotations.read(path)
    assert (len(said.subset), len(said.actions)) == (19228, 22152)
    with pytest.raises(DataError, match="say which subset: testing, training, validation"):
        said.only(None, path)
    validation = said.only("validation", path)
    assert len(validation.subset) == 4728
    found = annotations.read_detections(path.parent / "sample_detection_prediction.json")
    assert len(found) == 7654
    assert set(validation.subset) <= set(found.video)  # with and without v_ they are the same videos


def test_a_subset_of_a_file_without_any(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("video,start,end,label\nu,1,2,a\n")
    assert annotations.read(path).only(None, path).subset == {"u": ""}
    with pytest.raises(DataError, match=r"a\.csv: says nothing of subsets; leave out the subset 'test'"):
        annotations.read(path).only("test", path)


def test_there_and_back(tmp_path):
    rows = [("u", 0.125, 1.5, "a b"), ("w,x", 2.0, 2.0, 'say "hi"')]
    annotations.write(tmp_path / "a.csv", Segments.of(rows))
    said = annotations.read(tmp_path / "a.csv")
    columns = (said.actions.video, said.actions.start_s, said.actions.end_s, said.actions.label)
    assert list(zip(*columns, strict=True)) == rows
    scored = Segments.of([(*row, 0.1 + 0.2) for row in rows], scored=True)
    annotations.write(tmp_path / "d.csv", scored)
    assert annotations.read_detections(tmp_path / "d.csv").score.tolist() == scored.score.tolist()


def test_a_column_of_subsets(tmp_path):
    rows = [("u", 0.0, 1.0, "a"), ("u", 2.0, 3.0, "a"), ("w", 0.0, 1.0, "b")]
    path = tmp_path / "a.csv"
    annotations.write(path, Segments.of(rows), {"u": "train", "w": "Test"})
    said = annotations.read(path)
    assert said.subset == {"u": "train", "w": "test"} and said.actions.label.tolist() == ["a", "a", "b"]
    assert said.only("test", path).actions.video.tolist() == ["w"]


def test_detections_as_json(tmp_path):
    said = {"results": {"u": [{"score": 0.5, "segment": ["1", 2], "label": "a"}], "w": []}}
    (tmp_path / "d.json").write_text(json.dumps(said))
    found = annotations.read_detections(tmp_path / "d.json")
    assert (found.video.tolist(), found.start_s.tolist(), found.score.tolist()) == (["u"], [1.0], [0.5])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "video,start_s,label\n", "lacks the column.* end_s; it has: video, start_s, label"),
        ("a.csv", "", "lacks the column.*it has: nothing"),
        ("a.csv", "video,start,end,label\nu,1,2,a\nu,x,2,a\n", "line 3: could not convert"),
        ("a.csv", "video,start,end,label\nu,3,2,a\n", "line 2: from 3 to 2 is no segment of time: 0 <= start <= end"),
        ("a.csv", "video,start,end,label\nu,nan,2,a\n", "is no segment of time"),
        ("a.csv", "video,start,end,label\nu,-1,2,a\n", "line 2: from -1 to 2 is no segment of time: 0 <= start"),
        ("a.csv", "video,start,end,label\n\nu,1,2,a\nu,2,1,a\n", "line 4: from 2 to 1"),  # blank lines count too
        ("a.csv", "video,start,end,label,start\nu,1,2,a,1\n", "names the column 'start' twice"),
        ("a.csv", "video,start,end,label\n" + '"u,1,2,a\n' + "u,1,2,a\n" * 20_000, "field larger.*quote may be open"),
        ("a.csv", "video,start,end,label,subset\nu,1,2,a,train\nu,3,4,a,Test\n", "line 3: 'u' is in 'test' here, and"),
        ("a.csv", "video,start,end,label\nu,1,2,\n", "line 2: the video or the label is empty"),
        ("a.csv", "video,start,end,label\nu,1\n", "line 2: not as many fields as the header has, 4"),
        ("a.csv", "video,start,end,label\nu,1,2,run, fast\n", "line 2: not as many .* comma must stand in quotes"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", 'holds no videos, under "database"'),
        ("a.json", '{"database": {}}', "holds no videos"),
        ("a.json", '{"database": {"u": {"annotations": [{"segment": [1], "label": "a"}]}}}', "'u'.*is no segment"),
        ("a.json", '{"database": {"u": {"annotations": [{"segment": "12", "label": "a"}]}}}', "no list of two times"),
        ("a.json", '{"database": {"u": {"annotations": [{"segment": [1, 2], "label": ["a"]}]}}}', "the label no text"),
        ("a.json", '{"database": {"u": {"annotations": null}}}', "'u': its annotations are no list but None"),
        ("a.json", '{"database": {"u": {"annotations": []}, "u": {}}}', "'u' stands there 2 times, side by side"),
        ("a.json", '{"database": {"u": {"annotations": []}, "u.mp4": {}}}', "'u' and 'u.mp4' are one video"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        annotations.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_no_file_and_no_score(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        annotations.read(tmp_path / "none.csv")
    (tmp_path / "d.csv").write_text("video,start_s,end_s,label\nu,1,2,a\n")
    with pytest.raises(DataError, match=r"lacks the column\(s\) score"):
        annotations.read_detections(tmp_path / "d.csv")


@pytest.mark.parametrize("score", ["nan", "inf", "", "sure"])
def test_scores_that_are_none(tmp_path, score):
    """In both forms, with the place; json has NaN and Infinity for numbers, and null."""
    (tmp_path / "d.csv").write_text(f"video,start_s,end_s,label,score\nu,1,2,a,0.5\nu,1,2,a,{score}\n")
    with pytest.raises(DataError, match=r"d\.csv: line 3: "):
        annotations.read_detections(tmp_path / "d.csv")
    written = {"nan": "NaN", "inf": "Infinity", "": "null", "sure": '"sure"'}[score]
    said = f'{{"results": {{"u": [{{"segment": [1, 2], "label": "a", "score": {written}}}]}}}}'
    (tmp_path / "d.json").write_text(said)
    with pytest.raises(DataError, match=r"d\.json: 'u': .* is no segment \[start, end\], label and score"):
        annotations.read_detections(tmp_path / "d.json")


def test_a_detection_may_begin_before_its_video(tmp_path):
    """Detectors that do not cut theirs say so, and the official toolkit takes them as they are."""
    (tmp_path / "d.csv").write_text("video,start_s,end_s,label,score\nu,-1.5,2,a,0.5\n")
    assert annotations.read_detections(tmp_path / "d.csv").start_s.tolist() == [-1.5]
    (tmp_path / "d.csv").write_text("video,start_s,end_s,label,score\nu,2,-1.5,a,0.5\n")
    with pytest.raises(
        DataError, match=r"from 2 to -1\.5 with score 0\.5 is no segment of time: start <= end and a sc"
    ):
        annotations.read_detections(tmp_path / "d.csv")


def test_names_with_line_breaks_come_back_whole(tmp_path):
    """What a file may be called, a table of segments can say; U+2028 ends a line for str.splitlines."""
    rows = [("two\nlines", 0.0, 1.0, "a\r\nb"), ("one\u2028line", 1.0, 2.0, "a")]
    annotations.write(tmp_path / "a.csv", Segments.of(rows))
    said = annotations.read(tmp_path / "a.csv").actions
    assert list(zip(said.video, said.start_s, said.end_s, said.label, strict=True)) == rows


def test_a_table_of_subsets_beside_the_json_that_is_another(tmp_path):
    (tmp_path / "a.json").write_text('{"u": {"annotations": [{"segment": [0, 1], "label": "a"}]}}')
    (tmp_path / "video_info_new.csv").write_text("video,subset\nu,training\n")
    assert annotations.read(tmp_path / "a.json").subset == {"u": "training"}
    (tmp_path / "video_info_new.csv").write_text("video,part\nu,training\n")
    with pytest.raises(DataError, match=r"video_info_new\.csv: lacks the column\(s\) subset"):
        annotations.read(tmp_path / "a.json")
