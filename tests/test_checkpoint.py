"""Whole or not at all, verified before use, the last good one never deleted before a newer one is whole."""

import errno

import pytest
import torch

from vidkd import checkpoint
from vidkd.errors import DataError


def save(folder, step, value=1.0, keep=2):
    return checkpoint.save(folder, step, {"trainee": {"w": torch.full((3,), value)}}, {"best_value": value}, keep)


def test_what_is_saved_is_what_is_read(tmp_path):
    save(tmp_path, 5, 2.5)
    groups, state, step, complaints = checkpoint.newest(tmp_path)
    assert torch.equal(groups["trainee"]["w"], torch.full((3,), 2.5))
    assert (state, step, complaints) == ({"best_value": 2.5}, 5, [])


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_retention_keeps_the_newest(tmp_path):
    for step in range(1, 5):
        save(tmp_path, step)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step00000003", "step00000004"]


@pytest.mark.parametrize("name", ["trainee.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_harmed_checkpoint_is_passed_over_by_name(tmp_path, name, harm):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        content[-4] ^= 1
        path.write_bytes(bytes(content) if harm == "flip" and name != "manifest.json" else bytes(content[:-9]))
    _, _, step, complaints = checkpoint.newest(tmp_path)
    assert step == 1
    assert "step00000002" in complaints[0]


def test_only_bad_checkpoints_stop_the_run(tmp_path):
    (save(tmp_path, 1) / "trainee.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"no checkpoint can be trusted.*--resume never"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("call", [0, 1])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, call):
    save(tmp_path, 1)
    real, calls = checkpoint._write, []

    def failing(path, content):
        calls.append(path)
        if len(calls) > call:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(checkpoint, "_write", failing)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path)[2] == 1
    save(tmp_path, 2, keep=1)  # the half-written folder of the same step is no obstacle
    assert checkpoint.newest(tmp_path)[2] == 2


def test_a_diverged_run_pushes_no_good_checkpoint_out(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(DataError, match="trainee/w is not finite"):
        save(tmp_path, 2, float("nan"), keep=1)
    assert checkpoint.newest(tmp_path)[2] == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_goes_on_to_the_same_bits(kind):
    def made():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, kind(layer.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))

    def steps(layer, optimizer, count):
        for _ in range(count):
            layer(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = made()
    steps(whole, optimizer, 4)
    first, before = made()
    steps(first, before, 2)
    second, after = made()
    second.load_state_dict(first.state_dict())
    checkpoint.restore_optimizer(after, checkpoint.optimizer_tensors(before))
    steps(second, after, 2)
    assert torch.equal(whole.weight, second.weight)


def test_another_runs_optimiser_is_refused():
    big, small = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    a, b = (torch.optim.AdamW(m.parameters()) for m in (big, small))
    big(torch.ones(1, 2)).sum().backward()
    a.step()
    with pytest.raises(DataError, match="optimiser has 2 parameters or more, this run's has 1"):
        checkpoint.restore_optimizer(b, checkpoint.optimizer_tensors(a))


def test_write_atomic_replaces_whole(tmp_path):
    (tmp_path / "x").write_text("old")
    checkpoint.write_atomic(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"
