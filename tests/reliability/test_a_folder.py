"""A2 to A9, of a run's folder: nothing is deleted for a run that cannot start, whatever is harmed is named."""

import dataclasses
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from reliability import runs
from small_run import SMALL, lines, losses, same, weights
from vidkd import checkpoint, config_file, distiller, run_dir, train, trained
from vidkd.data.loading import Unreadable
from vidkd.errors import ConfigError, DataError, VidkdError
from vidkd.log import Log

NEVER = (
    "student.weights=/nowhere.safetensors",
    "teacher.allow_weak=false",
    "methods=[{kind: logits, weights: {kdd: 1}}]",
    "task.weights={lable: 1}",
    "teacher.cache={views: 1}",  # with mixup
    "optim.lr_scale={early: 0, middle: 0, late: 0, head: 0}",
)


@pytest.mark.parametrize("mistake", NEVER)
def test_a7_never_deletes_nothing_for_a_run_that_cannot_start(make, mistake):
    run = make("run")
    train.train(run, stop=2)
    before = sorted(path.name for path in run.out_dir.rglob("*"))
    with pytest.raises(VidkdError):
        train.train(make("run", mistake), resume="never")
    assert sorted(path.name for path in run.out_dir.rglob("*")) == before
    assert checkpoint.newest(run.out_dir / "checkpoints")[0].step == 2
    train.train(run, stop=3)  # the mistake mended by taking it back: the old run goes on


def test_a7_never_starts_anew_where_everything_is_right(make):
    train.train(make("run"), stop=4)
    train.train(make("run", "optim.lr=0.01"), resume="never", stop=2)
    assert [line["step"] for line in lines(make("run").out_dir)] == [1, 2]
    assert losses(make("run")) != []
    train.train(make("run", "optim.lr=0.01"), resume="never")
    assert run_dir.finished(make("run").out_dir)["name"] == "motion_kd"
    train.train(make("run"), resume="never", stop=2)  # over a finished one too
    assert run_dir.finished(make("run").out_dir) is None


def test_a7_never_and_a_folder_of_checkpoints_that_is_a_link(make, tmp_path):
    """What lies on another disk is neither deleted nor, which would be worse, resumed."""
    run = make("run")
    train.train(run, stop=2)
    (run.out_dir / "checkpoints").rename(tmp_path / "elsewhere")
    (run.out_dir / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="checkpoints: is a link, and --resume never deletes nothing behind a link"):
        train.train(run, resume="never")
    assert len(checkpoint.complete(tmp_path / "elsewhere")) == 1
    train.train(run, stop=4)
    assert checkpoint.newest(tmp_path / "elsewhere")[0].step == 4


def test_a3_a_checkpoint_that_is_a_link_is_pruned_as_a_link(tmp_path):
    folder, kept = tmp_path / "checkpoints", tmp_path / "kept"
    checkpoint.save(folder, 1, {"trainee": {"w": torch.zeros(1)}}, {})
    (folder / "step00000001").rename(kept)
    (folder / "step00000001").symlink_to(kept)
    for step in (2, 3):
        checkpoint.save(folder, step, {"trainee": {"w": torch.zeros(1)}}, {})
    assert [path.name for path in checkpoint.complete(folder)] == ["step00000002", "step00000003"]
    assert (kept / "manifest.json").exists()


def saving(folder: Path, steps: int) -> None:
    for step in range(2, steps):
        checkpoint.save(folder, step, {"trainee": {"w": torch.full((99,), float(step))}}, {}, keep=1)


def test_a3_at_every_instant_there_is_a_checkpoint_that_verifies(tmp_path):
    """Two hundred saves that keep one, stopped at random instants and looked at while they stand still."""
    checkpoint.save(tmp_path, 1, {"trainee": {"w": torch.zeros(1)}}, {}, keep=1)
    saver = runs.CONTEXT.Process(target=saving, args=(tmp_path, 200))
    saver.start()
    rng, looked, newest = random.Random(3), 0, 1
    while saver.is_alive():
        time.sleep(rng.uniform(0, 0.02))
        try:
            os.kill(saver.pid, signal.SIGSTOP)
        except ProcessLookupError:  # it has ended since
            break
        found = checkpoint.newest(tmp_path)
        assert found is not None and found[0].step >= newest and found[1] == []
        newest, looked = found[0].step, looked + 1
        os.kill(saver.pid, signal.SIGCONT)
    saver.join()
    assert saver.exitcode == 0 and looked > 5
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step00000199"]


