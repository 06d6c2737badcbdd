"""Networks by name, each with its taps, its input and its head.

A family file holds `NETWORKS`: name -> a function (num_classes, **options) -> Tapped. Its keyword arguments are the
`options:` a configuration may give. Every network offers the taps early, middle and late.
"""

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from vidkd import registry
from vidkd.errors import ConfigError, one_of
from vidkd.taps import Tapped

Maker = Callable[..., Tapped]


@cache
def zoo() -> dict[str, Maker]:
    """Every network of every family file in this folder."""
    found: dict[str, Maker] = {}
    for family in registry.names(Path(__file__).parent):
        found |= getattr(import_module(f"{__name__}.{family}"), "NETWORKS", {})
    return found


def names() -> list[str]:
    return sorted(zoo())


def unknown(name: str) -> str:
    """The sentence for a network that the zoo does not have."""
    return one_of(name, names(), "network")


def options_of(name: str) -> dict[str, type]:
    """The options that the network `name` has, and of which type each is."""
    parameters = inspect.signature(zoo()[name]).parameters.values()
    return {p.name: p.annotation for p in parameters if p.name != "num_classes"}


def build(name: str, num_classes: int, /, **options: Any) -> Tapped:
    """The network `name` with random weights and `num_classes` outputs.

    ConfigError for an unknown name, an option it does not have or cannot take, or a package that it needs and that is
    not installed.
    """
    if name not in zoo():
        raise ConfigError(unknown(name))
    allowed = options_of(name)
    for option, value in options.items():
        if option not in allowed:
            hint = one_of(option, list(allowed), "option") if allowed else f"no option {option!r}; it has none"
            raise ConfigError(f"{name}: {hint}")
        if not _fits(value, allowed[option]):
            raise ConfigError(f"{name}: option {option!r} is of type {allowed[option].__name__}, not {value!r}")
    try:
        return zoo()[name](num_classes, **options)
    except ConfigError:
        raise
    except (ValueError, RuntimeError, ArithmeticError) as error:  # what layers and torch raise for numbers that they
        raise ConfigError(f"{name} cannot be built with {options}: {error}") from error  # cannot take, or allocate


def _fits(value: object, kind: type) -> bool:
    """Whether `value` can be given where `kind` is expected: a whole number is a float, a truth value is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
