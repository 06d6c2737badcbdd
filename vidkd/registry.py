"""A folder as a registry: one file a name, found by looking, never by being listed."""

import ast
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from itertools import accumulate
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
    source = _source(kind)
    if source is None:
        raise ValueError(f"no {what} {kind!r}: that module cannot be imported from here")
    # Before it is imported: a configuration must not run the code of any module that happens to be installed.
    if missing := [name for name in needs if name not in _top_level(source)]:
        raise ValueError(f"{what} {kind!r} lacks {' and '.join(missing)}")
    return import_module(kind)


def _source(kind: str) -> Path | None:
    """The file of the module `kind`, found without importing the packages it is in."""
    top, *rest = kind.split(".")
    try:
        spec = find_spec(top)
        for name in accumulate(rest, lambda a, b: f"{a}.{b}", initial=top):
            if name != top and spec is not None:
                spec = PathFinder.find_spec(name, spec.submodule_search_locations or [])
    except (ModuleNotFoundError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _top_level(source: Path) -> set[str]:
    """The names that a module defines or imports by name, read and not run."""
    found: set[str] = set()
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found
