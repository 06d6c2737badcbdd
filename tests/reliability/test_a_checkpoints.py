"""A1 to A3: a checkpoint is whole or not at all, and the last good one is never lost."""

import errno
import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from reliability import runs
from vidkd import checkpoint
from vidkd.errors import DataError


def save(folder: Path, step: int, value: float = 1.0, keep: int = 2) -> Path:
    return checkpoint.save(folder, step, {"trainee": {"w": torch.full((3,), value)}}, {"best_value": value}, keep)


def newest_step(folder: Path) -> int:
    found = checkpoint.newest(folder)
    assert found is not None
    return found[0].step


def test_what_is_saved_is_what_is_read(tmp_path):
    save(tmp_path, 5, 2.5)
    found, complaints = checkpoint.newest(tmp_path)
    assert torch.equal(found.groups["trainee"]["w"], torch.full((3,), 2.5))
    assert (found.state, found.step, complaints) == ({"best_value": 2.5}, 5, [])


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("what", ["exception", "full disk"])
def test_a2_a_fault_in_any_call_leaves_a_checkpoint_that_verifies(tmp_path, monkeypatch, what):
    """Every call of a save that touches the disk fails once, half done where it can be half done."""
    places = [(checkpoint, "_write"), (Path, "mkdir"), (Path, "rename"), (checkpoint, "sync_folder")]
    error = OSError(errno.ENOSPC, "No space left on device") if what == "full disk" else RuntimeError("planted")
    failed = 0
    for number in range(20):
        save(tmp_path, 1)
        calls = 0

        def faulty(real, target, *args, number=number, **how):
            nonlocal calls
            calls += 1
            if calls - 1 != number:
                return real(target, *args, **how)
            if args and isinstance(args[0], bytes):
                target.write_bytes(args[0][: len(args[0]) // 2])
            raise error

        with monkeypatch.context() as patch:
            for owner, name in places:
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *args, real=real, **how: faulty(real, *args, **how))
            try:
                save(tmp_path, 2, keep=1)
            except (DataError, RuntimeError, OSError):
                failed += 1
        assert newest_step(tmp_path) in (1, 2)
        if calls <= number:
            break
        save(tmp_path, 2, keep=1)  # the half-written folder of the same step is no obstacle
        assert newest_step(tmp_path) == 2
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
    assert failed == number >= 6


@pytest.mark.parametrize("what", ["exception", "full disk"])
def test_a2_a_step_that_is_saved_again_is_never_gone(tmp_path, monkeypatch, what):
    """A val part that a signal interrupted is scored at the next start: what is known of the step has changed."""
    error = OSError(errno.ENOSPC, "No space left on device") if what == "full disk" else RuntimeError("planted")
    places, failed = [(Path, "rename"), (checkpoint, "sync_folder"), (shutil, "rmtree")], 0
    for number in range(20):
        save(tmp_path, 1, 1.0, keep=1)
        calls = 0

        def faulty(real, *args, number=number, **how):
            nonlocal calls
            calls += 1
            if calls - 1 == number:
                raise error
            return real(*args, **how)

        with monkeypatch.context() as patch:
            for owner, name in places:
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *args, real=real, **how: faulty(real, *args, **how))
            try:
                save(tmp_path, 1, 2.0, keep=1)
            except (DataError, RuntimeError, OSError):
                failed += 1
        assert newest_step(tmp_path) == 1
        save(tmp_path, 1, 3.0, keep=1)
        assert [path.name for path in checkpoint.complete(tmp_path)] == ["step00000001"]
        assert checkpoint.newest(tmp_path)[0].state == {"best_value": 3.0}
        if calls <= number:
            break
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
    assert failed == number >= 6


def killed_in_call(name: str, number: int) -> None:
    """Have the process kill itself in the `number`th call of checkpoint.`name`, half of it done."""
    real, calls = getattr(checkpoint, name), 0

    def dying(path, *args):
        nonlocal calls
        calls += "checkpoints" in path.parts
        if calls == number:
            if args:
                path.write_bytes(args[0][: len(args[0]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *args)

    setattr(checkpoint, name, dying)


# Inside the weights of the second save, and between its rename and its pruning; then in each of its other calls. Its
# files are the sixth to the tenth that are written, the manifest the eleventh; its folder is flushed before its rename
# and the one above it after that.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("_write", 7), ("sync_folder", 4)),
        *(pytest.param("_write", number, marks=pytest.mark.slow) for number in (6, 8, 9, 10, 11)),
        pytest.param("sync_folder", 3, marks=pytest.mark.slow),
    ],
)
def test_a2_a_kill_inside_a_save_costs_that_save_at_most(root, tmp_path, whole, name, number):
    out = tmp_path / "run"
    run = runs.start(root, out, before=partial(killed_in_call, name, number))
    assert run.end() == -signal.SIGKILL
    assert newest_step(out / "checkpoints") == (4 if (name, number) == ("sync_folder", 4) else 2)
    again = runs.run(root, out)
    assert again.process.exitcode == 0, again.said()
    assert runs.left(out) == whole
    runs.tidy(out)


@pytest.mark.parametrize("name", ["trainee.safetensors", "manifest.json"])
def test_a2_one_flipped_byte_anywhere_is_found(tmp_path, name):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (1, 32):
            harmed = bytearray(content)
            harmed[place] ^= bit
            path.write_bytes(bytes(harmed))
            if name == "manifest.json" and _says_the_same(harmed, content):
                continue
            assert newest_step(tmp_path) == 1, f"byte {place}: {content[place : place + 1]!r}"


def _says_the_same(harmed: bytes, content: bytes) -> bool:
    """White space, or a letter of an escape: another way to write the same manifest."""
    try:
        return json.loads(harmed) == json.loads(content)
    except ValueError:
        return False


def test_a2_a_stale_folder_of_the_same_step_is_no_obstacle(tmp_path):
    (tmp_path / "step00000002").mkdir()
    (tmp_path / ".tmp-step00000002").mkdir()
    save(tmp_path, 2)
    assert newest_step(tmp_path) == 2


def test_a3_retention_keeps_the_newest_and_prunes_after_publishing(tmp_path, monkeypatch):
    good: list[int] = []
    rmtree = shutil.rmtree

    def watched(path, **how):
        good.append(newest_step(tmp_path))
        return rmtree(path, **how)

    save(tmp_path, 1, keep=1)
    monkeypatch.setattr(shutil, "rmtree", watched)
    for step in range(2, 30):
        save(tmp_path, step, keep=1)
        assert [p.name for p in checkpoint.complete(tmp_path)] == [f"step{step:08d}"]
    assert set(good) == set(range(1, 30))  # whenever anything was deleted, one that verifies was there
    for step in range(30, 34):
        save(tmp_path, step, keep=2)
    assert [checkpoint.step_of(p) for p in checkpoint.complete(tmp_path)] == [32, 33]


def test_a3_a_diverged_run_pushes_no_good_checkpoint_out(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(DataError, match="trainee/w is not finite"):
        save(tmp_path, 2, float("nan"), keep=1)
    assert newest_step(tmp_path) == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a1_an_optimiser_goes_on_to_the_same_bits(kind):
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


def test_write_atomic_replaces_whole(tmp_path):
    (tmp_path / "x").write_text("old")
    checkpoint.write_atomic(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"
