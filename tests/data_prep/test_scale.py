"""Any number of videos: memory that does not grow with it, no folder with a million files, and one clear error."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep.pipeline import database, journal, listing, writer
from data_prep.pipeline.journal import Entry
from data_prep.pipeline.listing import Item, Listing, Rows
from vidkd.data import index
from vidkd.errors import DataError


def items(count: int):
    for i in range(count):
        yield Item(f"c{i % 7}/video {i:07d}.mp4", f"/videos/c{i % 7}/video {i:07d}.avi", f"c{i % 7}", "", ("train",))


def whole_way(out: Path, count: int) -> int:
    """From items to an index, by way of a journal; the most bytes of Python objects at one time."""
    out.mkdir()
    with (out / ".journal.jsonl").open("wb") as file:
        for i, item in enumerate(items(count)):
            file.write(journal.record(Entry(item.path, f"{i:024x}", 5, f"sha256:{i:064x}", 9, 25.0, 32, 24)))
    tracemalloc.start()
    rows = Rows(items(count), ("split1",))
    assert len(rows) == sum(1 for _ in rows.items()) == count
    writer.finish(out, Listing("many", rows.labels(), rows, "keeps_labels", "none"), "", {})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_videos(tmp_path, capsys):
    # Both are many batches of rows, two of which may live at one time.
    few, many = whole_way(tmp_path / "few", 10_000), whole_way(tmp_path / "many", 30_000)
    assert many < 1.2 * few, f"{few / 1e6:.1f} MB for 10,000 videos, {many / 1e6:.1f} MB for 30,000"
    assert "30000 videos, 7 classes, 270000 frames" in capsys.readouterr().out
    made = index.read(tmp_path / "many").table
    assert made["path"].to_pylist() == [item.path for item in items(30_000)]
    assert made["checksum"][11_234].as_py() == f"sha256:{11_234:064x}"


def test_no_folder_holds_too_many(tmp_path, make_video, data_prep, read_rows, monkeypatch):
    """A flat list of more than the limit is spread by the hashes of the names; other folders keep their names."""
    monkeypatch.setattr(listing, "MOST_IN_A_FOLDER", 4)
    first = make_video(tmp_path / "in" / "v0.mp4", frames=3)
    names = [f"v{i}.mp4" for i in range(9)] + ["few/a.mp4", "few/b.mp4"]
    (tmp_path / "in" / "few").mkdir()
    for name in names[1:]:
        (tmp_path / "in" / name).write_bytes(first.read_bytes())
    (tmp_path / "list.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    words = ["list", "--root", tmp_path / "in", "--train", tmp_path / "list.txt"]
    assert data_prep(*words, "--out", tmp_path / "mp4")[0] == 0
    paths = list(read_rows(tmp_path / "mp4"))
    assert [path.rpartition("/")[2] for path in paths] == [name.rpartition("/")[2] for name in names]
    assert paths[9:] == names[9:]
    folders = {path.rpartition("/")[0] for path in paths[:9]}
    assert len(folders) > 4 and all(len(f) == 2 and int(f, 16) < 256 for f in folders)
    made = {path: path.stat().st_ino for path in (tmp_path / "mp4").rglob("*.mp4")}
    assert data_prep(*words, "--out", tmp_path / "mp4")[0] == 0
    assert len(made) == 11 and made == {path: path.stat().st_ino for path in made}
    assert data_prep("verify", tmp_path / "mp4")[0] == 0
    # A clip's name does not depend on the form in which its frames are kept.
    assert data_prep(*words, "--out", tmp_path / "raw", "--frames", "raw")[0] == 0
    assert [path.replace(".raw", ".mp4") for path in read_rows(tmp_path / "raw")] == paths


def test_large_folders_are_spread_evenly():
    """A quarter of a million videos: 256 folders of about a thousand; 20,000 stay where they are."""
    rows = Rows((Item(f"{i}.mp4", f"/{i}", "a", parts=("train",)) for i in range(20_000)), ("split1",))
    assert [item.path for item in rows.items()][:2] == ["0.mp4", "1.mp4"]
    rows._large = {"": 250_000, "huge": 10_000_000}
    counts: dict[str, int] = {}
    for i in range(250_000):
        folder = rows.placed(f"{i}.mp4").rpartition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    assert len(counts) == 256 and max(counts.values()) < 1200
    assert rows.placed("huge/a.mp4").count("/") == 3 and rows.placed("other/a.mp4") == "other/a.mp4"


def test_spread_videos_that_meet_others():
    """A spread video may not land on one that is called so already."""
    many = [Item(f"{i}.mp4", f"/{i}", "a", parts=("",)) for i in range(listing.MOST_IN_A_FOLDER + 1)]
    spread = Rows(many, ("split1",)).placed("7.mp4")
    with pytest.raises(DataError, match=f"a second video for '{spread}'"):
        Rows([*many, Item(spread, "/other", "a", parts=("",))], ("split1",))


@pytest.mark.parametrize(
    "line", [b"[]", b"no JSON", b'{"path": "a/0.mp4"}', b'{"path": "a", "identity": "", "bytes": "5"}']
)
def test_a_journal_of_another_version(tmp_path, make_video, data_prep, line):
    make_video(tmp_path / "in" / "a" / "0.mp4", frames=3)
    words = ["folder", "--root", tmp_path / "in", "--out", tmp_path / "out"]
    assert data_prep(*words)[0] == 0
    with (tmp_path / "out/.journal.jsonl").open("ab") as file:
        file.write(line + b"\n")
    status, said = data_prep(*words)
    assert status == 2 and ".journal.jsonl: line 2 is no entry that this version writes" in said
    (tmp_path / "out/.journal.jsonl").unlink()
    assert data_prep(*words)[0] == 0


def test_the_last_line_of_a_journal_is_mended(tmp_path):
    """However long, and whether or not there is another."""
    path, line = tmp_path / "journal", json.dumps({"reason": "x" * 100_000}).encode() + b"\n"
    for whole, cut in ((line + line, line[:-1]), (b"", line[:-1]), (line, b""), (b"", b""), (line, b"{")):
        path.write_bytes(whole + cut)
        journal.mend(path)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("shard", ["2/2", "0/0", "1", "1/x", "-1/2", f"1/{10**30}"])
def test_wrong_shards(tmp_path, videos, data_prep, capfd, shard):
    with pytest.raises(SystemExit, match="2"):
        data_prep("folder", "--root", videos, "--out", tmp_path / "out", f"--shard={shard}")
    assert "must be I/N with I from 0 to N-1" in capfd.readouterr().err


def test_no_room_for_the_list(tmp_path, videos, data_prep, monkeypatch):
    class Full(database.sqlite3.Connection):
        def executemany(self, *_: object):
            raise database.sqlite3.OperationalError("database or disk is full")

    connect = database.sqlite3.connect
    monkeypatch.setattr(database.sqlite3, "connect", lambda *words, **more: connect(*words, factory=Full, **more))
    status, said = data_prep("folder", "--root", videos, "--out", tmp_path / "out")
    assert status == 2 and "database or disk is full" in said and "TMPDIR" in said and "Traceback" not in said


PEAK = """
import sys
from pathlib import Path
import pyarrow as pa
from data_prep.pipeline import stats
from vidkd.data import index
data = index.read(Path(sys.argv[1]))
sections = [section(data) for section in (stats._head, stats._failures, stats._sizes)]
parts = [data.part("split1", part) for part in ("train", "val")]
names = [part.names() for part in parts]
most = pa.default_memory_pool().max_memory()
print(data.table.nbytes, most)
"""


def test_an_index_is_not_copied_to_be_looked_at(tmp_path):
    """In a process of its own, for the most that Arrow ever held is asked."""
    n = 240_000
    texts = {"path": "c/{:090d}.mp4", "checksum": "sha256:{:064x}", "label": "c", "group": "{}", "status": "ok"}
    texts |= {"reason": "", "split1": "train"}
    columns = {name: [texts[name].format(i) for i in range(n)] if name in texts else [7] * n for name in index.SCHEMA}
    schema = pa.schema([*index.SCHEMA.items(), ("split1", pa.string())])
    table = pa.table(columns | {"split1": ["train", "train", "val"] * (n // 3)}, schema)
    index.write(tmp_path, table, ("c",), {"name": "many", "horizontal_flip": "keeps_labels"})
    words = [sys.executable, "-c", PEAK, str(tmp_path)]
    cores = {"OMP_NUM_THREADS": "2"}  # Arrow's: each reads ahead
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, **cores})
    size, most = map(int, done.stdout.split())
    # Two thirds of it are kept, and 30 MB are read ahead.
    assert most < 1.6 * size, f"{most / 1e6:.1f} MB for a table of {size / 1e6:.1f} MB"
