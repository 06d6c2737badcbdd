"""The table that a run leaves of its predictions, read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vidkd.errors import DataError


def read(path: Path, text: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of a predictions file, .csv or .parquet. Those named in `text` stay text, also where they look like
    numbers. DataError if it cannot be read."""
    options = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in text}, strings_can_be_null=False)
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, convert_options=options, parse_options=parse)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as {path.suffix or 'CSV'} ({reason})") from None
    if len(set(table.column_names)) != len(table.column_names):
        raise DataError(f"{path}: names a column twice")
    return table.to_pydict()
