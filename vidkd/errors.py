"""The two mistakes a person can mend. Every command prints them in one piece, without a traceback, and exits with 2."""

import difflib


class VidkdError(ValueError):
    """Something outside the program is wrong: the message names it, says what was wrong and what would be right."""


class ConfigError(VidkdError):
    """A mistake in what a person wrote: a configuration, an override, a command line."""


class DataError(VidkdError):
    """A mistake in a file: a video, an index, weights, a checkpoint."""


def one_of(name: str, allowed: list[str], what: str) -> str:
    """The sentence for an unknown name: what it is not, what it may have meant, what there is."""
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"no {what} {name!r}{hint} There are: {', '.join(sorted(allowed))}"
