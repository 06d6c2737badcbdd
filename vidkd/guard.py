"""No NaN and no infinity reaches a weight: the terms, teacher answers and gradients of a step are checked before it.

The step is refused on every process alike, and the guilty micro-batches are left on the disk.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vidkd import checkpoint
from vidkd.distributed import any_rank, gather_objects, rank
from vidkd.errors import DataError
from vidkd.run_dir import BAD_BATCHES
from vidkd.types import ClipBatch, View

LEFT = 20  # files of bad batches, at most: a run that leaves out such steps must not fill its disk with them


class DivergedError(DataError):
    """A loss, a gradient or an answer of the teacher stopped being a number; no weight was changed by it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One micro-batch and, by name, whether all that it led to is finite (a flag, still on the device)."""

    clips: tuple[str, ...]
    again: Callable[[], ClipBatch]
    finite: dict[str, Tensor]


@dataclass
class Guard:
    """What the micro-batches of one step brought, until the step is known to be sound.

    On the device it holds a flag for each thing that was noted and nothing of a batch: accumulation is there to save
    that memory."""

    out: Path
    seen: list[Seen] = field(default_factory=list)

    def add(
        self, clips: tuple[str, ...], again: Callable[[], ClipBatch], teacher: View | None, terms: dict[str, Tensor]
    ) -> None:
        """Note a micro-batch, which `again` would make once more; the causes before what they cause."""
        parts: dict[str, Tensor] = {}
        if teacher is not None:
            parts = {"teacher logits": teacher.logits} | {f"teacher tap {k}": t for k, t in teacher.taps.items()}
        self.seen.append(Seen(clips, again, {name: torch.isfinite(t).all() for name, t in (parts | terms).items()}))

    def check(self, step: int, norms: dict[str, float], device: torch.device) -> str:
        """What was not finite, where, and of which clips, on every process, if anything that was noted, or a gradient
        norm, is not finite on any of them; "" if all is. The batches are then on the disk."""
        flags = torch.stack([flag for seen in self.seen for flag in seen.finite.values()]).tolist()
        names = [(seen, name) for seen in self.seen for name in seen.finite]
        wrong = [pair for pair, finite in zip(names, flags, strict=True) if not finite]
        causes = list(dict.fromkeys(name for _, name in wrong))
        gradients = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if not any_rank(bool(causes or gradients), device):
            return ""
        # One process's bad term makes every process's gradients bad: they are named only where nothing else is.
        elsewhere = any(gather_objects(causes))
        bad = causes or ([] if elsewhere else gradients)
        guilty = [seen for seen in self.seen if any(seen is s for s, _ in wrong)]
        kept = (guilty or self.seen) if bad else []
        found = gather_objects((bad, [clip for seen in kept for clip in seen.clips]))
        where = self._leave(step, bad, kept) if bad else str(self.out / BAD_BATCHES)
        said = [
            f"{', '.join(bad)}{f' on process {k}' if len(found) > 1 else ''}. Clips: {', '.join(clips)}"
            for k, (bad, clips) in enumerate(found)
            if bad
        ]
        return (
            f"step {step}: not finite: {'; '.join(said)}. No weight was changed by this step. The batch is left in "
            f"{where}"
        )

    def _leave(self, step: int, bad: list[str], seen: list[Seen]) -> str:
        """Write the batches for whoever looks for the cause; where they are, or why they are nowhere."""
        stem = self.out / BAD_BATCHES / f"step{step:08d}_process{rank()}"
        if len(list(stem.parent.glob("*.safetensors"))) >= LEFT:
            return f"no file ({stem.parent} holds {LEFT} already)"
        tensors = {
            f"{i}.{name}": t.detach().cpu().contiguous()
            for i, batch in enumerate(s.again() for s in seen)
            for name, t in [*batch.views.items(), ("label", batch.label), ("address", batch.address)]
            if t is not None
        }
        about = {"step": step, "not_finite": bad, "clips": [s.clips for s in seen]}
        try:
            stem.parent.mkdir(exist_ok=True)
            checkpoint.write_atomic(stem.with_suffix(".safetensors"), safetensors.torch.save(tensors))
            checkpoint.write_atomic(stem.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
        except OSError as error:
            return f"no file ({error.strerror})"
        return str(stem.with_suffix(".safetensors"))
