"""A folder as a registry: one file a name, found by looking, never by being listed."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vidkd.errors import one_of


def names(folder: Path) -> list[str]:
    """The files in `folder` that do not start with an underscore."""
    return sorted(p.stem for p in folder.glob("[a-z]*.py"))


def load(package: str, folder: Path, kind: str, what: str, needs: tuple[str, ...]) -> ModuleType:
    """Import `kind` from `package`, or from anywhere if it is a dotted path; ValueError if there is no such module."""
    if "." not in kind:
        if kind not in names(folder):
            raise ValueError(one_of(kind, names(folder), what))
        return import_module(f"{package}.{kind}")
    try:
        found = find_spec(kind)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise ValueError(f"no {what} {kind!r}: that module cannot be imported from here")
    module = import_module(kind)
    if missing := [name for name in needs if not hasattr(module, name)]:
        raise ValueError(f"{what} {kind!r} lacks {' and '.join(missing)}")
    return module
