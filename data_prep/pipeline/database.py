"""Tables that do not fit into memory: a private SQLite database in a temporary file, gone with the process."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from vidkd.errors import DataError

BATCH = 4096  # rows that are Python objects at one time
CACHE_KB = 32_768


class Database:
    """What each of its calls does, SQLite says: https://sqlite.org/lang.html. DataError where the disk is full, or a
    text is not Unicode."""

    def __init__(self, schema: str) -> None:
        with _clear_errors():
            # No name: a file that SQLite makes in the temporary folder, and that no other process sees.
            self._connection = sqlite3.connect("", isolation_level=None)
            # Nothing is ever rolled back: who meets an error throws the database away.
            self._connection.executescript(
                f"PRAGMA journal_mode = OFF; PRAGMA temp_store = FILE; PRAGMA cache_size = -{CACHE_KB}; {schema}"
            )
            self._connection.execute("BEGIN")

    def function(self, name: str, function: Callable[..., Any], arguments: int = 1) -> None:
        """Let SQL call `function` by this name."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    def run(self, sql: str, *values: object) -> int:
        """How many rows the statement has changed."""
        with _clear_errors():
            return self._connection.execute(sql, values).rowcount

    def fill(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run the statement once a row."""
        rest = iter(rows)
        while chunk := list(islice(rest, BATCH)):
            with _clear_errors():
                self._connection.executemany(sql, chunk)

    def one(self, sql: str, *values: object) -> Any:
        """The first column of the first row; None where there is none."""
        with _clear_errors():
            row = self._connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def rows(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows, read as they are asked for: do not change the tables they come from meanwhile."""
        for chunk in self.chunks(sql, *values):
            yield from chunk

    def chunks(self, sql: str, *values: object) -> Iterator[list[tuple[Any, ...]]]:
        """The rows, up to BATCH at a time."""
        with _clear_errors():
            cursor = self._connection.execute(sql, values)
        while True:
            with _clear_errors():
                chunk = cursor.fetchmany(BATCH)
            if not chunk:
                return
            yield chunk


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(
            f"the list of videos cannot be kept in the temporary folder ({error}): free some space there, or name "
            "another folder with the environment variable TMPDIR"
        ) from None
    except UnicodeEncodeError as error:  # bytes of another encoding, which Python keeps as lone surrogates
        raise DataError(f"{error.object!r}: its name is not UTF-8; rename it") from None


def printable(name: str) -> str:
    """A name of a file or folder as text: itself, or, where its bytes are not UTF-8, each that is not as \\xe9 and each
    backslash as two."""
    if is_utf8(name):
        return name
    return name.replace("\\", "\\\\").encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a name can be written into any file of a data set. Bytes of another encoding Python keeps as lone
    surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def blob(name: str) -> bytes:
    """Any name, as SQLite can keep it, whose texts are UTF-8."""
    return name.encode(errors="surrogatepass")


def name_of(kept: bytes) -> str:
    """The name that was made a blob."""
    return kept.decode(errors="surrogatepass")
