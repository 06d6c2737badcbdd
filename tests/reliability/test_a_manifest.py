"""A4, of manifests that somebody made: nothing outside a checkpoint is read, nothing in it is believed unseen."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from vidkd import checkpoint, train
from vidkd.errors import DataError, VidkdError


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_a4_a_manifest_reads_no_file_outside_its_folder(tmp_path, name):
    path = checkpoint.save(tmp_path, 1, {"trainee": {"w": torch.zeros(1)}}, {})
    shutil.copy(path / "trainee.safetensors", tmp_path / "outside.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"] = {name: manifest["files"]["trainee.safetensors"]}
    manifest["sha256"] = checkpoint._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is no file of this folder"):
        checkpoint.read(path)


def vouched(path: Path, **changed: object) -> None:
    """Change the manifest of a checkpoint, and its checksum with it."""
    manifest = json.loads((path / "manifest.json").read_text()) | changed
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": checkpoint._digest(manifest)}))


@pytest.mark.parametrize(
    "changed",
    [*({"step": value} for value in (None, True, "1", 1e300, [])), *({"state": value} for value in (None, [1], "x", 3)),
     *({"files": value} for value in ({}, None, [], {"trainee.safetensors": None}, {"a\0b": {"bytes": 1}}))],
)  # fmt: skip
def test_a4_a_manifest_that_vouches_for_nonsense_is_a_bad_checkpoint(tmp_path, changed):
    path = checkpoint.save(tmp_path, 1, {"trainee": {"w": torch.zeros(1)}}, {})
    vouched(path, **changed)
    with pytest.raises(DataError, match="step00000001"):
        checkpoint.read(path)


@pytest.mark.parametrize("key", ["run", "best_value", "seconds", "scored", "unreadable"])
@pytest.mark.parametrize("value", [None, "nonsense"])
def test_a4_a_state_that_lacks_something_or_holds_another_kind_of_it_is_named(make, key, value):
    run = make("run", "methods=[]", "teacher=null")
    train.train(run, stop=2)
    path = run.out_dir / "checkpoints" / "step00000002"
    state = checkpoint.read(path).state
    vouched(path, state={k: v for k, v in state.items() if k != key} | ({key: value} if value else {}))
    with pytest.raises(VidkdError, match="step00000002"):
        train.train(run)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no place on the disk, and would take all memory


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # who reads it waits for ever


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("harm", [huge, pipe, endless])
@pytest.mark.parametrize("name", ["manifest.json", "trainee.safetensors"])
def test_a4_a_file_that_has_no_end_is_passed_over(tmp_path, name, harm):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"trainee": {"w": torch.zeros(1)}}, {})
    harm(tmp_path / "step00000002" / name)
    found, complaints = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert f"{tmp_path / 'step00000002' / name}: is no file of at most" in complaints[0]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b'{"files": 3}', b"\xff"])
def test_a4_a_manifest_of_any_other_kind_is_a_bad_checkpoint(tmp_path, content):
    path = checkpoint.save(tmp_path, 1, {"trainee": {"w": torch.zeros(1)}}, {})
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="step00000001"):
        checkpoint.read(path)


def test_a4_an_optimiser_of_parameters_in_another_order_is_refused():
    """As another version of a network might have them: torch looks at nothing but how many there are."""
    wide, high = torch.nn.Linear(3, 1, bias=False), torch.nn.Linear(1, 3, bias=False)
    before = torch.optim.AdamW([wide.weight, high.weight])
    (wide(torch.ones(1, 3)) + high(torch.ones(1, 1)).sum()).sum().backward()
    before.step()
    saved = checkpoint.optimizer_tensors(before)
    checkpoint.restore_optimizer(torch.optim.AdamW([wide.weight, high.weight]), saved)
    with pytest.raises(DataError, match=r"has exp_avg \[1, 3\] for a parameter that is \[3, 1\]"):
        checkpoint.restore_optimizer(torch.optim.AdamW([high.weight, wide.weight]), saved)
