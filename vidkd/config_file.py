"""YAML to `Run` and back: overrides, and every mistake at once with its path, its value and what is allowed."""

import copy
import difflib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from vidkd.config import Run
from vidkd.errors import ConfigError
from vidkd.section import Section

MAX_BYTES = 1_000_000  # a configuration is a page; anything else is a mistake or an attack
MAX_DEPTH = 50


def load(path: Path, overrides: Sequence[str] = ()) -> Run:
    """Read the YAML file `path`, apply `a.b=value` overrides, validate. ConfigError lists every mistake."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, this is {type(raw).__name__}")
    for item in overrides:
        _override(raw, item)
    return parse(raw, str(path))


def parse(raw: dict[str, Any], source: str) -> Run:
    """Validate what a YAML file said; `source` names it in the message."""
    try:
        return Run.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, source, Run)) from None


def explain(error: ValidationError, source: str, root: type[Section]) -> str:
    """Every mistake that validating a `root` section found, a line each."""
    lines = list(dict.fromkeys(_explain(e, root) for e in error.errors()))
    return "\n".join([f"{source}: {len(lines)} mistake(s)", *(f"  {line}" for line in lines)])


def dump(section: Section) -> str:
    """The section as YAML that `load` reads back to an equal one."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.dump(section.model_dump(mode="json"), stream)
    return stream.getvalue()


def read_yaml(path: Path) -> Any:
    """Plain values only: no tags, no duplicate keys, `1e-4` is a number. ConfigError if the file is not such YAML."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: {size} bytes is no configuration; the limit is {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    return _yaml(text, str(path))


def _yaml(text: str, source: str) -> Any:
    return copy.deepcopy(_parsed(text, source))


@lru_cache(maxsize=256)  # a grid reads the same few files and overrides for each of its hundreds of cells
def _parsed(text: str, source: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    try:
        depth = 0
        for event in yaml.parse(io.StringIO(text)):
            if getattr(event, "anchor", None):
                raise ConfigError(f"{source}: anchors and aliases (& and *) are not allowed; write the values out")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:  # the time it takes grows with the square of the depth
                raise ConfigError(f"{source}: lists and mappings inside each other more than {MAX_DEPTH} times")
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def _override(raw: dict[str, Any], item: str) -> None:
    key, found, value = item.partition("=")
    if not found or not key:
        raise ConfigError(f"override {item!r} is not KEY=VALUE, as in optim.lr=0.01 or methods.0.temperature=2")
    *parents, leaf = key.split(".")
    here: Any = raw
    for parent in parents:
        if isinstance(here, list):
            here = here[_position(here, parent, key)]
            continue
        if here.get(parent) is None:
            here[parent] = {}
        here = here[parent]
        if not isinstance(here, dict | list):
            raise ConfigError(f"override {item!r}: {parent!r} is a value, it has no {leaf!r}")
    if isinstance(here, list):
        here[_position(here, leaf, key)] = _yaml(value, f"override {item!r}")
    else:
        here[leaf] = _yaml(value, f"override {item!r}")


def _position(items: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"override {key!r}: {part!r} must be a position from 0 to {len(items) - 1}")
    return int(part)


def _explain(error: Mapping[str, Any], root: type[Section]) -> str:
    where = ".".join(map(str, error["loc"])) or "(the whole file)"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_beside(error["loc"], root), n=1)
        return f"{where}: no such key" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return f"{where}: is missing"
    text = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    return f"{where}: {text}" + ("" if isinstance(given, dict | list | Section) else f" (got {given!r})")


def _keys_beside(loc: tuple[Any, ...], root: type[Section]) -> list[str]:
    """The keys known where `loc` stands; for a section of a task or a method, those of every kind of it."""
    here: list[type[Section]] = [root]
    for part in loc[:-1]:
        fields = [kind.model_fields[part].annotation for kind in here if part in kind.model_fields]
        if fields:
            here = [kind for annotation in fields for kind in _sections(annotation)]
    return sorted({key for kind in here for key in kind.model_fields})


def _sections(annotation: Any) -> list[type[Section]]:
    """Every section class inside a type annotation, and, for an open one (task, method), its subclasses."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation, *(s for sub in annotation.__subclasses__() for s in _sections(sub))]
    return [kind for arg in get_args(annotation) for kind in _sections(arg)]
