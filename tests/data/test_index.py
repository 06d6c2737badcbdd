"""A prepared data set that is not whole is one clear error, which names what is wrong with it."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest

import tiny_set
from vidkd.data import index
from vidkd.errors import DataError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set.make(tmp_path_factory.mktemp("index") / "set", train=4, test=4)


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def rewrite(root: Path, column: str, value: object, status: str = "ok") -> None:
    """Give the first row another value in `column`."""
    table = index.read(root).table
    rows = table.to_pylist()
    rows[0] |= {column: value, "status": status}
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows, table.schema), root / "index.csv")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("index.csv", None, "holds neither index.csv nor index.parquet"),
        ("index.csv", b"", "index.csv: cannot be read"),
        ("index.csv", b"path,bytes\na.mp4,3\n", "lacks the column"),
        ("index.csv", b"\x00\xff\x80,\n,,,,", "index.csv: "),
        ("classes.txt", None, "classes.txt: cannot be read"),
        ("classes.txt", b"\x80\x81\n", "classes.txt: is not UTF-8 text"),
        ("classes.txt", b"right\nleft\n", "2 label.s. are not in classes.txt: no class 'down'"),
        ("classes.txt", b"right\nright\n", "unique"),
        ("dataset.json", None, "dataset.json: cannot be read"),
        ("dataset.json", b"\x80", "dataset.json: is not UTF-8 text"),
        ("dataset.json", b"{", "dataset.json: not JSON"),
        ("dataset.json", b"[]", "must hold"),
        ("dataset.json", json.dumps({"name": "x", "horizontal_flip": "maybe"}).encode(), "must hold"),
    ],
)
def test_a_file_that_is_missing_or_something_else(root: Path, file: str, content: bytes | None, message: str):
    (root / file).unlink()
    if content is not None:
        (root / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        index.read(root)


@pytest.mark.parametrize(
    ("column", "value"),
    [("frames", 0), ("frames", None), ("fps", 0.0), ("fps", float("nan")), ("fps", float("inf")), ("width", -4),
     ("height", 0), ("bytes", 0)],
)  # fmt: skip
def test_a_video_that_is_ok_has_frames_a_rate_and_a_size(root: Path, column: str, value: float | None):
    rewrite(root, column, value)
    with pytest.raises(DataError, match=rf"{column}|cannot be read"):  # a CSV cannot say that a number is missing
        index.read(root)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.mp4", "a/../../x.mp4", "..", ""])
def test_a_path_that_leads_out_of_the_folder(root: Path, path: str):
    rewrite(root, "path", path)
    with pytest.raises(DataError, match="paths must lie in the folder"):
        index.read(root)


def test_a_video_that_is_not_ok_may_have_none(root: Path):
    rewrite(root, "frames", 0, status="unreadable")
    with pytest.raises(DataError, match="1 of 4 videos in part 'train' of 'split1' are not ok"):
        index.read(root).part("split1", "train")


def test_files_that_are_gone_or_cut_short_are_named_before_any_is_read(root: Path):
    part = index.read(root).part("split1", "test")
    part.check_files()
    (root / "test_001.mp4").write_bytes((root / "test_001.mp4").read_bytes()[:-1])
    (root / "test_003.mp4").unlink()
    with pytest.raises(DataError, match=r"2 video.s.*test_001.mp4: \d+ bytes where.*test_003.mp4: No such file"):
        part.check_files()
