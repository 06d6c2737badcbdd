"""vidkd: distil a big video network into a small, fast one."""

__version__ = "0.1.0"
