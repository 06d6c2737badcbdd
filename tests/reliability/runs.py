"""Whole runs in processes of their own: started in milliseconds, killed and signalled like real ones."""

import fcntl
import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import small_run
from vidkd import checkpoint, signals, trainer

# A process image that has imported everything once, and forks.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vidkd.train", "vidkd.methods.logits", "vidkd.tasks.recognition", "reliability.turns"])

# Batch norm, dropout, augmentation, workers, heads that learn in turn under an optimiser of their own, an average, a
# val part: everything that has a state.
METHODS = "methods=[{kind: logits}, {kind: reliability.turns}]"
FULL = (*small_run.SMALL, METHODS, "student.name=small_r3d", "student.options={width: 4}", "train.ema=0.9",
        "optim_methods={kind: adamw, lr: 0.001}", "data.workers=2", "data.augment.color_jitter=0.4", "data.val=val",
        "train.eval_every={steps: 3}", "train.steps=9", "train.accumulate=2")  # fmt: skip


class Started:
    """A run in a process group of its own; what it says is in `log`."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self.process, self.log = process, log
        assert process.pid is not None
        self.pid = process.pid

    def signal(self, number: int, group: bool = True) -> None:
        """Send to the group, workers included, or to the run's process alone; nothing if it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def end(self, timeout_s: float = 600) -> int:
        """Wait for it; its exit status, negative for the signal that ended it."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"still running after {timeout_s} s:\n{self.said()}")
        return self.process.exitcode

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, seen: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until `seen()`; AssertionError if the run ends, or nothing is seen, before that."""
        until = time.monotonic() + timeout_s
        while not seen():
            assert self.process.is_alive() and time.monotonic() < until, self.said()
            time.sleep(0.005)

    def wait_for_step(self, step: int) -> None:
        """Wait until metrics.jsonl has a line of `step`."""
        path = self.log.with_suffix("") / "metrics.jsonl"
        self.wait_for(lambda: path.exists() and f'"step": {step},' in path.read_text())


def start(
    root: Path,
    out: Path,
    *overrides: str,
    base: Sequence[str] = FULL,
    options: Sequence[str] = (),
    env: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> Started:
    """python -m vidkd.train on the data set `root`; `before()` is called in the new process, to plant a fault."""
    argv = [str(small_run.KD), *base, f"data.root={root}", f"out={json.dumps(str(out))}", *overrides, *options]
    log = out.with_name(out.name + ".log")
    process = CONTEXT.Process(target=_child, args=(argv, log, env or {}, before))
    process.start()
    return Started(process, log)


def run(root: Path, out: Path, *overrides: str, **how: object) -> Started:
    """`start`, and wait for the end."""
    started = start(root, out, *overrides, **how)  # type: ignore[arg-type]
    started.end()
    return started


def held(step: int, rank: str | None = None) -> None:
    """Have the run, or its process `rank`, wait after `step` for a signal or for what kills it: else it may be over."""
    if rank is not None and os.environ["RANK"] != rank:
        return
    update, steps = trainer.update, 0

    def waiting(*args: Any) -> object:
        nonlocal steps
        while steps == step and signals._asked is None:
            time.sleep(0.01)
        steps += 1
        return update(*args)

    trainer.update = waiting


def signalled_after_save(step: int, number: int) -> None:
    """Have the run's group get the signal as soon as the checkpoint of `step` is whole."""
    save = checkpoint.save

    def saving(folder: Path, of_step: int, *args: Any, **how: Any) -> Path:
        path = save(folder, of_step, *args, **how)
        if of_step == step:
            os.killpg(os.getpid(), number)
        return path

    checkpoint.save = saving


def ranks(root: Path, out: Path, count: int, *overrides: str, **how: object) -> list[Started]:
    """`count` processes of one run, without a launcher: what each says is in a log of its own."""
    port, started = _free_port(), []
    for rank in range(count):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {key: str(value) for key, value in env.items()}
        started.append(start(root, out, *overrides, env=env, **how))  # type: ignore[arg-type]
        started[-1].log = started[-1].log.with_name(f"{out.name}.{rank}.log")
    return started


def _free_port() -> int:
    """A port that nobody has, below those that the system gives to connections (32768 on)."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def _child(argv: list[str], log: Path, env: dict[str, str], before: Callable[[], object] | None) -> None:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGQUIT):  # ignored where the suite was started with nohup, or in a shell's &
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    if rank := env.get("RANK"):
        log = log.with_name(log.name.replace(".log", f".{rank}.log"))
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from vidkd import cli, train

    signals.command()
    if before is not None:
        before()
    sys.exit(cli.run_main(train.main, argv))


def left(out: Path) -> dict[str, object]:
    """All that a finished run leaves and that must not depend on how it came there: to be compared with `==`."""
    newest = checkpoint.complete(out / "checkpoints")[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    kept: dict[str, object] = {name: file["sha256"] for name, file in manifest["files"].items()}
    kept |= {key: manifest["state"][key] for key in ("best_value", "scored")} | {"step": manifest["step"]}
    for name in ("student.safetensors", "student_predictions.csv", "teacher_predictions.csv", "classes.txt"):
        kept[name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    kept["log"] = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in small_run.lines(out)]
    return kept


def tidy(out: Path) -> None:
    """AssertionError if a finished or interrupted run left something half made in its folder, or holds its lock."""
    found = [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    assert not found
    with (out / ".lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def processes_of(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                found.append(int(stat.parent.name))
    return found
