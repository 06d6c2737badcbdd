"""python tests/reliability/soak.py [--kills N] [--out DIR] [--seed N]

Interrupt whole runs at random moments until every scenario has had its number, and compare each finished run with one
that nothing happened to. The same command again goes on where it stopped. The table goes to DIR/table.md.

A run is interrupted one to MOST times and then left to finish. Every second moment is drawn over all that is left of
its life, from the start of the process to its end; the others are inside the part that was hit least. What counts
is a signal that ended the run: SIGKILL by its death, SIGTERM by its death or by the exit status that promises a
checkpoint. One that came too late (the run ended as if nothing had been sent) is counted as missed.
"""

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

import torch  # noqa: E402

import tiny_set  # noqa: E402
from reliability import moments, runs  # noqa: E402
from vidkd import checkpoint, evaluation, run_dir  # noqa: E402

MOST = 5
CACHE = "teacher.cache={views: 2, dtype: fp32, dir: %s}"
RARELY = "train.save_every={steps: 100}"  # only a signal saves before the end
SCENARIOS = {  # name -> (signal, overrides of FULL, where every second interruption is)
    "SIGKILL, everything on": (signal.SIGKILL, (), (moments.START, *moments.PLACES[2:])),
    "SIGKILL, cached teacher": (signal.SIGKILL, ("data.augment.mixup_alpha=0", CACHE), moments.PLACES),
    "SIGTERM, everything on": (signal.SIGTERM, (RARELY,), (moments.START, *moments.PLACES[2:])),
}


@dataclass
class Tally:
    """What has happened to one scenario."""

    started: int = 0
    runs: int = 0  # finished and compared
    due: int = 0  # interruptions that the run in the folder is still to have
    hits: dict[str, int] = field(default_factory=dict)  # interruptions, by the part of the run's life that they met
    missed: int = 0
    mismatches: int = 0  # finished runs that were not the uninterrupted one, to the bit
    lost: int = 0  # times that there was no checkpoint to trust where there had been one, or not the one promised
    leftovers: int = 0  # processes that outlived their run
    slowest_s: float = 0.0  # from a signal to the end of the process
    minutes: float = 0.0

    def count(self) -> int:
        return sum(self.hits.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="for each scenario (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/reliability"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tiny" / "dataset.json").exists():
        shutil.rmtree(out / "tiny", ignore_errors=True)
        tiny_set.make(out / "tiny")
    state = out / "tally.json"
    tallies = {name: Tally() for name in SCENARIOS}
    if state.exists():
        tallies |= {name: Tally(**said) for name, said in json.loads(state.read_text()).items()}
    for number, (name, (sent, overrides, places)) in enumerate(SCENARIOS.items()):
        folder, tally = out / str(number), tallies[name]
        overrides = tuple(o % (folder / "cache") if o is CACHE else o for o in overrides)
        while tally.count() < args.kills or (folder / "run").exists():
            began = time.monotonic()
            rng = random.Random(f"{args.seed}-{name}-{tally.started}")
            tally.started += 1
            if not (folder / "run").exists():
                tally.due = min(rng.randint(1, MOST), args.kills - tally.count())
            if tally.due:
                rarest = min(places, key=lambda place: tally.hits.get(place, 0))
                place = rarest if tally.count() % 2 else None
                interrupt_once(out / "tiny", folder, sent, overrides, tally, place, rng)
            else:
                finish(out / "tiny", folder, overrides, tally)
                print(f"{name}: {tally}", flush=True)
            tally.minutes += (time.monotonic() - began) / 60
            checkpoint.write_atomic(state, json.dumps({k: asdict(t) for k, t in tallies.items()}).encode())
            checkpoint.write_atomic(out / "table.md", table(tallies).encode())
    return int(any(t.mismatches or t.lost or t.leftovers for t in tallies.values()))


def interrupt_once(
    root: Path,
    folder: Path,
    sent: signal.Signals,
    overrides: tuple[str, ...],
    tally: Tally,
    place: str | None,
    rng: random.Random,
) -> None:
    """Start the run in `folder`, or go on with it, and interrupt it at a moment inside `place`, or anywhere."""
    _, life = reference(root, folder, overrides)
    out = folder / "run"
    while run_dir.in_use(out):  # this command was ended, and left a run that goes on
        time.sleep(0.1)
    moment = moments.draw(life, moments.reached(out)[1], rng, place)
    run, hit = moments.interrupt(root, out, moment, sent, *overrides)
    tally.leftovers += outlived(run)
    tally.lost += lost(out)
    if hit is None:
        if run.process.exitcode:
            raise SystemExit(f"ended with {run.process.exitcode}, not by the signal:\n{run.said()}")
        tally.missed += 1
        tally.due = 0
        return
    tally.due -= 1
    tally.hits[hit.place] = tally.hits.get(hit.place, 0) + 1
    tally.slowest_s = max(tally.slowest_s, hit.ended_s)
    if sent == signal.SIGTERM:
        logged, saved = moments.reached(out)
        tally.lost += logged != saved  # what it promises: the step that was reached is saved


def finish(root: Path, folder: Path, overrides: tuple[str, ...], tally: Tally) -> None:
    """Let the run in `folder` come to its end, compare it with the one that nothing happened to, and delete it."""
    expected, _ = reference(root, folder, overrides)
    out = folder / "run"
    run = runs.run(root, out, *overrides)
    if run.process.exitcode:
        raise SystemExit(f"ended with {run.process.exitcode}:\n{run.said()}")
    tally.leftovers += outlived(run)
    tally.runs += 1
    if runs.left(out) != expected:
        tally.mismatches += 1
        out.rename(folder / f"mismatch{tally.runs}")
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    run.log.unlink()


def reference(root: Path, folder: Path, overrides: tuple[str, ...]) -> tuple[dict, list[moments.Event]]:
    """What the run leaves when nothing happens to it, and its life; made once."""
    path = folder / "expected.json"
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        life = moments.timetable(root, folder / "whole", *overrides)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        said = {"left": runs.left(folder / "whole"), "life": [asdict(event) for event in life]}
        checkpoint.write_atomic(path, json.dumps(said).encode())
    said = json.loads(path.read_text())
    return said["left"], [moments.Event(**event) for event in said["life"]]


def outlived(run: runs.Started) -> int:
    """How many of its processes are still there three seconds after the run."""
    until = time.monotonic() + 3
    while runs.processes_of(run.pid) and time.monotonic() < until:
        time.sleep(0.02)
    return len(runs.processes_of(run.pid))


def lost(out: Path) -> int:
    """1 if a checkpoint was published and the newest one there cannot be trusted."""
    mark = out / run_dir.MARK
    if not mark.exists() or not mark.read_text():
        return 0
    found = checkpoint.newest(out / "checkpoints")
    return int(found is None or bool(found[1]))


def table(tallies: dict[str, Tally]) -> str:
    """For docs/reliability.md."""
    made = evaluation.environment()
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    places = (*moments.PLACES, moments.BETWEEN)
    head = ["scenario", "runs compared", "interruptions", *(f"in: {place}" for place in places), "missed"]
    head += ["mismatches", "lost checkpoints", "processes left", "slowest end, s", "minutes"]
    rows = []
    for name, t in tallies.items():
        row = [name, t.runs, t.count(), *(t.hits.get(place, 0) for place in places), t.missed]
        row += [t.mismatches, t.lost, t.leftovers, f"{t.slowest_s:.1f}", f"{t.minutes:.0f}"]
        rows.append(row)
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}, commit {made['git_commit']}, Python {made['python']}, {versions}, "
            f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
            "",
            *(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)),
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
