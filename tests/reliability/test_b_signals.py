"""B: a signal leaves a good checkpoint at the current step, on every process, and ends the run in time."""

import fcntl
import os
import pty
import signal
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from reliability import runs
from small_run import lines
from vidkd import checkpoint, evaluation

RARELY = "train.save_every={steps: 100}"  # only a signal saves before the end


def newest(out: Path) -> checkpoint.Saved:
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None and not found[1]
    return found[0]


def goes_on(root: Path, out: Path, whole: dict[str, object], *overrides: str) -> None:
    """The same command again ends as if nothing had happened."""
    again = runs.run(root, out, *overrides)
    assert again.process.exitcode == 0, again.said()
    assert "resumed from step" in again.said()
    assert runs.left(out) == whole
    runs.tidy(out)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_b1_a_signal_to_the_group_saves_the_current_step(root, tmp_path, whole, number, status):
    out = tmp_path / "run"
    run = runs.start(root, out, RARELY, before=partial(runs.held, 4))
    run.wait_for_step(4)
    run.signal(number)
    assert run.end(30) == status, run.said()
    assert "Traceback" not in run.said()
    saved = newest(out)
    assert saved.step == lines(out)[-1]["step"] >= 4  # the step that was reached, whatever save_every says
    assert f"step {saved.step} is saved" in run.said()
    runs.tidy(out)
    goes_on(root, out, whole, RARELY)


def slow_writes(mark: Path, seconds: float) -> None:
    write = checkpoint._write

    def slow(path: Path, content: bytes) -> dict:
        if "checkpoints" in path.parts:
            mark.touch()
            time.sleep(seconds)
        return write(path, content)

    checkpoint._write = slow


def slow_scoring(mark: Path, seconds: float) -> None:
    kept = evaluation._kept

    def slow(*args):
        with mark.open("a") as file:
            file.write("a batch\n")
        time.sleep(seconds)
        return kept(*args)

    evaluation._kept = slow


@pytest.mark.slow
def test_b1_a_signal_inside_a_save_does_not_harm_it(root, tmp_path, whole):
    out, mark = tmp_path / "run", tmp_path / "mark"
    run = runs.start(root, out, before=partial(slow_writes, mark, 0.2))
    run.wait_for(mark.exists)
    run.signal(signal.SIGTERM)
    assert run.end(30) == 143, run.said()
    assert newest(out).step == 2
    goes_on(root, out, whole)


def test_b1_a_signal_inside_an_evaluation_ends_it_and_the_val_part_is_scored_again(root, tmp_path, whole):
    out, mark = tmp_path / "run", tmp_path / "mark"
    few = ("train.eval_batch_size=1", RARELY)  # 8 batches
    run = runs.start(root, out, *few, before=partial(slow_scoring, mark, 1.0))
    run.wait_for(mark.exists)
    run.signal(signal.SIGTERM)
    assert run.end(30) == 143, run.said()
    assert len(mark.read_text().splitlines()) <= 3  # of the eight: the one that was met, perhaps the next
    assert (newest(out).step, newest(out).state["scored"]) == (3, 0)
    goes_on(root, out, whole, RARELY)


def slow_last_scoring(mark: Path) -> None:
    """Of the three times that the val part is scored."""
    kept, calls = evaluation._kept, 0

    def slow(*args):
        nonlocal calls
        calls += 1
        if calls > 16:  # of eight batches each
            mark.touch()
            time.sleep(0.5)
        return kept(*args)

    evaluation._kept = slow


def test_b1_a_signal_inside_the_last_evaluation_of_the_training_leaves_no_checkpoint_that_lacks_it(
    root, tmp_path, whole
):
    """The step is saved without it, scored at the next start, and saved again with what that has shown."""
    out, mark = tmp_path / "run", tmp_path / "mark"
    few = ("train.eval_batch_size=1", RARELY)
    run = runs.start(root, out, *few, before=partial(slow_last_scoring, mark))
    run.wait_for(mark.exists)
    run.signal(signal.SIGTERM)
    assert run.end(30) == 143, run.said()
    assert (newest(out).step, newest(out).state["scored"]) == (9, 6)
    again = runs.run(root, out, RARELY)
    assert again.process.exitcode == 0, again.said()
    left = runs.left(out)  # but for the log: what was scored in batches of one has other last digits there
    assert left | {"log": None} == whole | {"log": None}
    assert (newest(out).state["scored"], [line["step"] for line in left["log"]]) == (
        9,
        [line["step"] for line in whole["log"]],
    )


