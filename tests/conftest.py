"""What several tests share."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _one_thread():
    """Two test processes share two cores; and one thread adds in one order."""
    torch.set_num_threads(1)


@pytest.fixture(params=CONFIGS, ids=lambda p: p.stem)
def shipped(request) -> Path:
    """Every shipped configuration."""
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real clips and weights; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("VIDKD_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no {path}: set VIDKD_SHARED to the folder with real clips and weights")
    return path
