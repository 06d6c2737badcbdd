"""Distillation methods. The folder is the registry: `kind: logits` is methods/logits.py.

A method file holds two names:
    Config   what its entry in `methods:` may say
    Method   an nn.Module: (batch, student, teacher) -> named, unweighted loss terms
A method kept outside this package is named by its dotted path: `kind: mylab.methods.mine`.
"""

from pathlib import Path
from types import ModuleType

from vidkd import registry


def names() -> list[str]:
    """The methods this folder holds."""
    return registry.names(Path(__file__).parent)


def load(kind: str) -> ModuleType:
    """The module of `kind`; ValueError (with a did-you-mean) if there is none or it lacks `Config` or `Method`."""
    return registry.load(__name__, Path(__file__).parent, kind, "distillation method", ("Config", "Method"))