def test_b1_a_signal_before_the_first_step_ends_the_run_at_once(root, tmp_path):
    out = tmp_path / "run"
    run = runs.start(root, out)
    run.wait_for((out / "config.yaml").exists)
    run.signal(signal.SIGTERM)
    assert run.end(10) in (-signal.SIGTERM, 143)


def on_terminal(name: str) -> None:
    """Have the process, which leads its session, speak to the terminal `name`, and hear when that is closed, which will
    be after step 4."""
    runs.held(4)
    terminal = os.open(name, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    os.close(terminal)


def test_b1_a_terminal_that_is_closed_saves_the_current_step(root, tmp_path, whole):
    """The hang-up of an ssh session: SIGHUP, and no place any more to write to."""
    out = tmp_path / "run"
    ours, theirs = pty.openpty()
    run = runs.start(root, out, RARELY, before=partial(on_terminal, os.ttyname(theirs)))
    run.wait_for_step(4)
    os.close(theirs)
    os.close(ours)
    assert run.end(30) == 129
    assert newest(out).step == lines(out)[-1]["step"] >= 4
    goes_on(root, out, whole, RARELY)


def deaf_to_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_b1_under_nohup_a_closed_terminal_is_no_reason_to_end(root, tmp_path, whole):
    run = runs.start(root, tmp_path / "run", before=deaf_to_hang_ups)
    run.wait_for_step(3)
    run.signal(signal.SIGHUP)
    assert run.end() == 0, run.said()
    assert runs.left(tmp_path / "run") == whole


def into_pipe(path: Path, held: bool) -> None:
    """Have the process, and all that it says, at one end of a pipe; `held`: it waits for a signal after step 5."""
    if held:
        runs.held(5)
    end = os.open(path, os.O_WRONLY)
    os.dup2(end, 1)
    os.dup2(end, 2)
    os.close(end)


@pytest.mark.parametrize("ctrl_c", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_b1_whoever_reads_may_leave(root, tmp_path, whole, ctrl_c):
    """`vidkd.train ... | tee log`: Ctrl-C ends tee at once; then nobody is there to be told that a step is saved."""
    out, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    ours = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run = runs.start(root, out, RARELY, before=partial(into_pipe, pipe, ctrl_c))
    run.wait_for_step(4)
    os.close(ours)
    if not ctrl_c:
        assert run.end() == 0
        assert runs.left(out) == whole
        return
    run.wait_for_step(5)  # the bar has something to show meanwhile
    run.signal(signal.SIGINT)
    assert run.end(30) == 130
    assert newest(out).step == lines(out)[-1]["step"] >= 4
    goes_on(root, out, whole, RARELY)


def test_b2_a_signal_to_one_process_of_two_stops_both_at_one_step(root, tmp_path):
    out = tmp_path / "run"
    both = runs.ranks(root, out, 2, RARELY, before=partial(runs.held, 5, "1"))
    both[0].wait_for(lambda: (out / "metrics.jsonl").exists() and len(lines(out)) > 3)
    both[1].signal(signal.SIGUSR1, group=False)
    signalled = time.monotonic()
    assert [rank.end(20) for rank in both] == [138, 138], both[0].said() + both[1].said()
    assert time.monotonic() - signalled < 10
    assert newest(out).step == lines(out)[-1]["step"]
    assert newest(out).state["processes"] == 2


def test_b5_a_second_ctrl_c_ends_at_once(root, tmp_path):
    out, mark = tmp_path / "run", tmp_path / "mark"
    run = runs.start(root, out, before=partial(slow_writes, mark, 60))
    run.wait_for(mark.exists)  # inside a save that takes a minute a file
    run.signal(signal.SIGINT)
    time.sleep(1.2)
    assert run.process.is_alive()
    run.signal(signal.SIGINT)
    pressed = time.monotonic()
    assert run.end(10) == -signal.SIGINT
    assert time.monotonic() - pressed < 3


def test_b5_one_ctrl_c_that_comes_twice_is_one(root, tmp_path):
    out, mark = tmp_path / "run", tmp_path / "mark"
    run = runs.start(root, out, before=partial(slow_writes, mark, 0.5))
    run.wait_for(mark.exists)
    run.signal(signal.SIGINT)  # from the terminal
    os.kill(run.pid, signal.SIGINT)  # and from the launcher
    assert run.end(30) == 130, run.said()
    assert newest(out).step == 2
