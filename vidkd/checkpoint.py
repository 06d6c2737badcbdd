"""Checkpoints: written whole or not at all, verified before they are read, pruned only once a newer one is whole.

A checkpoint is a folder `step00000042` of safetensors files and a manifest.json with the size and sha256 of each, and
of itself, written last. It is made under a `.tmp-` name and renamed: a folder without a prefix is complete.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vidkd.errors import DataError

Groups = Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor
KEPT = 2
NAME = re.compile(r"step(\d{8,})\+?")
AGAIN = "+"  # after the name of one that is to take the place of an older one of the same step
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError)
MANIFEST_BYTES = 64_000_000  # more than the names of a million clips: anything else is a mistake or an attack
ASIDE = "aside-"  # before the name of one that a run resumed from an older one will not read again


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that verified."""

    path: Path
    step: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, step: int, groups: Groups, state: dict[str, Any], keep: int = KEPT) -> Path:
    """Publish `groups` and the JSON-able `state` as the checkpoint of `step`; then prune all but the newest `keep`.

    DataError, and nothing published or pruned, for non-finite weights (a diverged run must not push good checkpoints
    out) and where it cannot be written.
    """
    for stem, tensors in groups.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DataError(f"checkpoint of step {step}: {stem}/{name} is not finite; nothing was written")
    final, partial = folder / f"step{step:08d}", folder / f".tmp-step{step:08d}"
    again = folder / f"{final.name}{AGAIN}"
    plain = {s: {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()} for s, tensors in groups.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        if again.exists():  # of a save that was cut short: newer than the one whose place it should take
            _replace(final, again)
        partial.mkdir()
        files = {}
        for stem, tensors in plain.items():
            files[f"{stem}.safetensors"] = _write(partial / f"{stem}.safetensors", safetensors.torch.save(tensors))
        manifest = {"step": step, "state": state, "files": files}
        _write(partial / "manifest.json", json.dumps(manifest | {"sha256": _digest(manifest)}, indent=1).encode())
        sync_folder(partial)
        if final.exists():  # at every instant one of them is there
            partial.rename(again)
            sync_folder(folder)
            _replace(final, again)
        else:
            partial.rename(final)
        sync_folder(folder)
    except OSError as error:
        size = sum(t.nbytes for tensors in plain.values() for t in tensors.values())
        raise DataError(
            f"{final}: the checkpoint of {size:,} bytes could not be written ({error.strerror}). Those before it "
            "are untouched: mend that, then run the same command again"
        ) from error
    for old in complete(folder)[:-keep]:
        _delete(old)
    return final


def _delete(path: Path) -> None:
    """Never half of it under its own name."""
    if path.is_symlink():  # what lies behind it is not ours
        path.unlink()
    else:
        # What somebody reads at this moment may stay on a network disk (.nfs...): the next start of a run deletes it.
        shutil.rmtree(path.rename(path.with_name(f".tmp-{path.name}")), ignore_errors=True)


def _replace(final: Path, again: Path) -> None:
    if final.exists():
        _delete(final)
    again.rename(final)


def seconds_to_write(folder: Path, tensors: Mapping[str, Tensor]) -> float:
    """How long it takes to have `tensors` on the disk of `folder`; they are deleted again. DataError if it cannot."""
    started, partial = time.monotonic(), folder / ".tmp-timed"
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    try:
        _write(partial, content)
    except OSError as error:
        raise DataError(
            f"{folder}: {len(content):,} bytes could not be written ({error.strerror}), and a checkpoint of this run "
            "has more; mend that, or choose another disk with out=..."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return time.monotonic() - started


def newest(folder: Path) -> tuple[Saved, list[str]] | None:
    """The newest checkpoint that verifies, and what was wrong with newer ones.

    None if there is none at all; DataError if there are some and all of them are bad.
    """
    complaints = []
    for path in reversed(complete(folder)):
        try:
            return read(path), complaints
        except DataError as error:
            complaints.append(str(error))
    if complaints:
        raise DataError("no checkpoint can be trusted: " + "; ".join(complaints) + ". Start anew with --resume never")
    return None


def read(path: Path) -> Saved:
    """The checkpoint in the folder `path`; DataError, naming the file, for anything in it that is not as it was."""
    try:
        manifest = json.loads(whole_file(path / "manifest.json", MANIFEST_BYTES))
        if (stated := manifest.pop("sha256", None)) is None:
            raise DataError(f"{path / 'manifest.json'}: has no checksum of its own (was an older vidkd at work?)")
        if stated != _digest(manifest):
            raise DataError(f"{path / 'manifest.json'}: its checksum is wrong")
        groups = {}
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                raise DataError(f"{path / 'manifest.json'}: {name!r} is no file of this folder")
            found = whole_file(path / name, expected["bytes"])
            if len(found) != expected["bytes"] or hashlib.sha256(found).hexdigest() != expected["sha256"]:
                raise DataError(f"{path / name}: its checksum is not the one in manifest.json")
            groups[Path(name).stem] = safetensors.torch.load(found)
        if (named := NAME.fullmatch(path.name)) and int(named[1]) != manifest["step"]:
            raise DataError(f"{path}: holds the checkpoint of step {manifest['step']}")
        if type(manifest["step"]) is not int or not isinstance(manifest["state"], dict) or not groups:
            raise DataError(f"{path / 'manifest.json'}: names no step, no state or no file")
        return Saved(path, manifest["step"], groups, manifest["state"])
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a whole checkpoint ({error})") from None


def student_tensors(path: Path) -> dict[str, Tensor]:
    """The student that the checkpoint `path` would be evaluated as: the best on val, the averaged, or the last one."""
    groups = read(path).groups
    if best := groups.get("best"):
        return best
    group, prefix = ("ema", "module.") if "ema" in groups else ("trainee", "student.")
    return {name.removeprefix(prefix): t for name, t in groups[group].items() if name.startswith(prefix)}


def complete(folder: Path) -> list[Path]:
    """The published checkpoints, oldest first."""
    found = {path: NAME.fullmatch(path.name) for path in folder.glob("step*") if path.is_dir()}
    return sorted((p for p, match in found.items() if match), key=lambda path: (step_of(path), path.name))


def step_of(path: Path) -> int:
    """The step that the name of a published checkpoint says."""
    return int(path.name.removeprefix("step").removesuffix(AGAIN))


def set_aside(path: Path) -> Path:
    """Give a published checkpoint a name under which it is neither resumed nor counted; its new path."""
    aside = path.with_name(ASIDE + path.name)
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat. Its groups are not saved: the configuration makes them again."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def restore_module(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a module every tensor of its state. LookupError or RuntimeError if one is missing, unknown or of another
    shape; load_state_dict alone makes up the counts of batch normalisation where they are missing."""
    if missing := sorted(module.state_dict().keys() - tensors.keys()):
        raise LookupError(f"{missing[0]} is missing")
    module.load_state_dict(tensors)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; DataError if the state is of other parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if state and max(state) >= len(parameters):
        raise DataError(
            f"the checkpoint's optimiser has {max(state) + 1} parameters or more, this run's has {len(parameters)}"
        )
    for index, entry in state.items():  # torch would take them, and fail in the first step, or not at all
        for key, tensor in entry.items():
            if tensor.ndim and tensor.shape != parameters[index].shape:
                raise DataError(
                    f"the checkpoint's optimiser has {key} {list(tensor.shape)} for a parameter that is "
                    f"{list(parameters[index].shape)}"
                )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whole or not at all, and on the disk when this returns."""
    partial = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        _write(partial, content)
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk it would hold what room is left
        raise
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where its disk can (some network disks flush no folders)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def opener(path: str, flags: int) -> int:
    """For `open`: never through a link, which somebody may have planted in a folder that others can write to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def whole_file(path: Path, most: int) -> bytes:
    """What a file of at most `most` bytes holds; DataError for a bigger one, and for none (a pipe never ends)."""
    if path.exists() and (not path.is_file() or path.stat().st_size > most):
        raise DataError(f"{path}: is no file of at most {most:,} bytes")
    return path.read_bytes()


def _write(path: Path, content: bytes) -> dict[str, Any]:
    try:
        with open(path, "wb", opener=opener) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of a full disk, Python does not say where
        raise OSError(error.errno, error.strerror, str(path)) from None
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
