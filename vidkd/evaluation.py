"""Score every video of a part exactly once, on any number of processes, and say under which protocol."""

import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import vidkd
from vidkd import signals
from vidkd.config import Network, Run
from vidkd.data import clips, decode, sampling
from vidkd.data.index import Index, Part
from vidkd.distributed import gather_objects, rank, world_size
from vidkd.errors import DataError
from vidkd.taps import autocast
from vidkd.tasks._base import BaseTask, Scored
from vidkd.types import ClipBatch, View

DECODERS_ASKED = 50  # videos, evenly over a part: what data_prep made is read by one decoder
Keep = Callable[[View, dict[str, Tensor]], dict[str, Tensor]]  # a network's answers and their truth -> name, [B, ...]
Row = tuple[int, dict[str, Tensor]]  # a position in the part; what the task keeps of its views, name -> [V, ...]


def score(
    networks: dict[str, nn.Module],
    keep: Keep,
    run: Run,
    part: Part,
    device: torch.device,
    *,
    progress: str = "",
) -> dict[str, Scored]:
    """Score every network on the view of its name, all from one decode of each video. Networks are left in eval mode.

    `keep` is the task's `keep` (or `undecided`): what is kept of the answers to a batch.
    `progress` titles a bar on the first process; "" for none. DataError names the videos that were not scored once.
    Interrupted where a signal was noted.
    """
    size = run.train.eval_batch_size or run.train.batch_size
    videos = max(1, size // (run.data.test_views.clips * run.data.test_views.crops))
    views = {name: view for name, view in run.views().items() if name in networks}
    loader = clips.test_loader(part, run.data, views, videos, rank(), world_size())
    bar = tqdm(loader, desc=progress, unit="batch", disable=not progress or rank() > 0, leave=False, dynamic_ncols=True)
    for network in networks.values():
        network.eval()
    mine: dict[str, list[Row]] = {name: [] for name in networks}
    everywhere = len(part) // world_size() // videos  # batches that every process has
    with torch.no_grad(), autocast(device, run.train.mixed_precision):
        for done, batch in enumerate(bar):
            if done < everywhere:
                signals.check(device)
            for name, network in networks.items():
                mine[name] += _rows(_kept(network, name, keep, batch, device, size), batch)
    return {name: _once_each(rows, part) for name, rows in mine.items()}


def _kept(
    network: nn.Module, name: str, keep: Keep, batch: ClipBatch, device: torch.device, size: int
) -> dict[str, Tensor]:
    """What is kept of every row of the batch, at most `size` rows through the network at a time."""
    portions = []
    for at in range(0, len(batch.clip), size):
        extra = {key: truth[at : at + size] for key, truth in batch.extra.items()}
        portions.append(keep(network(batch.seen_by(name)[at : at + size].to(device)), extra))
    return {key: torch.cat([portion[key].cpu() for portion in portions]) for key in portions[0]}


def _rows(kept: dict[str, Tensor], batch: ClipBatch) -> Iterable[Row]:
    """The views of one row of the part lie side by side: cut them apart."""
    assert batch.address is not None
    positions, counts = batch.address[:, 1].unique_consecutive(return_counts=True)
    views = {key: t.split(counts.tolist()) for key, t in kept.items()}
    for k, position in enumerate(positions.tolist()):
        yield position, {key: pieces[k] for key, pieces in views.items()}


def _once_each(rows: list[Row], part: Part) -> Scored:
    """Join what all processes scored; every row of the part once, or DataError. Windows of a video are put together."""
    everywhere = [row for rows_of_rank in gather_objects(rows) for row in rows_of_rank]
    by_position, names = dict(everywhere), part.names()
    missing = [name for i, name in enumerate(names) if i not in by_position]
    if missing or len(everywhere) != len(names):
        twice = len(everywhere) - len(by_position)
        raise DataError(
            f"{part.root}: scored {len(by_position)} of {len(names)} videos, {twice} of them twice; "
            f"missing: {', '.join(missing[:5]) or 'none'}{' ...' if len(missing) > 5 else ''}"
        )
    of_video: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        of_video.setdefault(name, []).append(i)
    label = torch.tensor([part[own[0]].label for own in of_video.values()])
    kept: dict[str, Sequence[Tensor]] = {
        key: [torch.cat([by_position[i][key] for i in own]) for own in of_video.values()] for key in by_position[0]
    }
    return Scored(list(of_video), label, kept)


def protocol(run: Run, index: Index, task: BaseTask, part_name: str, who: str, weights: str) -> dict[str, Any]:
    """All that a figure depends on, to be written beside it (`results.side` adds how many videos were scored);
    `weights` is the checksum of those that are scored."""
    network: Network | None = run.student if who == "student" else run.teacher
    assert network is not None
    view, clip = network.view, run.data.clip
    return {
        "task": run.task.model_dump(mode="json"),
        "data_set": index.name,
        "index_sha256": index.checksum(),
        "split": run.data.split,
        "part": part_name,
        "coverage": {"expected": len(index.part(run.data.split, part_name))},
        "network": network.name,
        "options": network.options,
        "attention": network.attention and network.attention.model_dump(mode="json"),
        "weights_sha256": weights,
        "frames": view.frames or clip.frames,
        "span_frames": sampling.span(clip),
        "fps": run.data.fps,
        "stride": clip.stride * clip.frames / (view.frames or clip.frames),
        "short": run.data.short,
        "size_px": view.size_px,
        "degrade": view.degrade.model_dump(mode="json"),
        "clips": run.data.test_views.clips,
        "crops": run.data.test_views.crops,
        "windows": None if run.data.windows is None else run.data.windows.model_dump(mode="json"),
        "mixed_precision": run.teacher_precision if who == "teacher" else run.train.mixed_precision,
        "decoder": run.data.decoder,
        **task.protocol(),
    }


def decoded_by(part: Part, decoder: decode.Decoder) -> str:
    """The decoders that read the videos of the part (what `auto` comes to), by up to DECODERS_ASKED of them."""
    paths = list(dict.fromkeys(part.column("path")))
    asked = paths[:: -(-len(paths) // DECODERS_ASKED)]
    return ", ".join(sorted({decode.decoder_of(part.root / path, decoder) for path in asked}))


def environment() -> dict[str, Any]:
    """Versions and the commit: what a figure may depend on besides its protocol."""
    packages = ("torch", "torchvision", "accelerate", "numpy", "pytorchvideo")
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
    here = str(Path(vidkd.__file__).parent)

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", here, *args],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
