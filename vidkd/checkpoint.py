"""Checkpoints: written whole or not at all, verified before they are read, pruned only once a newer one is whole.

A checkpoint is a folder `step00000042` of safetensors files and a manifest.json with the size and sha256 of each,
written last. It is made under a `.tmp-` name and renamed: a folder without that prefix is complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from vidkd.errors import DataError

Groups = Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor


def save(folder: Path, step: int, groups: Groups, state: dict[str, Any], keep: int = 2) -> Path:
    """Publish `groups` and the JSON-able `state` as the checkpoint of `step`; then prune all but the newest `keep`.

    DataError for non-finite weights: a diverged run must not push good checkpoints out.
    """
    for stem, tensors in groups.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DataError(f"checkpoint of step {step}: {stem}/{name} is not finite; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"step{step:08d}", folder / f".tmp-step{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    files = {}
    for stem, tensors in groups.items():
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        files[f"{stem}.safetensors"] = _write(partial / f"{stem}.safetensors", safetensors.torch.save(plain))
    manifest = {"step": step, "state": state, "files": files}
    _write(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
    if final.exists():  # the same step again: the run was resumed from an older one
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(folder)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], int, list[str]] | None:
    """The newest checkpoint that verifies: (groups, state, step, what was wrong with newer ones).

    None if there is none at all; DataError if there are some and all of them are bad.
    """
    complaints = []
    for path in reversed(complete(folder)):
        try:
            groups, manifest = _read(path)
        except DataError as error:
            complaints.append(str(error))
            continue
        return groups, manifest["state"], manifest["step"], complaints
    if complaints:
        raise DataError("no checkpoint can be trusted: " + "; ".join(complaints) + ". Start anew with --resume never")
    return None


def student_tensors(path: Path) -> dict[str, Tensor]:
    """The student that the checkpoint `path` would be evaluated as: the best on val, the averaged, or the last one."""
    groups, _ = _read(path)
    if best := groups.get("best"):
        return best
    group, prefix = ("ema", "module.") if "ema" in groups else ("trainee", "student.")
    return {name.removeprefix(prefix): t for name, t in groups[group].items() if name.startswith(prefix)}


def complete(folder: Path) -> list[Path]:
    """The published checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step*") if p.is_dir())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat. Its groups are not saved: the configuration makes them again."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; DataError if the state is of other parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    current = optimizer.state_dict()
    count = sum(len(group["params"]) for group in current["param_groups"])
    if state and max(state) >= count:
        raise DataError(f"the checkpoint's optimiser has {max(state) + 1} parameters or more, this run's has {count}")
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whole or not at all, and on the disk when this returns."""
    partial = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    _write(partial, content)
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        groups = {}
        for name, expected in manifest["files"].items():
            content = (path / name).read_bytes()
            if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
                raise DataError(f"{path / name}: its checksum is not the one in manifest.json")
            groups[Path(name).stem] = safetensors.torch.load(content)
        return groups, {"state": manifest["state"], "step": int(manifest["step"])}
    except (OSError, KeyError, TypeError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: not a whole checkpoint ({error})") from None
