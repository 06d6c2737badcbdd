"""Run what is not finished, together with every other bench on the same folder."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from vidkd import outcome, run_dir, signals
from vidkd.bench import claims
from vidkd.bench.claims import Claim, Lost, Watch
from vidkd.bench.grid import Cell, cells
from vidkd.bench.sections import Bench
from vidkd.bench.state import State, examine
from vidkd.errors import VidkdError

POLL_S = 5.0  # between two looks at the cells that others have
LET_GO_S = 60.0  # what a run whose bench was killed gets to save its step and end


def run(bench: Bench, jobs: int, stale_s: float = claims.STALE_S) -> None:
    """Have every cell finished, by us or by others. VidkdError, with what each said last, where some of ours failed."""
    waves = cells(bench, bench.first), cells(bench, bench.rows)
    with tqdm(total=sum(map(len, waves)), desc=bench.name, unit="run", dynamic_ncols=True) as bar:
        for cells_of_wave in waves:
            wave = Wave(cells_of_wave, Watch(stale_s), bar)
            with ThreadPoolExecutor(jobs) as pool:
                for worker in [pool.submit(wave.work) for _ in range(jobs)]:
                    worker.result()
            if wave.failures:
                raise VidkdError("\n".join(wave.failures))


def plan(bench: Bench) -> list[str]:
    """What `run` would do, a line a cell; nothing is touched."""
    lines = []
    for cell in cells(bench, bench.first) + cells(bench, bench.rows):
        try:
            state = examine(cell)
            owner = Watch().owner(cell.claims)
            said = {"new": "to run", "begun": "to be continued", "finished": "finished"}.get(state.kind, "to run again")
            if owner and state.kind != "finished":
                said += f" (claimed by {owner})"
            lines.append(f"{cell.name}: {'; '.join([said, *state.reasons])}")
        except VidkdError as error:
            lines.append(f"{cell.name}: cannot be said yet: {error}")
    return lines


class Wave:
    """Cells that do not need each other. Who claims one first runs it; one that fails is tried once a bench."""

    def __init__(self, wave: Sequence[Cell], watch: Watch, bar: tqdm) -> None:
        self.open, self.watch, self.bar = list(wave), watch, bar
        self.failures: list[str] = []
        self._mine: list[Cell] = []  # being run by this bench
        self._lock = threading.Lock()

    def work(self) -> None:
        """Run cells until none is left for us."""
        while (taken := self._next()) is not None:
            cell, claim = taken
            try:
                failure = run_cell(cell, claim)
                claim.release(f"failed: {failure}" if failure else "finished")
            except Lost as lost:
                tqdm.write(f"{cell.name}: {lost}; it is theirs now")
                failure = ""
            except VidkdError as error:
                failure = f"{cell.name}: {error}"
                claim.release(f"failed: {error}")
            with self._lock:
                self._mine.remove(cell)
                if failure:
                    self._done(cell, failure)

    def _next(self) -> tuple[Cell, Claim] | None:
        """A cell that is now ours; None once all are finished, failed, or being run by this very bench."""
        while True:
            with self._lock:
                for cell in [cell for cell in self.open if cell not in self._mine]:
                    if taken := self._try(cell):
                        return taken
                if not [cell for cell in self.open if cell not in self._mine]:
                    return None
            time.sleep(POLL_S)

    def _try(self, cell: Cell) -> tuple[Cell, Claim] | None:
        if self.watch.owner(cell.claims):  # theirs for now: to look closer costs a checksum of the teacher
            return None
        try:
            if examine(cell).kind == "finished":
                self._done(cell)
                return None
            if (claim := self.watch.take(cell.claims)) is None:
                return None
            if examine(cell).kind == "finished":  # while we took it
                claim.release("was finished")
                self._done(cell)
                return None
        except VidkdError as error:
            self._done(cell, f"{cell.name}: {error}")
            return None
        self._mine.append(cell)
        return cell, claim

    def _done(self, cell: Cell, failure: str = "") -> None:
        self.open.remove(cell)
        self.bar.update()
        if failure:
            self.failures.append(failure)


def run_cell(cell: Cell, claim: Claim) -> str:
    """Run one cell to its end, beating; "" or, where it failed, what it said last. Lost if another took it over."""
    _wait_for(lambda: not run_dir.in_use(cell.out), claim)
    state = examine(cell)
    if state.kind == "changed":
        tqdm.write(f"{cell.name}: {_again(cell, state)}")
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vidkd.train", str(cell.row.config), *cell.overrides()]
    with cell.log.open("a", encoding="utf-8") as log:
        started = log.tell()
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {signals.PARENT: str(os.getpid())},
        )
        try:
            while not _ended(process, claims.BEAT_S):
                claim.beat()
        finally:
            if process.poll() is None:  # lost: whoever has the cell now must not find us writing to it
                process.kill()
                process.wait()
    if process.returncode:
        said = cell.log.read_bytes()[started:].decode(errors="replace").strip().splitlines()[-3:]
        return f"{cell.name} failed with {process.returncode} (see {cell.log}): {' / '.join(said)}"
    tqdm.write(f"{cell.name}: {outcome.results_of(cell.out)['student']['headline']}")
    return ""


def _again(cell: Cell, state: State) -> str:
    """Move what is there aside; what to say of it."""
    reasons = "; ".join(state.reasons)
    aside = run_dir.set_aside(cell.out, f"run again by vidkd.bench: {reasons}")
    return f"run again: {reasons}; what was there is now {aside}"


def _wait_for(free: Callable[[], bool], claim: Claim) -> None:
    """Give a run that was left behind by a bench that was killed its time to save and end."""
    until = time.monotonic() + LET_GO_S
    while not free() and time.monotonic() < until:
        time.sleep(0.2)
    claim.beat()


def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
