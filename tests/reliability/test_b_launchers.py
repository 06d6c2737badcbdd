"""B, under the launchers: a process that dies ends the job with its name; a signal to the launcher loses nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from accelerate import Accelerator

from conftest import REPOSITORY
from reliability import runs
from small_run import KD, SMALL, lines, same, tensors
from vidkd import checkpoint, config_file, distiller, evaluation, processes, stepping, trained, trainer
from vidkd.errors import ConfigError
from vidkd.log import Log

TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--standalone")
PLAIN = "data.augment.mixup_alpha=0"  # mixing is drawn by process
LONG = ("train.steps=400", "train.save_every={steps: 10}", PLAIN)


class Job:
    """A launcher and its processes, in a group of their own."""

    def __init__(self, root: Path, out: Path, *overrides: str, options: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "-m", *TORCHRUN, *options, "-m", "vidkd.train", str(KD), *SMALL]
        command += [f"data.root={root}", f"out={out}", *overrides]
        self.out, self.log = out, out.with_name(f"{out.name}.log")
        with self.log.open("ab") as log:
            self.launcher = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY, start_new_session=True)

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
def launch(root: Path, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """launch(name, *overrides, options=()): none of its processes outlives the test, however that ends."""
    jobs: list[Job] = []

    def launched(name: str, *overrides: str, options: tuple[str, ...] = ()) -> Job:
        jobs.append(Job(root, tmp_path / name, *overrides, options=options))
        return jobs[-1]

    yield launched
    left = []
    for job in jobs:
        job.launcher.kill()
        job.launcher.wait(10)
        left += (alive := job.ranks().values())
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def job(launch: Callable[..., Job]) -> Job:
    return launch("run", *LONG)


def test_b4_a_process_that_dies_ends_the_job_and_is_named(job: Job):
    job.wait_for_step(3)
    os.kill(job.ranks()["1"], signal.SIGKILL)
    died = time.monotonic()
    assert job.end(120) != 0
    assert time.monotonic() - died < 30
    said = job.log.read_text()
    assert "rank      : 1" in said and "Signal 9 (SIGKILL)" in said


def test_b4_a_restart_that_would_wait_for_the_dead_is_refused_at_the_start(make, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ConfigError, match="export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"):
        processes.make_accelerator(make("run"))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert processes.make_accelerator(make("run")).num_processes == 1


def test_b3_a_grace_too_short_for_a_save_is_said_at_the_start(make, monkeypatch, capsys):
    run = make("run", "train.ema=0.9", "optim.kind=sgd")
    state = trained.prepare(run, Accelerator(cpu=True), distiller.build(run, 4)[0])
    log = Log(run, run.out_dir, main=True)
    run.out_dir.mkdir()
    trained.check_grace(run, state, log)
    assert capsys.readouterr().out == ""  # a network of a few hundred weights is written at once
    assert list(run.out_dir.iterdir()) == []
    write = checkpoint._write

    def slow(path: Path, content: bytes) -> dict:
        time.sleep(0.2)
        return write(path, content)

    monkeypatch.setattr(checkpoint, "_write", slow)
    short = run.model_copy(update={"train": run.train.model_copy(update={"grace_s": 1.1})})
    trained.check_grace(short, state, log)  # weights, momentum and average: 0.6 s and more, twice
    said = capsys.readouterr().out
    assert "a checkpoint takes about 0." in said and "train.grace_s is 1.1" in said and "--shutdown-timeout" in said
    assert list(run.out_dir.iterdir()) == []


def test_b3_the_recipe_gives_the_run_the_grace_that_it_says():
    text = (REPOSITORY / "docs" / "slurm_requeue.sh").read_text()
    (given,) = re.findall(r"--shutdown-timeout=(\d+)", text)
    assert config_file.load(KD, re.findall(r"train\.grace_s=\d+", text)).train.grace_s == float(given)
    (warned,) = re.findall(r"--signal=B:USR1@(\d+)", text)
    assert float(warned) > float(given)


def test_accelerate_launch_that_was_asked_for_two_processes_and_starts_one_is_refused(make, monkeypatch):
    run = make("run")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # of another tool: no reason to refuse anything
    monkeypatch.setenv("MASTER_PORT", "29500")
    processes.make_accelerator(run)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(
        ConfigError, match=r"asked for more than one process and started one.*torchrun --nproc_per_node"
    ):
        processes.make_accelerator(run)


@pytest.mark.slow
def test_accelerate_launch_itself_is_refused(root: Path, tmp_path: Path):
    """That the launcher of today leaves what the test above says it does."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "vidkd.train"]
    command += [str(KD), *SMALL, f"data.root={root}", f"out={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode != 0
    assert "asked for more than one process and started one" in done.stderr
    assert not (tmp_path / "run").exists()


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


SCORED = (*SMALL, "data.val=val", "train.eval_every={steps: 3}")


def dies(rank: str, place: str, how: int) -> None:
    """Have process `rank` send itself the signal `how`: at the start, in the third step, inside a save, or before it
    hands on what it has scored."""
    if os.environ["RANK"] != rank:
        processes.PATIENCE_S = 5  # for the one that waits
        return
    owner, name = {"start": (trained, "prepare"), "forward": (trainer, "teach"), "step": (stepping, "clip"),
                   "update": (stepping, "update"), "save": (checkpoint, "_write"), "wait": (trained, "save"),
                   "gather": (evaluation, "gather_objects")}[place]  # fmt: skip
    real, calls = getattr(owner, name), 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += place != "save" or "checkpoints" in args[0].parts
        if calls == (1 if place in ("start", "gather") else 3):
            os.kill(os.getpid(), how)
        return real(*args, **kwargs)

    setattr(owner, name, dying)
    if place == "wait":
        trainer.save = dying


@pytest.fixture(scope="module")
def two(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run of two processes leaves when nothing happens to it."""
    out = tmp_path_factory.mktemp("two") / "run"
    both = runs.ranks(root, out, 2, base=SCORED)
    assert [rank.end() for rank in both] == [0, 0], both[0].said()
    return runs.left(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "place"),
    [
        ("0", "start"),
        ("1", "start"),
        ("1", "forward"),
        ("0", "step"),
        ("1", "step"),
        ("0", "update"),
        ("0", "save"),
        ("0", "wait"),
        ("1", "wait"),
        ("0", "gather"),
        ("1", "gather"),
    ],
)
def test_b4_no_process_waits_for_a_dead_one_and_nothing_is_lost(root, tmp_path, two, rank, place):
    out = tmp_path / "run"
    both = runs.ranks(root, out, 2, base=SCORED, before=partial(dies, rank, place, signal.SIGKILL))
    assert both[int(rank)].end() == -signal.SIGKILL
    died = time.monotonic()
    assert both[1 - int(rank)].end() not in (0, None)
    assert time.monotonic() - died < 30
    again = runs.ranks(root, out, 2, base=SCORED)
    assert [rank.end() for rank in again] == [0, 0], again[0].said()
    assert runs.left(out) == two


@pytest.mark.slow
def test_b4_a_process_that_stands_still_is_not_waited_for_for_ever(root, tmp_path):
    out = tmp_path / "run"
    both = runs.ranks(root, out, 2, "data.timeout_s=2", base=SCORED,
                      before=partial(dies, "1", "step", signal.SIGSTOP))  # fmt: skip
    both[0].wait_for(lambda: (out / "metrics.jsonl").exists() and len(lines(out)) >= 1)
    stood = time.monotonic()
    assert both[0].end() != 0
    assert time.monotonic() - stood < 60
    both[1].signal(signal.SIGKILL)
    assert both[1].end() == -signal.SIGKILL


@pytest.mark.slow
def test_b4_a_launcher_told_to_restart_goes_on_to_the_same_result(launch, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    short = ("train.steps=40", "train.save_every={steps: 10}", PLAIN)
    whole = launch("whole", *short)
    assert whole.end(300) == 0, whole.log.read_text()
    again = launch("again", *short, options=("--max-restarts=1",))
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
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "2"}
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
