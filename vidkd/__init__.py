"""vidkd: distil a big video network into a small, fast one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidkd.export import Student, load_student

__version__ = "0.1.0"
__all__ = ["Student", "__version__", "load_student"]


def __getattr__(name: str) -> Any:
    """`import vidkd` stays quick: torch is imported once a student is asked for."""
    if name in ("Student", "load_student"):
        from vidkd import export

        return getattr(export, name)
    raise AttributeError(f"module 'vidkd' has no attribute {name!r}")
