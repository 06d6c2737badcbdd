"""What several tests share."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import small_run
import students
import tiny_set
from fake_runs import fake_bench
from vidkd import config_file
from vidkd.config import Run
from vidkd.taps import Tapped

# Runs that the tests start: as many threads as this process, however the suite was called.
os.environ["OMP_NUM_THREADS"] = "1"

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


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set."""
    return tiny_set.make(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Callable[..., Run]:
    """A small run on the tiny data set, in a folder of its own, to be trained in this process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()

    def made(name: str, *overrides: str) -> Run:
        own = (f"data.root={root}", f"out={tmp_path / name}")
        return config_file.load(small_run.KD, [*small_run.SMALL, *own, *overrides])

    return made


@pytest.fixture
def tapped() -> Tapped:
    """A small network, untrained."""
    return students.network()


@pytest.fixture
def saved(tmp_path: Path, tapped: Tapped) -> Path:
    """The directory that it was written into as a student."""
    return students.write(tmp_path / "run", tapped)


@pytest.fixture(scope="session")
def grid_and_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(directory of a finished bench, data set): read only; a test that breaks something copies it."""
    base = tmp_path_factory.mktemp("report")
    root = tiny_set.make(base / "tiny", train=4, test=40)
    return fake_bench(base / "grid", root, {"student alone": 0.9, "KD & <fmd>": 1.7, "weak": 0.8}), root


@pytest.fixture
def own_grid(grid_and_set: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of that directory."""
    return Path(shutil.copytree(grid_and_set[0], tmp_path / "grid"))
