"""What a cluster, or somebody who means harm, does around a run: nothing of it changes a result unseen."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import vidkd
from conftest import REPOSITORY
from reliability import runs
from small_run import KD, SMALL, lines, same, tensors
from vidkd import checkpoint, config_file, evaluation, processes, run_dir, train, trained, trainer
from vidkd.errors import ConfigError

PLAIN = ("methods=[]", "teacher=null")


def jumping() -> None:
    """The clock of the machine is set again and again, by years, forwards and backwards."""
    rng = random.Random(5)
    time.time = lambda: rng.uniform(-1e9, 4e9)
    time.time_ns = lambda: int(rng.uniform(0, 4e18))


def test_a1_a_clock_that_jumps_changes_nothing(root, tmp_path, whole):
    run = runs.run(root, tmp_path / "run", before=jumping)
    assert run.process.exitcode == 0, run.said()
    assert runs.left(tmp_path / "run") == whole


def test_c4_a_run_that_was_stopped_for_longer_than_a_video_may_take_goes_on(root, tmp_path, whole):
    """As `scontrol suspend` or Ctrl-Z stop it: its workers were silent, and nobody could have heard them."""
    out = tmp_path / "run"
    run = runs.start(root, out, "data.timeout_s=6")
    run.wait_for_step(3)
    for _ in range(2):
        run.signal(signal.SIGSTOP)
        time.sleep(4)
        run.signal(signal.SIGCONT)
        time.sleep(0.3)
    assert run.end() == 0, run.said()
    assert runs.left(out) == whole


def signalled(number: int, step: int) -> None:
    """Have the process send itself a signal inside a step."""
    update, steps = trainer.update, 0

    def then(*args):
        nonlocal steps
        made, steps = update(*args), steps + 1
        if steps == step:
            os.killpg(0, number)
        return made

    trainer.update = then


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR2, signal.SIGXCPU])
@pytest.mark.slow
def test_b1_any_other_signal_is_at_worst_a_kill(root, tmp_path, whole, number):
    out = tmp_path / "run"
    run = runs.start(root, out, env={"PYTHONFAULTHANDLER": ""}, before=partial(signalled, number, 5))
    assert run.end(30) in (-number, 129)
    assert lines(out)[-1]["step"] in (4, 5)
    again = runs.run(root, out)
    assert again.process.exitcode == 0, again.said()
    assert runs.left(out) == whole


@pytest.mark.slow
def test_f1_hash_seed_time_zone_and_language_of_the_processes_change_nothing(root, tmp_path, whole):
    """Started anew by another Python each time, killed in between, from another folder; nothing reads or writes text in
    an encoding that the machine chooses."""
    out = tmp_path / "run"
    command = [sys.executable, "-X", "warn_default_encoding", "-m", "vidkd.train", str(KD), *runs.FULL]
    command += [f"data.root={root}", f"out={out}"]
    first = {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    second = first | {"PYTHONHASHSEED": "2", "TZ": "America/New_York", "LC_ALL": "C.UTF-8"}
    base = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    with (tmp_path / "said").open("ab") as said:
        started = subprocess.Popen(command, env=base | first, cwd=tmp_path, stdout=said, stderr=said)
        path, until = out / "checkpoints" / "step00000004", time.monotonic() + 300
        while not path.exists() and time.monotonic() < until:
            assert started.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.01)
        started.kill()
        started.wait()
        done = subprocess.run(command, env=base | second, cwd=tmp_path.parent, stdout=said, stderr=said)
    assert done.returncode == 0, (tmp_path / "said").read_text()
    assert runs.left(out) == whole
    warned = [line for line in (tmp_path / "said").read_text().splitlines() if "EncodingWarning" in line]
    ours = tuple(f"{REPOSITORY / folder}/" for folder in ("vidkd", "tests"))  # a .venv in here is not
    assert not [line for line in warned if line.startswith(ours)]


@pytest.fixture
def halfway(root, tmp_path):
    """A run that ended after its step 2, and the step of it that is newest."""
    out = tmp_path / "run"
    run = config_file.load(KD, [*SMALL, *PLAIN, f"data.root={root}", f"out={out}"])
    stop = partial(runs.signalled_after_save, 2, signal.SIGTERM)
    assert runs.run(root, out, *PLAIN, base=SMALL, before=stop).process.exitcode == 143
    return run


def another_version() -> None:
    vidkd.__version__ = "9.9.9"


def test_a4_another_version_and_another_number_of_threads_are_said(root, halfway):
    again = runs.run(root, halfway.out_dir, *PLAIN, "train.threads=2", base=SMALL, before=another_version)
    assert again.process.exitcode == 0, again.said()
    assert "equal to rounding, no longer to the bit, because of another" in again.said()
    assert f"environment.vidkd: '{vidkd.__version__}' there, '9.9.9' here" in again.said()
    assert "environment.threads: 1 there, 2 here" in again.said()
    assert [line["step"] for line in lines(halfway.out_dir)] == list(range(1, 7))


def test_a4_a_variable_with_which_torch_computes_otherwise_is_said(make, monkeypatch, capsys):
    run = make("run", *PLAIN)
    train.train(run, stop=2)
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    train.train(run, stop=3)
    said = "because of another environment.variables: None there, {'ONEDNN_DEFAULT_FPMATH_MODE': 'BF16'} here"
    assert said in capsys.readouterr().out


def changed_state(run, change) -> Path:
    """The newest checkpoint of a run, saved again with another state."""
    found = checkpoint.newest(run.out_dir / "checkpoints")[0]
    return checkpoint.save(run.out_dir / "checkpoints", found.step, found.groups, change(found.state))


def test_a4_a_checkpoint_of_an_older_version_is_resumed_and_of_a_newer_one_refused(halfway):
    def older(state):
        del state["run"]["train"]["deterministic"]  # a key that it did not know yet
        return {k: v for k, v in state.items() if k not in ("environment", *trained.COUNTS)}

    def newer(state):
        return state | {"run": state["run"] | {"sorcery": True}}

    kept = checkpoint.newest(halfway.out_dir / "checkpoints")[0].state
    changed_state(halfway, newer)
    with pytest.raises(ConfigError, match=r"step00000002: 1 mistake.*\n.*sorcery: no such key"):
        train.train(halfway)
    changed_state(halfway, lambda _: older(kept))
    train.train(halfway)
    assert run_dir.finished(halfway.out_dir)


@pytest.mark.parametrize(
    ("how", "said"),
    [("auto", "changed since this run began"), ("forgotten", "changed since this run began"),
     ("elsewhere", "changed since it was written")],
)  # fmt: skip
def test_a4_data_that_changed_between_two_starts_is_refused(make, root, tmp_path, how, said):
    """In its own folder, in one that does not remember any more what it was started with, from a path in another."""
    data = shutil.copytree(root, tmp_path / "set")
    run = make("run", *PLAIN, f"data.root={data}")
    train.train(run, stop=2)
    wanted = str(run.out_dir / "checkpoints" / "step00000002") if how == "elsewhere" else "auto"
    again = run.model_copy(update={"out": tmp_path / "other"}) if how == "elsewhere" else run
    if how == "forgotten":
        (run.out_dir / "inputs.json").unlink()
    whole = (data / "index.csv").read_text()
    rows = whole.splitlines()
    place = next(i for i, row in enumerate(rows) if "train_003" in row)
    rows[place] = rows[place].replace('"up"', '"left"')
    (data / "index.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(ConfigError, match=f"data.root {said}"):
        train.train(again, wanted)
    (data / "index.csv").write_text(whole)
    train.train(again, wanted)
    assert run_dir.finished(again.out_dir)


@pytest.mark.parametrize("name", [".lock", ".tmp-config.yaml-%d"])
def test_h4_a_planted_link_is_not_written_through(make, tmp_path, name):
    run, victim = make("run", *PLAIN), tmp_path / "victim"
    victim.write_text("precious")
    train.train(run, stop=2)
    link = run.out_dir / (name % os.getpid() if "%" in name else name)
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    if name == ".lock":
        with pytest.raises(ConfigError, match="cannot be written"):
            train.train(run)
    else:
        train.train(run)
    assert victim.read_text() == "precious"


def test_h4_a_run_that_is_reached_by_a_link_is_one_run(make, tmp_path):
    run = make("run", *PLAIN)
    train.train(run, stop=2)
    (tmp_path / "link").symlink_to(run.out_dir)
    train.train(run.model_copy(update={"out": tmp_path / "link"}))
    assert [line["step"] for line in lines(run.out_dir)] == list(range(1, 7))


def without_privileges() -> None:
    """Also root is stopped by the mode of a folder now."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # linux/capability.h, version 3
    if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, none):
        raise OSError("capset")


