"""The teacher paid once: its logits for K addressed augmentations of every training clip, stored and replayed.

Folder `<dir>/<key>`: key.json says all that the answers depend on; `address_0007.safetensors` holds the logits [N, K]
of address 7, with its sha256 beside it. A shard appears whole or not at all, so building can be interrupted.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from vidkd import checkpoint
from vidkd.config import Run
from vidkd.data import clips
from vidkd.data.index import Index, Part
from vidkd.distributed import barrier, gather_objects, rank, world_size
from vidkd.errors import ConfigError, DataError
from vidkd.methods._base import BaseMethod
from vidkd.taps import Frozen
from vidkd.types import ClipBatch, View

VERIFIED_CLIPS = 8  # re-run through the live teacher each time a cache is opened
MIN_COSINE = 0.999


class CachedTeacher:
    """Answers from the cache in place of the teacher."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # [addresses, N, K]
        self.addresses = len(logits)

    def replay(self, batch: ClipBatch) -> View:
        """The teacher's logits for the very views that `batch` was made of."""
        assert batch.address is not None
        address, position = batch.address.cpu().unbind(1)
        logits = self.logits[address % self.addresses, position]
        return View(logits.float().to(batch.label.device), {})


def check(run: Run, methods: list[BaseMethod]) -> None:
    """ConfigError if a method reads more of the teacher than the cache holds, or if clips are mixed."""
    augment = run.data.augment
    if augment.mixup_alpha or augment.cutmix_alpha:
        raise ConfigError("teacher.cache holds single clips: set data.augment.mixup_alpha and cutmix_alpha to 0")
    for method in methods:
        if method.teacher_taps() or method.needs_input:
            raise ConfigError(
                f"teacher.cache holds logits, but {method.config.kind} also reads the teacher's "
                f"{', '.join(method.teacher_taps()) or 'input'}: remove teacher.cache"
            )


def open_cache(run: Run, index: Index, part: Part, teacher: Frozen, device: torch.device) -> CachedTeacher:
    """The cache of this run's teacher, built where it is not there yet, and verified against the live teacher."""
    assert run.teacher is not None and run.teacher.cache is not None
    key = cache_key(run, index)
    folder = run.teacher.cache.dir / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        checkpoint.write_atomic(folder / "key.json", json.dumps(key, indent=1, sort_keys=True).encode())
    with _builder(folder):
        for address in range(run.teacher.cache.views):
            if not _shard(folder, address).with_suffix(".json").exists():
                _build(run, part, teacher, device, folder, address)
    logits = torch.stack([_read(folder, address) for address in range(run.teacher.cache.views)])
    _verify(run, part, teacher, device, logits, folder)
    return CachedTeacher(logits)


@contextmanager
def _builder(folder: Path) -> Iterator[None]:
    """One run builds at a time; another that wants the same cache waits here, then finds it built."""
    with (folder / ".lock").open("a") as lock:
        if rank() == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        barrier()
        yield


def cache_key(run: Run, index: Index) -> dict[str, Any]:
    """Everything the stored answers depend on."""
    assert run.teacher is not None and run.teacher.cache is not None
    data = run.data.model_dump(mode="json", include={"split", "train", "seed", "clip", "short", "augment", "decoder"})
    teacher = run.teacher.model_dump(mode="json", include={"name", "options", "view", "adapt", "reset_head"})
    weights = weights_checksum(run.teacher.weights)
    precision = {"mixed_precision": run.teacher_precision, "dtype": run.teacher.cache.dtype}
    return {"format": 1, "index": index.checksum(), "data": data, "teacher": teacher, "weights": weights, **precision}


def weights_checksum(path: Path | None) -> str | None:
    """sha256 of a weights file, or of student.safetensors in a run directory."""
    if path is None:
        return None
    file = path / "student.safetensors" if path.is_dir() else path
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None


def _build(run: Run, part: Part, teacher: Frozen, device: torch.device, folder: Path, address: int) -> None:
    assert run.teacher is not None and run.teacher.cache is not None
    size = run.train.eval_batch_size or run.train.batch_size
    mine = [(address, i) for i in range(rank(), len(part), world_size())]
    title = f"teacher cache {address + 1}/{run.teacher.cache.views}"
    answers = dict(_answers(run, part, teacher, device, mine, size, title))
    everywhere = {i: row for rows in gather_objects(answers) for i, row in rows.items()}
    if rank() == 0:
        dtype = torch.float16 if run.teacher.cache.dtype == "fp16" else torch.float32
        logits = torch.stack([everywhere[i] for i in range(len(part))]).to(dtype)
        content = safetensors.torch.save({"logits": logits})
        checkpoint.write_atomic(_shard(folder, address), content)
        proof = json.dumps({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        checkpoint.write_atomic(_shard(folder, address).with_suffix(".json"), proof.encode())
    barrier()


def _answers(
    run: Run, part: Part, teacher: Frozen, device: torch.device, keys: list[tuple[int, int]], size: int, title: str
) -> list[tuple[int, Tensor]]:
    """The live teacher's logits for addressed clips: (position, [K])."""
    portions = [keys[i : i + size] for i in range(0, len(keys), size)]
    views = {"teacher": run.views()["teacher"]}
    data = run.data.model_copy(update={"on_error": "raise"})  # a replaced clip would leave a hole in the cache
    loader = clips.train_loader(part, data, views, portions, run.seed, run.teacher.cache.views)  # pyright: ignore[reportOptionalMemberAccess]
    rows: list[tuple[int, Tensor]] = []
    for batch in tqdm(loader, desc=title, unit="batch", disable=not title or rank() > 0, leave=False):
        logits = teacher(batch.seen_by("teacher").to(device)).logits.float().cpu()
        assert batch.address is not None
        rows += zip(batch.address[:, 1].tolist(), logits, strict=True)
    return rows


def _read(folder: Path, address: int) -> Tensor:
    path = _shard(folder, address)
    try:
        content, proof = path.read_bytes(), json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete {folder} to build the cache again") from None
    if proof.get("sha256") != hashlib.sha256(content).hexdigest():
        raise DataError(f"{path}: its checksum is wrong; delete {folder} to build the cache again")
    return safetensors.torch.load(content)["logits"]


def _verify(run: Run, part: Part, teacher: Frozen, device: torch.device, logits: Tensor, folder: Path) -> None:
    """DataError unless the live teacher still says what was stored, on a few clips spread over the cache."""
    addresses, n = logits.shape[:2]
    keys = [(j % addresses, j * n // VERIFIED_CLIPS) for j in range(min(VERIFIED_CLIPS, n))]
    for (address, i), (position, live) in zip(keys, _answers(run, part, teacher, device, keys, 4, ""), strict=True):
        assert i == position
        cosine = float(F.cosine_similarity(live, logits[address, i].float(), dim=0))
        if not cosine > MIN_COSINE:
            name = part[i].name
            raise DataError(f"{folder}: the live teacher disagrees on {name} (cosine {cosine:.4f}); delete it")


def _shard(folder: Path, address: int) -> Path:
    return folder / f"address_{address:04d}.safetensors"
