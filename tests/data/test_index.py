"""A prepared data set that is not whole is one clear error, which names what is wrong with it."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import tiny_set
from vidkd.data import index, index_rows
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
        ("classes.txt", b"", "label.s. are not in classes.txt: no class .*. There are: none"),
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


@pytest.mark.parametrize("part", ["Train", " train", "training", "train,test"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_part_of_another_name_would_be_lost_in_silence(root: Path, part: str, suffix: str):
    table = index.read(root).table
    rows = table.to_pylist()
    rows[1]["split1"] = part
    changed = pa.Table.from_pylist(rows, table.schema)
    (root / "index.csv").unlink()
    write = pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table
    write(changed, root / f"index{suffix}")
    with pytest.raises(DataError, match=rf"'split1' puts {rows[1]['path']!r} in part {part!r}; parts are train, val"):
        index.read(root)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.mp4", "a/../../x.mp4", "..", "", "./x.mp4", "a//x.mp4", "a/", "a\0.mp4"]
)
def test_a_path_that_leads_out_of_the_folder(root: Path, path: str):
    rewrite(root, "path", path)
    with pytest.raises(DataError, match="paths must be relative to the folder"):
        index.read(root)


def test_a_video_that_is_not_ok_may_have_none(root: Path):
    rewrite(root, "frames", 0, status="unreadable")
    with pytest.raises(DataError, match="1 of 4 videos in part 'train' of 'split1' are not ok"):
        index.read(root).part("split1", "train")


@pytest.fixture(params=["csv", "parquet"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten videos of three parts in turn, read in batches of three."""
    monkeypatch.setattr(index_rows, "BATCH", 3)
    row = {"bytes": 5, "checksum": "sha256:", "frames": 9, "fps": 25.0, "width": 32, "height": 24, "group": "007"}
    rows = [
        row | {"path": f"c/{i}.mp4", "label": "ba"[i % 2], "frames": i + 1, "split1": ["train", "val", "test"][i % 3]}
        for i in range(10)
    ]
    schema = pa.schema([*index.SCHEMA.items(), ("split1", pa.string())])
    table = pa.Table.from_pylist([each | {"status": "ok", "reason": ""} for each in rows], schema)
    index.write(tmp_path, table, ("a", "b"), {"name": "mixed", "horizontal_flip": "keeps_labels"})
    if request.param == "parquet":
        pyarrow.parquet.write_table(table, tmp_path / "index.parquet", row_group_size=4)
        (tmp_path / "index.csv").unlink()
    return tmp_path


def test_the_parts_of_an_index_share_its_rows(mixed: Path):
    data = index.read(mixed)
    part = data.part("split1", "val")
    assert len(data) == 10 and len(part) == 3
    assert part.names() == ["c/1", "c/4", "c/7"] and part.column("frames") == [2, 5, 8]
    assert [(part[i].name, part[i].frames, part[i].label) for i in range(3)] == [
        ("c/1", 2, 0),
        ("c/4", 5, 1),
        ("c/7", 8, 0),
    ]
    assert part.table["path"].to_pylist() == ["c/1.mp4", "c/4.mp4", "c/7.mp4"]
    spans = part.spread([[0], [], [0, 4]])
    assert [(spans[i].name, spans[i].start, spans[i].label) for i in range(3)] == [
        ("c/1", 0, 0),
        ("c/7", 0, 0),
        ("c/7", 4, 0),
    ]
    assert spans.names() == ["c/1", "c/7", "c/7"] and spans.spread([[], [2], [3]]).names() == ["c/7", "c/7"]


def test_other_columns_stay_on_disk_until_they_are_asked_for(mixed: Path):
    data = index.read(mixed)
    assert set(index.SCHEMA) - set(data.facts.column_names) == {"checksum", "group"}
    assert data.table.column_names == [*index.SCHEMA, "split1"] and data.table["group"][9].as_py() == "007"
    found = list(data.batches("group", "path"))
    assert all(batch.schema.names == ["group", "path"] and batch.num_rows <= 3 for batch in found)
    assert sum(batch.num_rows for batch in found) == 10
    (mixed / "index.csv").unlink(missing_ok=True)
    (mixed / "index.parquet").unlink(missing_ok=True)
    assert data.part("split1", "train")[3].frames == 10
    with pytest.raises(DataError, match="holds neither"):
        list(data.batches("group"))


@pytest.mark.parametrize(
    ("column", "kind"),
    [("path", pa.dictionary(pa.int32(), pa.string())), ("path", pa.large_string()), ("path", pa.string_view()),
     ("label", pa.dictionary(pa.int8(), pa.string())), ("split1", pa.dictionary(pa.int8(), pa.string())),
     ("frames", pa.string()), ("fps", pa.float32()), ("group", pa.int64())],
)  # fmt: skip
def test_a_parquet_file_may_keep_columns_its_own_way(root: Path, column: str, kind: pa.DataType):
    expected = index.read(root).table
    if column == "group":
        numbers = pa.array(["7"] * len(expected))
        expected = expected.set_column(expected.column_names.index(column), column, numbers)
    at = expected.column_names.index(column)
    pyarrow.parquet.write_table(expected.set_column(at, column, expected[column].cast(kind)), root / "index.parquet")
    (root / "index.csv").unlink()
    data = index.read(root)
    assert data.table.equals(expected)
    assert len(data.part("split1", "train").names()) == 4


