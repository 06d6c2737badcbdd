"""A run of six steps on the tiny data set: configuration, and how two of them are compared."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vidkd.config import Run

KD = Path(__file__).parent.parent / "configs" / "motion_kd.yaml"
SMALL = ("data.clip.frames=8", "data.clip.stride=1", "student.name=tiny4", "student.options={}", "teacher.name=tiny16",
         "teacher.options={}", "student.view.frames=4", "student.view.size_px=16", "teacher.view.size_px=32",
         "teacher.weights=null", "teacher.allow_weak=true", "train.batch_size=8", "train.epochs=null", "train.steps=6",
         "train.threads=1", "train.save_every={steps: 2}", "train.log_every_steps=1", "optim.warmup=null",
         "data.workers=0", "data.augment.mixup_alpha=0.4", "optim.kind=sgd", "optim.lr=0.05")  # fmt: skip

# Of a teacher whose answers are stored, and a student that is not trained.
TAUGHT = ("teacher.name=tiny16", "teacher.options={}", "student.name=tiny4", "student.options={}",
         "teacher.weights=null", "data.workers=0", "data.clip.frames=8")  # fmt: skip


def tensors(out: Path, step: int, group: str = "trainee") -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step{step:08d}" / f"{group}.safetensors")


def weights(run: Run, step: int) -> dict[str, Tensor]:
    return tensors(run.out_dir, step)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line["loss/total"]) for line in lines(run.out_dir) if "loss/total" in line]


def same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)
