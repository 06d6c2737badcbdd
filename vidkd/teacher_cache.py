"""The teacher paid once: its answers to K addressed augmentations of every training clip, stored and replayed.

What is stored are the logits, the taps that the run's methods read and those that `teacher.cache.taps` adds; a grid
whose runs read different taps shares one folder, `<dir>/<key>`, where key.json says all that the answers depend on.
Building can be interrupted at any moment and shared by processes (teacher_store.py has the files).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from vidkd import checkpoint, distributed, locks
from vidkd.config import Cache, Run
from vidkd.data import clips
from vidkd.data.index import Index, Part
from vidkd.distributed import gather_objects, rank, world_size
from vidkd.errors import ConfigError, DataError
from vidkd.methods._base import BaseMethod
from vidkd.models import cost, weights
from vidkd.taps import Frozen
from vidkd.teacher_store import Store
from vidkd.types import ClipBatch, View

POLL_S = 1.0  # between two looks at whether another run has built the cache
VERIFIED_CLIPS = 8  # re-run through the live teacher each time a cache is opened
MIN_COSINE = 0.999
Answers = dict[str, Tensor]  # "logits" and taps, of one clip


class CachedTeacher:
    """Answers from the cache in place of the teacher.

    `normalise` is the teacher's, where a method reads its input: that view is then made anew, by the same address.
    """

    def __init__(
        self, store: Store, names: Sequence[str], normalise: Callable[[Tensor], Tensor] | None, verdict: str
    ) -> None:
        self.store, self.names, self.normalise, self.verdict = store, names, normalise, verdict
        self.addresses = store.addresses

    def replay(self, batch: ClipBatch) -> View:
        """What the teacher said of the very views that `batch` was made of."""
        assert batch.address is not None
        where = [(address % self.addresses, position) for address, position in batch.address.tolist()]
        said = {name: self.store.rows(name, where).to(batch.label.device) for name in self.names}
        video = self.normalise(batch.seen_by("teacher")) if self.normalise else None
        return View(said.pop("logits"), said, video)


def check(run: Run) -> None:
    """ConfigError if what the teacher says of a clip is not its own: mixed clips, or an attention over the batch."""
    augment = run.data.augment
    if augment.mixup_alpha or augment.cutmix_alpha:
        raise ConfigError("teacher.cache holds single clips: set data.augment.mixup_alpha and cutmix_alpha to 0")
    pool = run.teacher.cache.pool if run.teacher is not None and run.teacher.cache is not None else None
    for i, method in enumerate(run.methods):
        if pool is not None and method.wants_whole_maps():
            raise ConfigError(
                f"teacher.cache.pool: on pooled maps methods.{i} ({method.kind}) would be another loss than the "
                f"published one that faithful: true promises; remove pool, or set methods.{i}.faithful=false"
            )
    attention = run.teacher.attention if run.teacher is not None else None
    if attention is not None and attention.reweight != "per_sample":
        raise ConfigError(
            f"teacher.cache: with teacher.attention.reweight: {attention.reweight} the answer to a clip depends on the "
            "others of its batch, which a cache cannot replay; use reweight: per_sample, or remove teacher.cache"
        )


def open_cache(
    run: Run,
    index: Index,
    part: Part,
    teacher: Frozen,
    methods: Sequence[BaseMethod],
    device: torch.device,
    say: Callable[[str], None],
) -> CachedTeacher:
    """The cache of this run's teacher: built where it is not there yet, then checked byte for byte and against the
    live teacher on a few clips. DataError if it is not what it should be. `say` hears its size before it is built."""
    assert run.teacher is not None and run.teacher.cache is not None
    section = run.teacher.cache
    names = stored(methods, section, teacher)
    key = cache_key(run, index) | ({} if part.starts is None else {"fps": run.data.fps, "starts": part.starts})
    folder = section.dir / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(key, indent=1, sort_keys=True).encode()
    distributed.on_first(lambda: checkpoint.write_atomic(folder / "key.json", content))
    store = Store(folder, section.dtype, len(part), section.views)
    with _builder(folder):
        missing = [unit for unit in store.units() if not all(store.has(name, *unit) for name in names)]
        missing = gather_objects(missing)[0]  # one list for all: the first process may have begun to write
        say(size(section, teacher, part, names) + f", {folder}: {len(missing)} of {len(store.units())} shards to build")
        distributed.on_first(lambda: _check_space(store, row_bytes(section, teacher, names)))
        for first in range(0, len(missing), world_size()):  # in step: the fastest waits for one shard, not for all
            i = first + rank()
            title = f"teacher cache {i + 1}/{len(missing)}"
            build = partial(_build, run, part, teacher, device, store, names, title=title)
            distributed.together(partial(build, missing[i]) if i < len(missing) else lambda: None)
    for name in names:
        store.verify(name)
    normalise = teacher.tapped.normalise if any(method.needs_input for method in methods) else None
    return CachedTeacher(store, names, normalise, _verify(run, part, teacher, device, store, names))


def stored(methods: Sequence[BaseMethod], section: Cache, teacher: Frozen) -> list[str]:
    """What a cache holds: the logits, then every tap that a method reads or the section names, in order. ConfigError
    for one that the teacher does not have."""
    taps = sorted({tap for method in methods for tap in method.teacher_taps()} | set(section.taps))
    for tap in taps:
        teacher.tapped.taps[tap]  # which is what complains
    return ["logits", *taps]


def size(section: Cache, teacher: Frozen, part: Part, names: Sequence[str]) -> str:
    """What the whole cache takes, in words."""
    per_view = sum(row_bytes(section, teacher, names).values())
    total = per_view * section.views * len(part)
    return (
        f"teacher cache: {' + '.join(names)} of {section.views} views of {len(part)} clips, "
        f"{per_view * section.views:,} bytes a clip ({per_view / 1024:.1f} KiB a view), {total / 2**20:.0f} MiB in all"
    )


def row_bytes(section: Cache, teacher: Frozen, names: Sequence[str]) -> dict[str, int]:
    """The bytes of what is stored of one view of one clip, by name."""
    assert teacher.tapped.clip is not None
    shapes = cost.tap_shapes(teacher.tapped, *teacher.tapped.clip)
    width = {"fp32": 4, "fp16": 2, "int8": 1}[section.dtype]
    found = {"logits": teacher.tapped.num_classes() * max(width, 2)}
    for name in names[1:]:
        maps = _pooled(torch.empty(shapes[name], device="meta"), section.pool)
        found[name] = maps.numel() * width + 4 * len(maps) * (section.dtype == "int8")  # 4: the scale
    return found


def _check_space(store: Store, each: dict[str, int]) -> None:
    """ConfigError where the disk cannot hold the shards that are missing: said before hours of building them."""
    lacks = [(name, c) for a, c in store.units() for name in each if not store.has(name, a, c)]
    needed = sum(len(store.positions(c)) * each[name] for name, c in lacks)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise ConfigError(
            f"{store.folder}: its disk has {free:,} bytes free, the cache takes {needed:,} more; make room, choose "
            "another disk with teacher.cache.dir=..., or store less: teacher.cache.views, dtype: int8, pool"
        )


@contextmanager
def _builder(folder: Path) -> Iterator[None]:
    """One run builds at a time; another that wants the same cache waits here, then finds it built."""
    with (folder / ".lock").open("a") as lock:
        # all ask: none waits for another in a collective
        while not distributed.from_first(lambda: locks.locked(lock)):
            time.sleep(POLL_S)
        yield


def cache_key(run: Run, index: Index) -> dict[str, Any]:
    """Everything the stored answers depend on."""
    assert run.teacher is not None and run.teacher.cache is not None
    data = run.data.model_dump(mode="json", include={"split", "train", "seed", "clip", "short", "augment", "decoder"})
    teacher = run.teacher.model_dump(mode="json", include={"name", "options", "view", "adapt", "reset_head"})
    if run.teacher.attention:  # else the key is what it was before there was any
        teacher["attention"] = run.teacher.attention.model_dump(mode="json")
    if run.teacher.taps:
        teacher["taps"] = run.teacher.model_dump(mode="json", include={"taps"})["taps"]
    if run.data.fps is not None:
        data["fps"] = run.data.fps
    if run.teacher.reset_attention:
        teacher["reset_attention"] = True
    if (
        run.teacher.weights is None or run.teacher.reset_head or run.teacher.reset_attention
    ):  # then part of it is drawn at random
        teacher["seed"] = run.seed
    checksum = weights.checksum(run.teacher.weights)
    stored = run.teacher.cache.model_dump(mode="json", include={"dtype", "pool"})
    precision = {"mixed_precision": run.teacher_precision, **stored}
    return {"format": 2, "index": index.checksum(), "data": data, "teacher": teacher, "weights": checksum, **precision}


def _build(
    run: Run,
    part: Part,
    teacher: Frozen,
    device: torch.device,
    store: Store,
    names: Sequence[str],
    unit: tuple[int, int],
    title: str,
) -> None:
    address, chunk = unit
    batch_size = run.train.eval_batch_size or run.train.batch_size
    keys = [(address, i) for i in store.positions(chunk)]
    assert run.teacher is not None and run.teacher.cache is not None
    answers = _answers(run, part, teacher, device, names, keys, batch_size, title)
    rows = [{name: _pooled(answer, run.teacher.cache.pool) for name, answer in of_clip.items()} for of_clip in answers]
    for name in names:
        if not store.has(name, *unit):  # what is there is what another run trained with
            store.write(name, address, chunk, torch.stack([row[name] for row in rows]))


def _answers(
    run: Run,
    part: Part,
    teacher: Frozen,
    device: torch.device,
    names: Sequence[str],
    keys: list[tuple[int, int]],
    batch_size: int,
    title: str,
) -> Iterator[Answers]:
    """What the live teacher says of addressed clips, one after another, in float32 and as whole maps."""
    assert run.teacher is not None and run.teacher.cache is not None
    portions = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    views = {"teacher": run.views()["teacher"]}
    data = run.data.model_copy(update={"on_error": "raise"})  # a replaced clip would leave a hole in the cache
    loader = clips.train_loader(part, data, views, portions, run.seed, run.teacher.cache.views)
    for batch in tqdm(
        loader, desc=title, total=len(portions), unit="batch", disable=not title or rank() > 0, leave=False
    ):
        view = teacher(batch.seen_by("teacher").to(device))
        said = {"logits": view.logits} | {name: view.taps[name] for name in names[1:]}
        for row in range(len(view.logits)):
            yield {name: tensor[row].float().cpu() for name, tensor in said.items()}


def _pooled(maps: Tensor, pool: tuple[int, int, int] | None) -> Tensor:
    """A clip's maps [C, T, H, W] averaged over areas to at most `pool` places an axis; anything else as it is."""
    if pool is None or maps.ndim != 4:
        return maps
    t, h, w = (min(n, most) for n, most in zip(maps.shape[1:], pool, strict=True))
    return F.adaptive_avg_pool3d(maps, (t, h, w))


