"""The two mistakes a person can mend. Every command prints them in one piece, without a traceback, and exits with 2."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager


class VidkdError(ValueError):
    """Something outside the program is wrong: the message names it, says what was wrong and what would be right."""


class ConfigError(VidkdError):
    """A mistake in what a person wrote: a configuration, an override, a command line."""


class DataError(VidkdError):
    """A mistake in a file: a video, an index, weights, a checkpoint."""


class Mistakes:
    """What is wrong in several places, said all at once: each `with mistakes.noted():` lets the next one be looked at.

    `raise_any` raises the one mistake as it was, or one ConfigError (DataError if there is one among them) of all.
    """

    def __init__(self) -> None:
        self.found: list[VidkdError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except VidkdError as error:
            self.found.append(error)

    def raise_any(self) -> None:
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            kind = DataError if any(isinstance(error, DataError) for error in self.found) else ConfigError
            raise kind("\n".join(str(error) for error in self.found))


def one_of(name: str, allowed: list[str], what: str) -> str:
    """The sentence for an unknown name: what it is not, what it may have meant, what there is."""
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"no {what} {name!r}{hint} There are: {', '.join(sorted(allowed)) or 'none'}"
