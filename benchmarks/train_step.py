"""What a teacher costs a training step: student alone, live teacher (fp32, bf16) and cached teacher.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py CONFIG [KEY=VALUE ...] [--steps 30] [--clips 64] [--pool 2 2 2]

The steps are those of training CONFIG (vidkd.trainer.update, the loader included), by all variants in turn, so that a
busy machine slows all alike; a ratio is the median over rounds of variant / student alone, of whole steps and of what
is left of them without the waiting for clips. The methods are logits and feature_consistency on the late tap, which the
cache holds averaged to POOL places in t, h, w. Only CLIPS clips are used, and cached in a temporary folder. Beside the
ratios: where a step goes, in ms, and peak memory, of a process of its own that takes three steps of one variant
(resident on a CPU, allocated on a GPU).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vidkd import config_file, distiller, processes, teacher_cache, trained, trainer
from vidkd.data import index
from vidkd.data.index import Part
from vidkd.section import in_steps
from vidkd.stopwatch import PARTS, Stopwatch

METHODS = "[{kind: logits, weights: {kd: 0.9}}, {kind: feature_consistency, form: both, faithful: false}]"
ALONE = "student alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=30, help="rounds, after one to warm up")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--pool", type=int, nargs=3, default=(2, 2, 2), metavar="N")
    parser.add_argument("--only", help="three steps of one variant, and its peak memory")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder)
        variants = words(args.overrides, args.pool, cache)
        if args.only:
            made = Variant(args.config, variants[args.only], args.clips, 4)
            for _ in range(3):
                made.step()
            print(f"peak {made.peak_mib():.0f}")
            return
        where = f"{torch.get_num_threads()} thread(s), {machine()}; load {os.getloadavg()[0]:.1f}"
        print(f"torch {torch.__version__}, {where}")
        report(measure(args.config, variants, args.clips, args.steps), peaks(cache, variants))


def words(overrides: list[str], pool: tuple[int, int, int], cache: Path) -> dict[str, list[str]]:
    """Variant -> overrides of the configuration."""
    taught = [*overrides, f"methods={METHODS}", "teacher.cache=null", "data.augment.mixup_alpha=0"]
    stored = f"teacher.cache={{views: 1, pool: {list(pool)}, dir: {cache}}}"
    return {
        ALONE: [*overrides, "teacher=null", "methods=[]", "data.augment.mixup_alpha=0"],
        "live teacher, fp32": [*taught, "teacher.mixed_precision=no"],
        "live teacher, bf16": [*taught, "teacher.mixed_precision=bf16"],
        "cached teacher": [*taught, stored],
    }


class Variant:
    """One way to train, ready to take steps."""

    def __init__(self, config: Path, overrides: list[str], count: int, steps: int) -> None:
        self.run = in_steps(config_file.load(config, [*overrides, "train.epochs=null", f"train.steps={steps}"]), 1000)
        data_set = index.read(self.run.data.root)
        self.task = distiller.build_task(self.run, data_set.classes)
        whole = data_set.part(self.run.data.split, self.run.data.train)
        part = Part(whole.root, whole.table.slice(0, count), whole.labels.slice(0, count))
        part.truth = self.task.truth
        torch.manual_seed(self.run.seed)
        self.accelerator = processes.make_accelerator(self.run)
        self.trainee, teacher, _ = distiller.build(self.run, len(data_set.classes))
        self.guide: Any = teacher
        if teacher is not None:
            teacher.to(self.accelerator.device)
            if self.run.teacher and self.run.teacher.cache:
                methods = self.trainee.each_method()
                self.guide = teacher_cache.open_cache(
                    self.run, data_set, part, teacher, methods, self.accelerator.device, lambda text: None
                )
        self.state = trained.prepare(self.run, self.accelerator, self.trainee)
        self.batches: Iterator[Any] = iter(trainer.train_loader(self.run, part, 0, self.accelerator, self.guide))
        self.watch = self.trainee.watch = Stopwatch(self.accelerator.device)
        self.trainee.train()

    def step(self) -> dict[str, float]:
        """One training step: the seconds of all of it and of its parts."""
        _, figures = trainer.update(
            self.run, self.state, self.batches, self.guide, self.task, self.accelerator, self.watch, print
        )
        self.state.step += 1
        return {part: figures.get(f"time/{part}_s", 0.0) for part in ("step", *PARTS)}

    def peak_mib(self) -> float:
        """The most memory so far: of the device, or, on a CPU, of this process (its own: what getrusage says of a child
        is at least what its parent held)."""
        if self.accelerator.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def measure(config: Path, variants: dict[str, list[str]], count: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """Variant -> the seconds of each of its steps, round by round."""
    made = {name: Variant(config, overrides, count, steps + 1) for name, overrides in variants.items()}
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in made}
    for i in range(steps + 1):
        names = list(made)
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody is always the first
            lap = made[name].step()
            if i:
                laps[name].append(lap)
    return laps


def peaks(cache: Path, variants: dict[str, list[str]]) -> dict[str, float]:
    """Variant -> MiB at most, each in a process of its own."""
    found = {}
    for name in variants:
        command = [sys.executable, *sys.argv, "--only", name, "--cache", str(cache)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = float(said.rsplit("peak ", 1)[1])
    return found


def report(laps: dict[str, list[dict[str, float]]], memory: dict[str, float]) -> None:
    """The table."""
    print(f"\n| | x student alone | x without data | ms a step | {' | '.join(PARTS)} | peak MiB |")
    print("|---|---|---|---|" + "---|" * (len(PARTS) + 1))
    for name, own in laps.items():
        rounds = list(zip(own, laps[ALONE], strict=True))
        ratio = statistics.median(a["step"] / b["step"] for a, b in rounds)
        busy = statistics.median((a["step"] - a["data"]) / (b["step"] - b["data"]) for a, b in rounds)
        ms = {part: 1000 * statistics.median(lap[part] for lap in own) for part in ("step", *PARTS)}
        shown = " | ".join(f"{ms[part]:.1f}" for part in PARTS)
        print(f"| {name} | {ratio:.2f} | {busy:.2f} | {ms['step']:.1f} | {shown} | {memory[name]:.0f} |")


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
