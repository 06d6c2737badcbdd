"""A whole run: its launchers, its folder, its networks. What it promises under faults is in tests/reliability/."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from conftest import REPOSITORY
from small_run import KD, SMALL, losses, same, weights
from vidkd import config_file, models, train, trained
from vidkd.data import decode
from vidkd.errors import ConfigError, DataError

TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--standalone")
ACCELERATE = ("accelerate.commands.launch",)


def launched(launcher, run, root, *overrides):
    """The real command, under a launcher, as the README says."""
    command = [sys.executable, "-m", *launcher, "-m", "vidkd.train", str(KD), *SMALL]
    command += [f"data.root={root}", f"out={run.out_dir}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)


def test_two_processes_change_nothing(make, root):
    plain = "data.augment.mixup_alpha=0"
    one, two = make("one", plain), make("two", plain)
    train.train(one)
    done = launched(TORCHRUN, two, root, plain, "train.processes=2")
    assert done.returncode == 0, done.stderr[-3000:]
    for (step, a), (other, b) in zip(losses(one), losses(two), strict=True):
        assert step == other
        assert b == pytest.approx(a, abs=1e-4)
    same(weights(one, 6), weights(two, 6), rtol=1e-4, atol=1e-5)
    a, b = (json.loads((r.out_dir / "results.json").read_text()) for r in (one, two))
    assert a["student"]["confusion"] == b["student"]["confusion"]
    assert a["student"]["n_videos"] == b["student"]["n_videos"] == 13


def test_accelerate_launch_runs_it(make, root):
    run = make("launched")
    done = launched(ACCELERATE, run, root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "top-1" in done.stdout


def test_another_number_of_processes_than_wanted_is_refused(make):
    with pytest.raises(ConfigError, match=r"1 process\(es\) run.*torchrun --nproc_per_node"):
        train.train(make("p", "train.processes=2"))


def test_a_checkpoint_holds_no_teacher_and_the_student_nothing_but_itself(make):
    run = make("x")
    train.train(run)
    assert {k.split(".")[0] for k in weights(run, 6)} == {"student"}
    assert not [k for k in load_file(run.out_dir / "student.safetensors") if k.startswith(("methods", "teacher"))]


def test_the_same_command_again_is_the_result(make):
    run = make("again")
    first = train.train(run)
    before = (run.out_dir / "results.json").stat().st_mtime_ns
    again = train.train(run)
    assert (run.out_dir / "results.json").stat().st_mtime_ns == before
    assert again == first
    assert again["training_s"] > 0


def test_another_configs_folder_is_refused_with_the_difference(make):
    train.train(make("mine"), stop=2)
    with pytest.raises(ConfigError, match=r"optim.lr: 0.05 there, 0.01 here"):
        train.train(make("mine", "optim.lr=0.01"))
    train.train(make("mine", "data.workers=1", "train.log_every_steps=2"), stop=4)  # what decides nothing may differ
    train.train(make("mine", "optim.lr=0.01"), resume="never", stop=2)


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds files that are not a run's"):
        train.train(make("thesis"))
    with pytest.raises(ConfigError, match="holds files that are not a run's"):
        train.train(make("thesis"), resume="never")
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_a_teacher_at_chance_is_refused(make):
    with pytest.raises(ConfigError, match=r"at or near chance.*teacher.allow_weak=true"):
        train.train(make("weak", "teacher.allow_weak=false"))


def test_a_cached_teacher_says_what_the_live_one_says(make, tmp_path):
    plain = "data.augment.mixup_alpha=0"
    cache = f"teacher.cache={{views: 2, dtype: fp32, dir: {tmp_path / 'cache'}}}"
    cached, live = make("cached", plain, cache), make("live", plain)
    train.train(cached)
    train.train(live)
    for (_, a), (_, b) in zip(losses(cached)[:3], losses(live)[:3], strict=True):  # of the first epoch: address = epoch
        assert a == pytest.approx(b, abs=1e-5)
    again = make("again", plain, cache)
    train.train(again)  # replayed, not built
    assert losses(cached) == losses(again)
    shard = next((tmp_path / "cache").glob("*/logits/a0000_c00000.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="its checksum is wrong; delete"):
        train.train(make("third", plain, cache))


def test_how_hard_each_term_pulls_is_logged_if_asked(make):
    def logged(name, *overrides):
        run = make(name, "data.augment.mixup_alpha=0", *overrides)
        train.train(run)
        lines = [json.loads(line) for line in (run.out_dir / "metrics.jsonl").read_text().splitlines()]
        return run, [line for line in lines if "loss/total" in line]

    weights_of = "methods=[{kind: logits, weights: {kd: 0.9}}]"
    run, lines = logged("pulls", weights_of, "log.gradients=true", "train.log_every_steps=2")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        both = line["optim/grad_norm_student"]  # of the sum: no longer than the two together, no shorter than their gap
        label, kd = line["grad/label"], line["grad/logits/kd"]
        assert abs(label - kd) - 1e-5 <= both <= label + kd + 1e-5
    plain, lines = logged("plain", weights_of)
    assert not any(key.startswith("grad/") for line in lines for key in line)
    same(weights(run, 6), weights(plain, 6), rtol=0, atol=0)  # looking changes nothing


def test_layers_are_frozen_with_their_statistics(make):
    run = make("frozen", "methods=[]", "teacher=null", "optim.lr_scale={early: 0}")
    train.train(run, stop=2)
    first = weights(run, 2)
    train.train(run)
    last = weights(run, 6)
    assert all(torch.equal(first[n], last[n]) for n in first if ".early." in n)
    assert not all(torch.equal(first[n], last[n]) for n in first)


def test_d4_batch_statistics_that_nothing_taught_are_not_frozen(make):
    """Frozen at mean 0 and variance 1 they normalise nothing; those that came with weights may be frozen."""
    run = make("faded", "methods=[]", "teacher=null", "student.name=small_r3d", "optim.lr_scale={stem: 0}")
    with pytest.raises(ConfigError, match=r"freezes stem\.1, whose batch statistics were never learned"):
        train.train(run)
    network = models.build("small_r3d", 4)
    trained.check_frozen_statistics(network)  # nothing is frozen
    network.get_submodule("net.stem").requires_grad_(False)
    with pytest.raises(ConfigError, match=r"stem\.1"):
        trained.check_frozen_statistics(network)
    network.get_submodule("net.stem.1").running_mean += 0.1  # as weights bring it
    trained.check_frozen_statistics(network)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(make, precision):
    outcome = train.train(make(precision, f"train.mixed_precision={precision}"))
    assert outcome["student"]["n_videos"] == 13


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=/nowhere", "/nowhere: no such folder"),
        ("data.split=split9", "no split 'split9'"),
        ("data.test=holdout", "no video in part 'holdout'"),
        ("data.augment.flip=0.5", "set data.augment.flip=0"),
        ("student.view.frames=16", "more than the 8 of data.clip.frames"),
        ("train.batch_size=80", "more than the 24 training clips"),
        ("student.weights=/nowhere.safetensors", "/nowhere.safetensors"),
        ("student.name=mvit_v1_b", "mvit_v1_b"),
    ],
)
def test_bad_input_is_one_clear_error(make, override, message):
    with pytest.raises((ConfigError, DataError), match=message):
        train.train(make("bad", override))


def test_errors_leave_with_2_and_without_a_traceback(make, root):
    run = make("cli")
    command = [sys.executable, "-m", "vidkd.train", str(KD), "data.root=/nowhere", "optim.lrr=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "optim.lrr: no such key; did you mean 'lr'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.out_dir.exists()


def test_print_config_prints_what_can_be_run(tmp_path):
    command = [sys.executable, "-m", "vidkd.train", str(KD), "--print-config", "seed=7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert config_file.load(tmp_path / "printed.yaml") == config_file.load(KD, ["seed=7"])


def test_a_corrected_configuration_may_use_its_folder(make):
    """What fails before the first checkpoint claims nothing: the message's own advice can be followed."""
    with pytest.raises(ConfigError, match=r"teacher.allow_weak=true goes on"):
        train.train(make("mended", "teacher.allow_weak=false"))
    train.train(make("mended", "teacher.allow_weak=true", "optim.lr=0.01"), stop=2)


