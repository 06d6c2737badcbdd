"""A status that nothing writes is one clear error: it would pass for a failure, and escape all other checks."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import tiny_set
from vidkd.data import index, index_rows
from vidkd.errors import DataError


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("part", ["train", ""])
@pytest.mark.parametrize("status", ["OK", "", "fine"])
def test_an_unknown_status(tmp_path: Path, status: str, part: str, suffix: str):
    root = tiny_set.make(tmp_path / "set", train=2, test=2)
    table = index.read(root).table
    rows = table.to_pylist()
    rows[1] |= {"status": status, "split1": part}
    (root / "index.csv").unlink()
    changed = pa.Table.from_pylist(rows, table.schema)
    if suffix == "csv":
        index_rows.write_csv(changed, root / "index.csv")
    else:
        pyarrow.parquet.write_table(changed, root / "index.parquet")
    with pytest.raises(DataError, match="it should be one of: ok, truncated, unreadable, refused") as raised:
        index.read(root)
    assert f"the status of {rows[1]['path']!r} is {status!r}" in str(raised.value)
