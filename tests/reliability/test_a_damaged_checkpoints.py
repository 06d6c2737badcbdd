"""A4: what is wrong with a checkpoint is found before it is used; the run falls back, says so, or stops."""

import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from reliability import runs
from small_run import lines
from vidkd import checkpoint
from vidkd.errors import DataError

GROUPS = ("trainee", "ema", "best", "optim_student", "optim_methods")


@pytest.fixture(scope="module")
def halfway(root, tmp_path_factory):
    """A run that was killed right after its checkpoint of step 4."""
    out = tmp_path_factory.mktemp("halfway") / "run"
    killed = runs.run(root, out, before=partial(runs.signalled_after_save, 4, signal.SIGKILL))
    assert killed.process.exitcode == -signal.SIGKILL
    return out


def harmed(halfway: Path, out: Path, name: str, harm: str) -> Path:
    """A copy of the halfway run whose newest checkpoint is damaged."""
    shutil.copytree(halfway, out)
    path = out / "checkpoints" / "step00000004" / name
    content = bytearray(path.read_bytes())
    if harm == "removed":
        path.unlink()
        return path
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if harm == "flipped" else bytes(content[: len(content) // 3]))
    return path


@pytest.mark.parametrize("harm", ["removed", "cut", "flipped"])
@pytest.mark.parametrize("name", [*(f"{group}.safetensors" for group in GROUPS), "manifest.json"])
def test_a4_every_file_of_a_checkpoint_is_missed(halfway, tmp_path, name, harm):
    path = harmed(halfway, tmp_path / "run", name, harm)
    found, complaints = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert found.step == 2
    assert str(path.parent) in complaints[0] and (name in complaints[0] or name == "manifest.json")


def test_a4_a_run_falls_back_says_so_and_its_new_checkpoints_are_not_pruned_for_the_bad_ones(
    root, halfway, tmp_path, whole
):
    out = tmp_path / "run"
    harmed(halfway, out, "optim_methods.safetensors", "flipped")
    assert {line["step"] for line in lines(out)} >= {1, 2, 3, 4}
    run = runs.run(root, out)
    assert run.process.exitcode == 0, run.said()
    assert "optim_methods.safetensors: its checksum is not the one in manifest.json" in run.said()
    assert "resumed from step 2" in run.said()
    assert "step00000004 is now aside-step00000004" in run.said()
    assert runs.left(out) == whole


def test_a4_only_bad_checkpoints_stop_the_run(root, halfway, tmp_path):
    out = tmp_path / "run"
    harmed(halfway, out, "ema.safetensors", "cut")
    (out / "checkpoints" / "step00000002" / "trainee.safetensors").unlink()
    run = runs.run(root, out)
    assert run.process.exitcode == 2
    assert "no checkpoint can be trusted" in run.said() and "--resume never" in run.said()
    assert "Traceback" not in run.said()
    assert len(checkpoint.complete(out / "checkpoints")) == 2


def test_a4_checkpoints_that_are_gone_stop_the_run(root, halfway, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(halfway, out)
    shutil.rmtree(out / "checkpoints")
    run = runs.run(root, out)
    assert run.process.exitcode == 2
    assert "this run's checkpoints are gone" in run.said()


def test_a4_a_checkpoint_of_another_run_is_found(root, halfway, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(halfway, out)
    foreign = checkpoint.read(out / "checkpoints" / "step00000004")
    foreign.state["run"]["seed"] = 7
    checkpoint.save(out / "checkpoints", 6, foreign.groups, foreign.state)
    run = runs.run(root, out)
    assert run.process.exitcode == 2
    assert "step00000006: holds a run of another configuration" in run.said() and "seed: 7 there, 0 here" in run.said()


@pytest.mark.parametrize("lost", ["weight", "num_batches_tracked"])
def test_a4_a_checkpoint_that_lacks_a_tensor_is_found(root, halfway, tmp_path, lost):
    out = tmp_path / "run"
    shutil.copytree(halfway, out)
    saved = checkpoint.read(out / "checkpoints" / "step00000004")
    del saved.groups["trainee"][next(name for name in sorted(saved.groups["trainee"]) if name.endswith(lost))]
    checkpoint.save(out / "checkpoints", 6, saved.groups, saved.state)
    run = runs.run(root, out)
    assert run.process.exitcode == 2
    assert "step00000006: does not fit this run" in run.said() and "Traceback" not in run.said()


def test_a4_a_renamed_checkpoint_is_found(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"trainee": {"w": torch.ones(3)}}, {}, keep=2)
    (tmp_path / "step00000002").rename(tmp_path / "step00000009")
    found, complaints = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert "step00000009: holds the checkpoint of step 2" in complaints[0]


def test_a4_another_runs_optimiser_is_refused():
    big, small = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    a, b = (torch.optim.AdamW(m.parameters()) for m in (big, small))
    big(torch.ones(1, 2)).sum().backward()
    a.step()
    with pytest.raises(DataError, match="optimiser has 2 parameters or more, this run's has 1"):
        checkpoint.restore_optimizer(b, checkpoint.optimizer_tensors(a))
