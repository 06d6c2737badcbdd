"""python tests/reliability/soak.py [--kills N] [--out DIR] [--seed N]

Kill and signal whole runs at random moments until every scenario has had its number, and compare each finished run
with one that nothing happened to. The same command again goes on where it stopped. The table goes to DIR/table.md.
"""

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

import torch  # noqa: E402

import tiny_set  # noqa: E402
from reliability import runs  # noqa: E402
from vidkd import checkpoint, evaluation, run_dir  # noqa: E402

CACHE = "teacher.cache={views: 2, dtype: fp32, dir: %s}"
SCENARIOS = {  # name -> (signal, overrides of FULL)
    "SIGKILL, everything on": (signal.SIGKILL, ()),
    "SIGKILL, cached teacher": (signal.SIGKILL, ("data.augment.mixup_alpha=0", CACHE)),
    "SIGTERM, everything on": (signal.SIGTERM, ("train.save_every={steps: 100}",)),
}


@dataclass
class Tally:
    """What has happened to one scenario."""

    runs: int = 0  # finished and compared
    kills: int = 0  # signals that found the run alive
    mismatches: int = 0  # finished runs that were not the uninterrupted one, to the bit
    lost: int = 0  # times that there was no checkpoint to trust where there had been one
    leftovers: int = 0  # processes that outlived their run
    minutes: float = 0.0


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
    rng = random.Random(f"{args.seed}-{sum(t.kills for t in tallies.values())}")
    for number, (name, (sent, overrides)) in enumerate(SCENARIOS.items()):
        folder = out / str(number)
        overrides = tuple(o % (folder / "cache") if o is CACHE else o for o in overrides)
        while tallies[name].kills < args.kills or (folder / "run").exists():
            started = time.monotonic()
            finished = start_once(out / "tiny", folder, sent, overrides, tallies[name], args.kills, rng)
            tallies[name].minutes += (time.monotonic() - started) / 60
            checkpoint.write_atomic(state, json.dumps({k: asdict(t) for k, t in tallies.items()}).encode())
            checkpoint.write_atomic(out / "table.md", table(tallies).encode())
            if finished:
                print(f"{name}: {tallies[name]}", flush=True)
    return int(any(t.mismatches or t.lost or t.leftovers for t in tallies.values()))


def start_once(
    root: Path, folder: Path, sent: int, overrides: tuple[str, ...], tally: Tally, kills: int, rng: random.Random
) -> bool:
    """Start the run in `folder`, or go on with it, and interrupt it at a random moment.

    True if it came to its end before that: then it is compared with the one that never was interrupted, and deleted.
    """
    expected, within = reference(root, folder, overrides)
    out = folder / "run"
    run = runs.start(root, out, *overrides)
    run.process.join(rng.uniform(0, within))
    if run.process.is_alive():
        run.signal(sent)
        tally.kills += 1
    status = run.end(3600)
    tally.leftovers += outlived(run)
    if status and status not in (-sent, 128 + sent):
        raise SystemExit(f"ended with {status}, not by the signal:\n{run.said()}")
    tally.lost += lost(out)
    if status:
        return False
    tally.runs += 1
    if runs.left(out) != expected:
        tally.mismatches += 1
        out.rename(folder / f"mismatch{tally.runs}")
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    run.log.unlink()
    return True


def reference(root: Path, folder: Path, overrides: tuple[str, ...]) -> tuple[dict, float]:
    """What the run leaves when nothing happens to it, and how long it takes; made once."""
    path = folder / "expected.json"
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.monotonic()
        done = runs.start(root, folder / "whole", *overrides)
        if done.end(3600):
            raise SystemExit(done.said())
        seconds = time.monotonic() - started
        content = json.dumps({"left": runs.left(folder / "whole"), "seconds": seconds}).encode()
        checkpoint.write_atomic(path, content)
    said = json.loads(path.read_text())
    return said["left"], said["seconds"]


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
    rows = [
        f"| {name} | {t.runs} | {t.kills} | {t.mismatches} | {t.lost} | {t.leftovers} | {t.minutes:.0f} |"
        for name, t in tallies.items()
    ]
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}, commit {made['git_commit']}, Python {made['python']}, {versions}, "
            f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
            "",
            "| scenario | runs finished | interruptions | mismatches | lost checkpoints | processes left | minutes |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