def test_changed_inputs_are_not_resumed(make, root, tmp_path):
    weights_of = make("teacher", "methods=[]", "teacher=null", "student.name=tiny16", "student.view.size_px=32")
    train.train(weights_of)
    path = f"teacher.weights={weights_of.out_dir}"
    train.train(make("run", path), stop=2)
    train.train(weights_of.model_copy(update={"seed": 1}), resume="never")
    with pytest.raises(ConfigError, match=r"teacher.weights changed since this run began"):
        train.train(make("run", path))


@pytest.mark.parametrize(
    ("override", "hidden", "message"),
    [
        ("data.decoder=torchcodec", "torchcodec", "torchcodec is not installed"),
        ("log.tensorboard=true", "tensorboard", "needs the tensorboard package"),
        ("data.test=test", "test_002.mp4", "1 video.s. are not what was prepared: test_002.mp4: No such file"),
    ],
)
def test_never_deletes_nothing_for_a_run_that_lacks_something(
    make, root, tmp_path, monkeypatch, override, hidden, message
):
    copied = shutil.copytree(root, tmp_path / "set")
    own = ("methods=[]", "teacher=null", f"data.root={copied}")
    run = make("kept", *own)
    train.train(run, stop=2)
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == hidden else there(name, *rest))
    decode._installed.cache_clear()
    (copied / hidden).unlink(missing_ok=True)
    with pytest.raises((ConfigError, DataError), match=message):
        train.train(make("kept", *own, override), resume="never", stop=2)
    decode._installed.cache_clear()
    assert (run.out_dir / "checkpoints" / "step00000002").exists()


def test_never_deletes_nothing_but_a_runs_files(make, tmp_path):
    theirs = tmp_path / "theirs"
    (theirs / "checkpoints").mkdir(parents=True)
    (theirs / "config.yaml").write_text("lr: 1")
    with pytest.raises(ConfigError, match="holds files that are not a run's"):
        train.train(make("theirs"), resume="never")
    assert (theirs / "checkpoints").exists()
    run = make("ours")
    train.train(run, stop=2)
    (run.out_dir / "notes.txt").write_text("mine")
    (run.out_dir / "my_predictions.csv").write_text("mine")
    train.train(run, resume="never", stop=2)
    assert (run.out_dir / "notes.txt").exists()
    assert (run.out_dir / "my_predictions.csv").exists()
