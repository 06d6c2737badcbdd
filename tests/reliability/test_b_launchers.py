"""B, under the launchers: a process that dies ends the job with its name; a signal to the launcher loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import REPOSITORY
from reliability import runs
from small_run import KD, SMALL, lines, same, tensors
from vidkd import checkpoint

TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--standalone")
PLAIN = "data.augment.mixup_alpha=0"  # mixing is drawn by process
LONG = ("train.steps=400", "train.save_every={steps: 10}", PLAIN)


class Job:
    """A launcher and its processes, in a group of their own."""

    def __init__(self, root: Path, out: Path, *overrides: str, options: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "-m", *TORCHRUN, *options, "-m", "vidkd.train", str(KD), *SMALL]
        command += [f"data.root={root}", f"out={out}", *overrides]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.out, self.log = out, out.with_name(f"{out.name}.log")
        with self.log.open("ab") as log:
            self.launcher = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, cwd=REPOSITORY, start_new_session=True
            )

    def ranks(self) -> dict[str, int]:
        """Rank -> process id, of the living ones; each has a session of its own."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environ = (process / "environ").read_bytes().split(b"\0")
                if f"out={self.out}".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    found |= {v[5:].decode(): int(process.name) for v in environ if v.startswith(b"RANK=")}
        return found

    def wait_for_step(self, step: int) -> None:
        path, until = self.out / "metrics.jsonl", time.monotonic() + 300
        while not path.exists() or not path.read_text().strip() or lines(self.out)[-1]["step"] < step:
            assert self.launcher.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def end(self, timeout_s: float) -> int:
        return self.launcher.wait(timeout_s)


@pytest.fixture
def job(root: Path, tmp_path: Path) -> Iterator[Job]:
    job = Job(root, tmp_path / "run", *LONG)
    yield job
    job.launcher.kill()
    left = job.ranks()
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
    job.launcher.wait(10)
    assert not left


def test_b4_a_process_that_dies_ends_the_job_and_is_named(job: Job):
    job.wait_for_step(3)
    os.kill(job.ranks()["1"], signal.SIGKILL)
    died = time.monotonic()
    assert job.end(120) != 0
    assert time.monotonic() - died < 30
    said = job.log.read_text()
    assert "rank      : 1" in said and "Signal 9 (SIGKILL)" in said


@pytest.mark.slow
def test_b3_a_signal_to_the_launcher_saves_and_the_same_command_goes_on(job: Job, root: Path):
    job.wait_for_step(3)
    os.kill(job.launcher.pid, signal.SIGTERM)
    assert job.end(120) != 0
    reached = lines(job.out)[-1]["step"]
    assert checkpoint.newest(job.out / "checkpoints")[0].step == reached
    again = Job(root, job.out, *LONG)
    again.wait_for_step(reached + 2)
    for pid in (again.launcher.pid, *again.ranks().values()):  # a scheduler signals them all
        os.kill(pid, signal.SIGTERM)
    assert again.end(120) != 0
    assert f"resumed from step {reached}" in again.log.read_text()
    assert checkpoint.newest(job.out / "checkpoints")[0].step == lines(job.out)[-1]["step"] > reached


@pytest.mark.slow
def test_b4_a_launcher_told_to_restart_goes_on_to_the_same_result(root: Path, tmp_path: Path):
    short = ("train.steps=40", "train.save_every={steps: 10}", PLAIN)
    whole = Job(root, tmp_path / "whole", *short)
    assert whole.end(300) == 0, whole.log.read_text()
    again = Job(root, tmp_path / "again", *short, options=("--max-restarts=1",))
    again.wait_for_step(15)
    os.kill(again.ranks()["1"], signal.SIGKILL)
    assert again.end(300) == 0, again.log.read_text()
    assert "resumed from step" in again.log.read_text()
    same(tensors(whole.out, 40), tensors(again.out, 40), rtol=0, atol=0)
    assert [line["step"] for line in lines(again.out)] == list(range(1, 41))


@pytest.mark.slow
def test_a8_processes_whose_launcher_was_killed_save_and_end(job: Job):
    job.wait_for_step(3)
    job.launcher.kill()
    job.launcher.wait(10)
    until = time.monotonic() + 10
    while job.ranks() and time.monotonic() < until:
        time.sleep(0.05)
    assert not job.ranks()
    runs.tidy(job.out)
    assert checkpoint.newest(job.out / "checkpoints")[0].step == lines(job.out)[-1]["step"]


@pytest.mark.slow
def test_b3_the_slurm_recipe_saves_and_asks_to_be_requeued(root: Path, tmp_path: Path):
    """docs/slurm_requeue.sh as it is, on two processes; srun and scontrol are stand-ins that do what SLURM's would."""
    tools, out = tmp_path / "bin", tmp_path / "run"
    tools.mkdir()
    stand_ins = {
        "srun": 'exec "$@"',
        "python": f'exec {sys.executable} "$@"',
        "scontrol": f'if [ "$1" = requeue ]; then echo "$2" > {tmp_path}/requeued; else echo 127.0.0.1; fi',
    }
    for name, line in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{line}\n")
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "SLURM_GPUS_ON_NODE": "2"}
    env |= {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "42"}
    command = [str(REPOSITORY / "docs" / "slurm_requeue.sh"), str(KD), *SMALL, f"data.root={root}", f"out={out}", *LONG]
    log = tmp_path / "run.log"
    with log.open("ab") as file:
        job = subprocess.Popen(command, env=env, stdout=file, stderr=file, cwd=REPOSITORY)
    until = time.monotonic() + 300
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < 3:
        assert job.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(300) != 0
    assert (tmp_path / "requeued").read_text() == "42\n", log.read_text()
    assert "SIGUSR1: step" in log.read_text() or "SIGTERM: step" in log.read_text()
    assert checkpoint.newest(out / "checkpoints")[0].step == lines(out)[-1]["step"]
