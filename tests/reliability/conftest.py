"""One data set and one uninterrupted run, for all that is compared with it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability import runs


@pytest.fixture(scope="session")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the run FULL leaves when nothing happens to it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = runs.run(root, out)
    assert done.process.exitcode == 0, done.said()
    return runs.left(out)


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