HARMS = {"empty": b"", "no text": b"\xff\xfe\x00\x80" * 9, "a bomb": b"[" * 100_000, "another kind": b"[1, 2]\n"}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["inputs.json", "config.yaml", "metrics.jsonl", run_dir.MARK])
def test_a4_whatever_is_harmed_is_named_or_does_no_harm(make, name, harm):
    """Of a run that was killed: its small files are no less at the mercy of a disk than its checkpoints."""
    run = make("run", "methods=[]", "teacher=null")
    train.train(run, stop=4)
    (run.out_dir / name).write_bytes(HARMS[harm])
    if name in ("metrics.jsonl", run_dir.MARK):  # what was learned does not depend on them
        train.train(run)
        whole = make("whole", "methods=[]", "teacher=null")
        train.train(whole)
        same(weights(run, 6), weights(whole, 6), rtol=0, atol=0)
        assert [line["step"] for line in lines(run.out_dir)][-2:] == [5, 6]
    else:
        with pytest.raises(VidkdError, match=name):
            train.train(run)


def test_a9_lines_that_cannot_be_read_are_said(make, capsys):
    run = make("run", "methods=[]", "teacher=null")
    train.train(run, stop=4)
    path = run.out_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"step": 2', b'{"st\x00p": 2') + b'{"step": 5, "lo')
    train.train(run)
    assert f"{path}: 1 lines cannot be read any more" in capsys.readouterr().out
    assert [line["step"] for line in lines(run.out_dir)] == [1, 3, 4, 5, 6]


def test_a9_a_log_that_is_gone_is_said(make, capsys):
    run = make("run", "methods=[]", "teacher=null")
    train.train(run, stop=4)
    assert "are not in it" not in capsys.readouterr().out
    (run.out_dir / "metrics.jsonl").unlink()
    train.train(run, stop=5)
    assert f"{run.out_dir / 'metrics.jsonl'}: the figures of the steps up to 4 are not in it" in capsys.readouterr().out


def test_a7_how_much_a_run_bears_may_be_changed_when_it_has_given_up(make):
    more = ("data.max_bad_fraction=0.5", "train.max_nonfinite=20")
    train.train(make("run", "methods=[]", "teacher=null"), stop=2)
    train.train(make("run", "methods=[]", "teacher=null", *more), stop=3)
    assert [line["step"] for line in lines(make("run").out_dir)] == [1, 2, 3]


@pytest.mark.parametrize("harm", ["empty", "no text", "a bomb", "another kind"])
def test_a4_results_that_cannot_be_read_are_named(make, harm):
    run = make("run", "methods=[]", "teacher=null")
    train.train(run)
    (run.out_dir / "results.json").write_bytes(HARMS[harm])
    with pytest.raises(DataError, match=r"results\.json"):
        train.train(run)


def test_a4_a_checkpoint_holds_everything_that_the_loop_remembers(make):
    """A field that is added to Trained and not saved would be restored as its default: silently wrong."""
    run = make("run", "train.ema=0.5")
    accelerator = Accelerator(cpu=True)

    def made():
        return trained.prepare(run, accelerator, distiller.build(run, 4)[0])

    before, log = made(), Log(run, run.out_dir, main=False)
    run.out_dir.mkdir()
    (run.out_dir / run_dir.MARK).touch()
    values = {"step": 3, "best_value": 0.25, "scored": 2, "seconds": 7.5, "refused": 4, "left_out": 6,
              "left_out_in_a_row": 5, "unreadable": Unreadable(2, 1, ["a"]), "best": {"x": torch.ones(2)},
              "best_kept": {"y": torch.ones(3)}}  # fmt: skip
    # Tensors that other tests compare; what `step` says; what a start of the run waited for; what is compared
    elsewhere = {"trainee", "optimizers", "ema", "saved", "verdict", "inputs"}
    assert values.keys() | elsewhere == {field.name for field in dataclasses.fields(trained.Trained)}
    for name, value in values.items():
        setattr(before, name, value)
    trained.save(run, accelerator, before)
    after = made()
    trained.resume(run, accelerator, after, log)
    for name, value in values.items():
        assert getattr(after, name) == value if not isinstance(value, dict) else getattr(after, name).keys()
    assert after.saved == 3


def test_a4_the_scale_of_fp16_is_restored_or_missed(make):
    run, accelerator = make("run"), Accelerator(cpu=True)
    run.out_dir.mkdir()
    (run.out_dir / run_dir.MARK).touch()
    state, log = trained.prepare(run, accelerator, distiller.build(run, 4)[0]), Log(run, run.out_dir, main=False)
    for step, scaler in ((1, torch.amp.GradScaler("cpu", init_scale=8.0)), (2, None)):
        state.step, accelerator.scaler = step, scaler
        trained.save(run, accelerator, state)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with pytest.raises(DataError, match="step00000002: does not fit this run: 'scaler'"):
        trained.resume(run, accelerator, state, log)
    trained.resume(run, accelerator, state, log, str(trained.checkpoints(run) / "step00000001"))
    assert accelerator.scaler.get_scale() == 8.0


def held(run, resume):
    raise ConfigError(f"{run.out_dir}: in use by somebody")


def held_on_first() -> None:
    run_dir.claim = held


def test_a8_what_the_first_process_refuses_all_say(root, tmp_path):
    """None of them waits for the first one in vain, and none ends with an account of a connection that was lost."""
    both = runs.ranks(root, tmp_path / "run", 2, base=SMALL, before=held_on_first)
    assert [rank.end(60) for rank in both] == [2, 2], both[0].said() + both[1].said()
    for rank in both:
        assert "in use by somebody" in rank.said() and "Traceback" not in rank.said()


def test_a8_processes_that_were_started_otherwise_than_the_first_are_refused(make, monkeypatch):
    """Two nodes with another copy of the configuration, the data or the code would train what nobody asked for."""
    run, inputs = make("run"), {"data.root": "x"}
    run_dir.same_everywhere(run, inputs, trained.versions())
    for key, said in (
        ("run", "optim.lr: 0.7"),
        ("inputs", "its inputs.data.root"),
        ("versions", "its versions.torch: '0.0' there, '2."),
        ("out", "its out"),
    ):

        def gather(mine, key=key):
            theirs = {"run": mine["run"] | {"optim": mine["run"]["optim"] | {"lr": 0.7}}, "inputs": {"data.root": "y"},
                      "versions": trained.versions() | {"torch": "0.0"}, "out": "/elsewhere"}  # fmt: skip
            return [mine, mine, mine | {key: theirs[key]}]

        monkeypatch.setattr(run_dir, "gather_objects", gather)
        with pytest.raises(ConfigError, match=f"process 2 was started otherwise than process 0: {said}"):
            run_dir.same_everywhere(run, inputs, trained.versions())


def faster(rank: str) -> None:
    load = config_file.load

    def loaded(path, overrides=()):
        return load(path, [*overrides, "optim.lr=0.7"] if os.environ["RANK"] == rank else overrides)

    config_file.load = loaded


@pytest.mark.slow
def test_a8_all_processes_say_so(root, tmp_path):
    both = runs.ranks(root, tmp_path / "run", 2, base=SMALL, before=partial(faster, "1"))
    assert [rank.end() for rank in both] == [2, 2], both[0].said()
    for rank in both:
        assert "process 1 was started otherwise than process 0: optim.lr: 0.7 there, 0.05 here" in rank.said()


def test_g1_saved_files_have_the_mode_that_the_person_wants(make):
    """safetensors' own writer leaves 0600, and a colleague cannot read a run."""
    before = os.umask(0o027)
    try:
        run = make("run", "methods=[]", "teacher=null")
        train.train(run)
    finally:
        os.umask(before)
    for name in ("student.safetensors", "results.json", "checkpoints/step00000006/trainee.safetensors"):
        assert (run.out_dir / name).stat().st_mode & 0o777 == 0o640, name