def _verify(run: Run, part: Part, teacher: Frozen, device: torch.device, store: Store, names: Sequence[str]) -> str:
    """DataError unless the live teacher still says what was stored, on a few clips spread over the cache; else how
    close it came, and what is lost by storing it so, in two sentences."""
    assert run.teacher is not None and run.teacher.cache is not None
    n = len(part)
    keys = [(j % store.addresses, j * n // VERIFIED_CLIPS) for j in range(min(VERIFIED_CLIPS, n))]
    worst, lost = dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.0)
    for key, live in zip(keys, _answers(run, part, teacher, device, names, keys, 4, ""), strict=True):
        for name in names:
            stored, expected = store.rows(name, [key])[0], _pooled(live[name], run.teacher.cache.pool)
            cosine = float(F.cosine_similarity(expected.flatten(), stored.flatten(), dim=0))
            if not cosine > MIN_COSINE or (name == "logits" and stored.argmax() != live[name].argmax()):
                clip = part[key[1]].name
                found = f"the live teacher disagrees on the {name} of {clip} (cosine {cosine:.4f})"
                raise DataError(f"{store.folder}: {found}; delete it")
            worst[name], lost[name] = min(worst[name], cosine), max(lost[name], lost_share(live[name], stored))
    found = ", ".join(f"{name} {value:.6f}" for name, value in worst.items())
    errors = ", ".join(f"{name} {100 * value:.2g}" for name, value in lost.items())
    return (
        f"teacher cache: {len(keys)} clips compared with the live teacher, smallest cosine: {found}; largest error of "
        f"what is stored (root mean square, in % of the teacher's own): {errors}"
    )


def lost_share(live: Tensor, stored: Tensor) -> float:
    """The root mean square of what is stored less what the live teacher says, over that of the latter. Maps that were
    pooled are laid over the whole maps, each value over its area."""
    if stored.shape != live.shape:
        stored = F.interpolate(stored[None], live.shape[1:])[0]  # nearest
    return float((stored - live).norm() / live.norm().clamp_min(torch.finfo(live.dtype).tiny))