def test_a_parquet_file_with_other_contents_or_none(root: Path):
    """A status that is not there is not ok; a text that is no number, and nested values, are errors of the file."""
    table = index.read(root).table
    n = len(table)
    (root / "index.csv").unlink()
    for column, values, said in (
        ("status", pa.array([None] + ["ok"] * (n - 1)), "the status of 'train_000.mp4' is ''; it should be one of: ok"),
        ("path", pa.array([None, *table["path"].to_pylist()[1:]]), "the index names ''"),
        ("frames", pa.array(["many"] * n), "index.parquet: cannot be read .*many"),
        ("frames", pa.array([[3]] * n), "index.parquet: cannot be read"),
        ("path", pa.array([b"\xff"] * n), "index.parquet: cannot be read"),
    ):
        wrong = table.set_column(table.column_names.index(column), column, values)
        pyarrow.parquet.write_table(wrong, root / "index.parquet")
        with pytest.raises(DataError, match=said):
            index.read(root).part("split1", "train")
    pyarrow.parquet.write_table(table.drop_columns(["split1"]), root / "index.parquet")
    with pytest.raises(DataError, match="no column whose name starts with `split`"):
        index.read(root).part("split1", "train")


@pytest.mark.parametrize("column", ["path", "split1"])
def test_a_column_that_stands_there_twice(mixed: Path, column: str):
    table = index.read(mixed).table
    index.write_csv(table.append_column(column, table[column]), mixed / "index.csv")
    with pytest.raises(DataError, match=f"index.csv: has the column '{column}' more than once"):
        index.read(mixed)


def test_a_name_that_stands_there_twice(mixed: Path):
    table = index.read(mixed).table
    paths = pa.array([*table["path"].to_pylist()[:9], "c/0.raw"])
    index.write_csv(table.set_column(0, "path", paths), mixed / "index.csv")
    with pytest.raises(DataError, match="names some video twice"):
        index.read(mixed)


def test_a_dot_in_a_folder_starts_no_suffix(mixed: Path):
    table = index.read(mixed).table
    index.write_csv(table.set_column(0, "path", pa.array([f"v1.{i % 2}/{i}" for i in range(10)])), mixed / "index.csv")
    assert len(index.read(mixed)) == 10


def test_texts_that_look_like_something_else(mixed: Path):
    """A class may be called NA, a column may be empty in every row, a reason have many lines."""
    table = index.read(mixed).table
    (mixed / "classes.txt").write_text("NA\nnull\n")
    for column, values in (
        ("label", ["NA", "null"] * 5),
        ("split2", [""] * 10),
        ("reason", ['a,\n"b"\r\nc' * 30_000] * 10),
    ):
        others = table.drop_columns([column] if column in table.column_names else [])
        table = others.append_column(column, pa.array(values))
    index.write_csv(table, mixed / "index.csv")
    data = index.read(mixed)
    assert data.table.equals(table)
    assert data.part("split1", "val").column("label") == ["null", "NA", "null"]


def test_spans_keep_what_their_part_says(mixed: Path):
    """Also of videos without a class, whose label is -1."""
    (mixed / "dataset.json").write_text('{"name": "x", "horizontal_flip": "keeps_labels", "modality": "flow"}')
    table = index.read(mixed).table
    index.write_csv(table.set_column(7, "label", pa.array([""] * 10)), mixed / "index.csv")
    part = index.read(mixed).part("split1", "train")
    part.truth = lambda _: {}
    spans = part.spread([[0, 3], [], [1], []])
    assert (spans.modality, spans.truth) == ("flow", part.truth)
    assert [(spans[i].name, spans[i].start, spans[i].label) for i in range(3)] == [
        ("c/0", 0, -1),
        ("c/0", 3, -1),
        ("c/6", 1, -1),
    ]


def test_the_checksum_is_of_the_index_and_the_classes(mixed: Path):
    data = index.read(mixed)
    before = data.checksum()
    path, classes = index_rows.path_of(mixed), mixed / "classes.txt"
    content = path.read_bytes()
    assert before == hashlib.sha256(content + classes.read_bytes()).hexdigest()
    path.write_bytes(content[:-1] + b"?")
    assert data.checksum() != before
    path.write_bytes(content)
    classes.write_text("a\nc\n")
    assert data.checksum() != before


def test_names_of_one_hash_are_two(mixed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index_rows, "hashes", lambda texts: np.zeros(len(texts), np.int64))
    assert len(index.read(mixed)) == 10


def test_an_index_without_rows(mixed: Path):
    index.write_csv(index.read(mixed).table.slice(0, 0), mixed / "index.csv")
    with pytest.raises(DataError, match="the index has no rows"):
        index.read(mixed)


def test_what_is_wrong_is_counted_over_all_rows(mixed: Path):
    """The first of the bad ones is named, wherever it stands."""
    table = index.read(mixed).table
    for column, values, said in (
        ("fps", [25.0] * 4 + [0.0] * 6, r"6 video.s. cannot be ok: the first is 'c/4.mp4', whose fps is 0.0"),
        ("path", [f"{i}" for i in range(8)] + ["../x", "/y"], r"the index names '../x'"),
        ("label", [*"abababzaby"], r"2 label.s. are not in classes.txt: no class 'y'"),
        ("status", ["ok"] * 5 + ["refused"] * 5, r"2 of 4 videos in part 'train' .*the first is 'c/6.mp4': refused"),
    ):
        wrong = table.set_column(table.column_names.index(column), column, pa.array(values, index.SCHEMA[column]))
        index.write_csv(wrong, mixed / "index.csv")
        with pytest.raises(DataError, match=said):
            index.read(mixed).part("split1", "train")


def test_files_that_are_gone_or_cut_short_are_named_before_any_is_read(root: Path):
    part = index.read(root).part("split1", "test")
    part.check_files()
    (root / "test_001.mp4").write_bytes((root / "test_001.mp4").read_bytes()[:-1])
    (root / "test_003.mp4").unlink()
    with pytest.raises(DataError, match=r"2 video.s.*test_001.mp4: \d+ bytes where.*test_003.mp4: No such file"):
        part.check_files()
