"""Tasks. The folder is the registry, as for methods: `kind: recognition` is tasks/recognition.py.

A task file holds two names:
    Config   what the `task:` section may say
    Task     supervised loss, what evaluation keeps of each view, and the results with their protocol
"""

from pathlib import Path
from types import ModuleType

from vidkd import registry


def names() -> list[str]:
    """The tasks this folder holds."""
    return registry.names(Path(__file__).parent)


def load(kind: str) -> ModuleType:
    """The module of `kind`; ValueError (with a did-you-mean) if there is none or it lacks `Config` or `Task`."""
    return registry.load(__name__, Path(__file__).parent, kind, "task", ("Config", "Task"))
