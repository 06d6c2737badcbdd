"""One data set and one uninterrupted run, for all that is compared with it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability import moments, runs


@pytest.fixture(scope="session")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[moments.Event]]:
    """The folder and the life of the run FULL when nothing happens to it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, moments.timetable(root, out)


@pytest.fixture(scope="session")
def whole(undisturbed: tuple[Path, list[moments.Event]]) -> dict[str, object]:
    """What the run FULL leaves."""
    return runs.left(undisturbed[0])


@pytest.fixture(scope="session")
def life(undisturbed: tuple[Path, list[moments.Event]]) -> list[moments.Event]:
    """What the run FULL does, and when."""
    return undisturbed[1]


@pytest.fixture(autouse=True)
def _no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """H3: whatever a test did to its runs, none of their processes outlives it."""
    started: list[runs.Started] = []
    begin = runs.Started.__init__

    def noted(self: runs.Started, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(runs.Started, "__init__", noted)
    yield
    alive: list[int] = []
    for run in started:
        run.process.join(10)
        until = time.monotonic() + 3
        while (alive := runs.processes_of(run.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        run.signal(9)
        assert not alive, f"left running: {alive}"
