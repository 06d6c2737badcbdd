"""The teacher scored once: what it answered to a test part is kept beside its cache, for every run that it teaches.

A grid of a hundred students of one teacher would score that teacher a hundred times on the same videos. Where a run
has `teacher.cache`, `<dir>/scores/<key>.safetensors` holds what the task keeps of its answers; the key is made of all
that they depend on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vidkd import checkpoint
from vidkd.config import Run
from vidkd.data import decode
from vidkd.errors import DataError
from vidkd.tasks._base import Scored

FORMAT = 1


def place(run: Run, protocol: dict[str, Any]) -> Path | None:
    """Where the teacher's answers under `protocol` (`evaluation.protocol`) are or will be; None without a cache."""
    if run.teacher is None or run.teacher.cache is None:
        return None
    key = protocol | {
        "format": FORMAT,
        "task": run.task.model_dump(mode="json", exclude=set(run.task.only_teaches)),
        "data_seed": run.data.seed,  # by which a view's noise is drawn
        "decoders": decode.decoder_versions(),
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return run.teacher.cache.dir / "scores" / f"{digest[:16]}.safetensors"


def keep(path: Path, scored: Scored) -> None:
    """Write them: whole or not at all. OSError where the disk does not take it."""
    tensors = {"label": scored.label}
    for name, rows in scored.kept.items():
        tensors[f"kept/{name}"] = torch.cat(list(rows)).contiguous()
        tensors[f"views/{name}"] = torch.tensor([len(row) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"ids": json.dumps(scored.ids), "sha256": _digest(tensors, scored.ids)}
    checkpoint.write_atomic(path, safetensors.torch.save(tensors, said))


def read(path: Path) -> Scored | None:
    """What was kept; None where nothing was. DataError if it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        ids = json.loads(header["ids"])
        if header["sha256"] != _digest(tensors, ids):
            raise ValueError("its checksum is wrong")
        names = [name.removeprefix("kept/") for name in tensors if name.startswith("kept/")]
        rows: dict[str, Sequence[Tensor]] = {
            name: tensors[f"kept/{name}"].split(tensors[f"views/{name}"].tolist()) for name in names
        }
        return Scored(ids, tensors["label"], rows)
    except (ValueError, LookupError, TypeError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it, and the teacher is scored again") from None


def _digest(tensors: Mapping[str, Tensor], ids: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(ids).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
