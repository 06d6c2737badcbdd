"""The page about a prepared data set: its figures, its pictures, and nothing that a browser would have to fetch."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data_prep.pipeline import show, stats
from vidkd.data import index


def test_figures_and_pictures(tmp_path, videos, data_prep):
    (videos / "jump" / "<b>&.avi").write_text("#EXTM3U\n")
    out = tmp_path / "out"
    words = ["folder", "--root", videos, "--out", out, "--test-fraction", 0.3, "--allow-failures", 1]
    assert data_prep(*words)[0] == 0
    status, said = data_prep("stats", out, "--samples", 3)
    assert status == 0 and "stats.html: 7 videos of videos" in said
    page = (out / "stats.html").read_text()
    tiles = dict(re.findall(r"<b>([^<]*)</b><span>(\w[^<]*)</span>", page))
    # Two of 30 frames at 25/s, two of 18 at 30/s, two of 20 at 15/s: 6.3 s
    assert {"7": "videos", "2": "classes", "136": "frames", "6 s": "of video", "1": "failed"}.items() <= tiles.items()
    assert re.search(r"<td>split1</td><td>4</td><td>0</td><td>2</td><td>1</td>", page)  # train, val, test, none
    assert "160 x 120" in page and "not a video" in page and "jump/&lt;b&gt;&amp;.mp4" in page and "<b>&" not in page
    pictures = re.findall(r"data:image/jpeg;base64,([^']+)'", page)
    assert len(pictures) == 3 * stats.FRAMES
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert first.shape == (120, 160, 3) and first.std() > 20
    assert "<td style='text-align:left;white-space:nowrap'>refused</td>" in page  # not a letter below the others
    assert not re.search(r"(src|href)=(?!['\"]?data:)|url\(|@import", page)


def test_untrimmed_videos_have_no_class_of_their_own(tmp_path, videos, data_prep):
    (tmp_path / "s.csv").write_text("video,start,end,label,split\na,0,1,run,train\nb,0,0.5,jump,test\n")
    words = ["segments", "--root", videos / "jump", "--segments", tmp_path / "s.csv", "--out", tmp_path / "out"]
    assert data_prep(*words)[0] == 0
    assert data_prep("stats", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "stats.html").read_text()
    assert "<b>2</b><span>classes</span>" in page and "a.mp4 · 1.2 s" in page and "<h2>Classes" not in page


def test_where_it_goes(tmp_path, videos, data_prep):
    data_prep("folder", "--root", videos, "--out", tmp_path / "out", "--frames", "jpeg")
    assert data_prep("stats", tmp_path / "out", "--page", tmp_path / "new" / "page.html", "--samples", 0)[0] == 0
    assert "<img" not in (tmp_path / "new" / "page.html").read_text() and not (tmp_path / "out/stats.html").exists()
    (tmp_path / "new" / "folder").mkdir()
    status, said = data_prep("stats", tmp_path / "out", "--page", tmp_path / "new" / "folder")
    assert status == 2 and said.startswith("error: --page") and "Traceback" not in said
    assert data_prep("stats", tmp_path / "out", "--samples", -1)[0] == 2


@pytest.mark.parametrize(("labels", "said"), [("abab", "videos a class: 2; "), ("abaa", "videos a class: 1 to 3; ")])
def test_how_many_videos_a_class_has(labels, said):
    rows = pa.table({"label": list(labels), "split1": ["train", "test"] * 2})
    assert said in stats._classes(index.Index(Path(), rows, ("a", "b"), {}))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119.4, "119 s"), (3600, "60 min"), (7200, "2.0 h"), (1e7, "2,777.8 h")]
)
def test_durations(seconds, text):
    assert stats._duration(seconds) == text


def test_a_set_without_a_usable_video(tmp_path, videos, data_prep):
    for path in videos.rglob("*.*"):
        path.write_bytes(b"")
    data_prep("folder", "--root", videos, "--out", tmp_path / "out", "--allow-failures", 6, "--test-fraction", 0)
    assert index.read(tmp_path / "out").table.num_rows == 6
    status, said = data_prep("stats", tmp_path / "out", "--samples", 0)
    assert status == 0, said
    assert "it is empty" in (tmp_path / "out/stats.html").read_text()


def test_a_video_that_was_replaced_is_not_shown_as_what_it_was(tmp_path, videos, data_prep, make_video):
    out = tmp_path / "out"
    assert data_prep("folder", "--root", videos, "--out", out, "--test-fraction", 0)[0] == 0
    path = index.read(out).facts["path"][0].as_py()
    make_video(out / path, frames=50)
    for words in (["stats", out], ["show", out, "--sheet", tmp_path / "sheet.png"]):
        status, said = data_prep(*words)
        assert status == 2 and f"{path!r} has " in said and "bytes instead of" in said, said
    assert not (out / "stats.html").exists() and not (tmp_path / "sheet.png").exists()


def test_samples_are_spread_over_a_class():
    rows = [{"label": "ab"[i // 60], "path": str(i), "status": "ok"} for i in range(70)]
    data = index.Index(Path("."), pa.Table.from_pylist(rows), ("a", "b"), {})
    assert [row["path"] for row in show.pick(data, 6)] == ["0", "60", "20", "63", "40", "66"]
    assert len(show.pick(data, 1000)) == 70
    picked = [row["label"] for row in show.pick(data, 30)]
    assert (picked.count("a"), picked.count("b")) == (20, 10)  # what b has not got, a has


def test_what_is_too_long_beside_the_frames_ends_in_an_ellipsis():
    row = {"width": 170, "height": 128, "frames": 300, "split1": "train", "split2": "", "path": "a/short.name.mp4"}
    label = "putting_something_similar_to_other_things"
    assert show.words(row | {"label": label}, ["split1", "split2"]) == [
        "putting_something_similar_to_othe…",
        "short.name",
        "170x128, 300 frames",
        "train -",
    ]
    assert show.words(row | {"label": "x" * 34}, [])[0] == "x" * 34
    untrimmed = row | {"label": "", "path": f"{'x' * 40}_0000004.mp4"}  # its segments have labels
    assert show.words(untrimmed, ["split1"]) == [f"…{'x' * 25}_0000004", "170x128, 300 frames", "train"]