@pytest.mark.parametrize("which", [".", pytest.param("checkpoints", marks=pytest.mark.slow)])
def test_h4_a_folder_that_became_read_only_is_named_and_nothing_is_lost(root, halfway, tmp_path, which):
    folder = halfway.out_dir / which
    folder.chmod(0o555)
    try:
        stopped = runs.run(root, halfway.out_dir, *PLAIN, base=SMALL, before=without_privileges)
    finally:
        folder.chmod(0o755)
    assert stopped.process.exitcode == 2, stopped.said()
    assert str(folder) in stopped.said() and "Traceback" not in stopped.said()
    assert checkpoint.newest(halfway.out_dir / "checkpoints")[0].step == 2
    train.train(halfway)
    assert [line["step"] for line in lines(halfway.out_dir)] == list(range(1, 7))


def test_d3_accumulation_is_what_the_run_says_and_not_the_environment(root, tmp_path):
    """accelerate would believe a variable that its launcher, or a person, left there."""
    how = ("train.accumulate=2", "train.steps=2", "data.augment.mixup_alpha=0")
    for name, env in (("without", {}), ("with", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})):
        run = runs.run(root, tmp_path / name, *how, base=SMALL, env=env)
        assert run.process.exitcode == 0, run.said()
    same(tensors(tmp_path / "with", 2), tensors(tmp_path / "without", 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value"), [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")]
)
def test_a4_what_accelerate_was_told_beside_the_run_is_refused(make, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is set"):
        processes.make_accelerator(make("run"))


def test_a8_a_lock_says_who_and_is_said_to_the_next(make, tmp_path):
    """Also where what is in it is not what we wrote."""
    run = make("run", *PLAIN)
    train.train(run, stop=1)
    (run.out_dir / ".lock").write_bytes(b"\xff\xfe" + b"x" * 10_000)
    train.train(run, stop=2)
    assert json.dumps(str(run.out_dir))  # the folder is as it was


def test_h3_asking_git_for_the_commit_leaves_the_source_tree_alone(tmp_path, monkeypatch):
    """A plain `git status` locks the index and writes it; killed at that moment, it stays locked."""
    source = tmp_path / "vidkd" / "__init__.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    os.utime(source, (1, 1))  # what makes git write its index anew
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(vidkd, "__file__", str(source))
    said = evaluation.git_commit()
    assert said is not None and len(said) == 40
    assert (tmp_path / ".git" / "index").read_bytes() == before
