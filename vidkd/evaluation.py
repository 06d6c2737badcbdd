"""Score every video of a part exactly once, on any number of processes, and say under which protocol."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import vidkd
from vidkd.config import Network, Run
from vidkd.data import clips, decode, sampling
from vidkd.data.index import Index, Part
from vidkd.distributed import gather_objects, rank, world_size
from vidkd.errors import DataError
from vidkd.taps import autocast
from vidkd.tasks._base import BaseTask, Scored
from vidkd.types import ClipBatch


def score(
    networks: dict[str, nn.Module],
    task: BaseTask,
    run: Run,
    part: Part,
    device: torch.device,
    *,
    progress: str = "",
) -> dict[str, Scored]:
    """Score every network on the view of its name, all from one decode of each video. Networks are left in eval mode.

    `progress` titles a bar on the first process; "" for none. DataError names the videos that were not scored once.
    """
    size = run.train.eval_batch_size or run.train.batch_size
    videos = max(1, size // (run.data.test_views.clips * run.data.test_views.crops))
    views = {name: view for name, view in run.views().items() if name in networks}
    loader = clips.test_loader(part, run.data, views, videos, rank(), world_size())
    bar = tqdm(loader, desc=progress, unit="batch", disable=not progress or rank() > 0, leave=False, dynamic_ncols=True)
    for network in networks.values():
        network.eval()
    mine: dict[str, list[tuple[str, int, dict[str, Tensor]]]] = {name: [] for name in networks}
    with torch.no_grad(), autocast(device, run.train.mixed_precision):
        for batch in bar:
            for name, network in networks.items():
                mine[name] += _rows(_kept(network, name, task, batch, device, size), batch)
    return {name: _once_each(rows, part) for name, rows in mine.items()}


def _kept(
    network: nn.Module, name: str, task: BaseTask, batch: ClipBatch, device: torch.device, size: int
) -> dict[str, Tensor]:
    """What the task keeps of every row of the batch, at most `size` rows through the network at a time."""
    portions = [task.keep(network(video.to(device))) for video in batch.seen_by(name).split(size)]
    return {key: torch.cat([portion[key].cpu() for portion in portions]) for key in portions[0]}


def _rows(kept: dict[str, Tensor], batch: ClipBatch) -> Iterable[tuple[str, int, dict[str, Tensor]]]:
    """The rows of one video lie side by side: cut them into videos."""
    start = 0
    while start < len(batch.clip):
        end = start
        while end < len(batch.clip) and batch.clip[end] == batch.clip[start]:
            end += 1
        yield batch.clip[start], int(batch.label[start]), {key: t[start:end] for key, t in kept.items()}
        start = end


def _once_each(rows: list[tuple[str, int, dict[str, Tensor]]], part: Part) -> Scored:
    """Join what all processes scored; every video of the part once, or DataError."""
    everywhere = [row for rows_of_rank in gather_objects(rows) for row in rows_of_rank]
    by_id = {name: (label, kept) for name, label, kept in everywhere}
    ids = part.names()
    missing = [name for name in ids if name not in by_id]
    if missing or len(everywhere) != len(ids):
        twice = len(everywhere) - len(by_id)
        raise DataError(
            f"{part.root}: scored {len(by_id)} of {len(ids)} videos, {twice} of them twice; "
            f"missing: {', '.join(missing[:5]) or 'none'}{' ...' if len(missing) > 5 else ''}"
        )
    label = torch.tensor([by_id[name][0] for name in ids])
    keys = by_id[ids[0]][1].keys()
    return Scored(ids, label, {key: torch.stack([by_id[name][1][key] for name in ids]) for key in keys})


def protocol(run: Run, index: Index, part_name: str, who: str, scored: int, weights: str) -> dict[str, Any]:
    """All that a figure depends on, to be written beside it."""
    network: Network | None = run.student if who == "student" else run.teacher
    assert network is not None
    view, clip = network.view, run.data.clip
    expected = len(index.part(run.data.split, part_name))
    return {
        "task": run.task.model_dump(mode="json"),
        "data_set": index.name,
        "index_sha256": index.checksum(),
        "split": run.data.split,
        "part": part_name,
        "coverage": {"scored": scored, "expected": expected},
        "network": network.name,
        "options": network.options,
        "weights_sha256": weights,
        "frames": view.frames or clip.frames,
        "span_frames": sampling.span(clip),
        "stride": clip.stride * clip.frames / (view.frames or clip.frames),
        "short": run.data.short,
        "size_px": view.size_px,
        "degrade": view.degrade.model_dump(mode="json"),
        "clips": run.data.test_views.clips,
        "crops": run.data.test_views.crops,
        "mixed_precision": run.teacher_precision if who == "teacher" else run.train.mixed_precision,
        "decoder": run.data.decoder,
    }


def environment() -> dict[str, Any]:
    """Versions and the commit: what a figure may depend on besides its protocol."""
    packages = ("torch", "torchvision", "accelerate", "numpy")
    return {
        "vidkd": vidkd.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "decoders": decode.decoder_versions(),
        "git_commit": git_commit(),
        "machine": platform.machine(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def git_commit() -> str | None:
    """The commit of this source tree, with `+` if it was changed since; None where there is no git."""
    here = Path(vidkd.__file__).parent
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
