"""What a clip costs: decoding alone, and the whole loader around it.

    python benchmarks/clip_loading.py ROOT [ROOT ...] [--clips 100] [--soak 5000]

Each ROOT is a prepared data set (python -m data_prep ..., or with --copy to measure originals). Rows are interleaved:
every clip, 16 frames 2 apart at a random place, is made by all of them in turn, so a busy machine slows all alike.
CPU ms are user + system time of this process, all threads: the mean over clips, its ratio to the first row and clips a
second of one core. Views: teacher 112 px, student 56 px.
"""

import argparse
import os
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vidkd.config import Augment, ClipSpec, Data, RandAugment, ViewSpec
from vidkd.data import clips, index, sampling
from vidkd.data.index import Part
from vidkd.data.loading import collate

VIEWS = {"teacher": ViewSpec(size_px=112), "student": ViewSpec(size_px=56)}
SPEC = ClipSpec(frames=16, stride=2)
AUGMENTS = {
    "crop and flip": Augment(),
    "crop, flip, colour jitter": Augment(color_jitter=0.4),
    "crop, flip, colour jitter, RandAugment": Augment(color_jitter=0.4, randaugment=RandAugment()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=100, help="clips of each root")
    parser.add_argument(
        "--soak", type=int, default=0, help="then as many clips more, to see memory and files stay flat"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {root.name: whole(root) for root in args.roots}
    times = {name: measure(part, args.clips) for name, part in parts.items()}
    print(f"{args.clips} clips each; load {os.getloadavg()[0]:.1f}\n")
    print(f"| CPU ms a clip | {' | '.join(parts)} |\n|---|{'---|' * len(parts)}")
    for row in next(iter(times.values())):
        cells = []
        for columns in times.values():
            ms = 1000 * statistics.fmean(columns[row])
            ratio = ms / 1000 / statistics.fmean(columns["bare decord"])
            cells.append(f"{ms:.1f} ({ratio:.2f}x, {1000 / ms:.0f}/s)")
        print(f"| {row} | {' | '.join(cells)} |")
    for name, part in parts.items():
        for workers in range((os.cpu_count() or 1) + 1):
            print(f"{name}: {throughput(part, workers):.1f} clips/s with {workers} workers")
    if args.soak:
        soak(next(iter(parts.values())), args.soak)


def whole(root: Path) -> Part:
    """Every video of the data set."""
    data_set = index.read(root)
    return Part(root, data_set.table, index.pa.array([0] * len(data_set.table)))


def settings(augment: Augment | None = None, **more: Any) -> Data:
    return Data(root=Path("."), clip=SPEC, augment=augment or Augment(), **({"workers": 0} | more))


def measure(part: Part, n: int) -> dict[str, list[float]]:
    """Row -> CPU seconds of each clip."""
    makers: dict[str, Callable[[int, int], object]] = {
        "bare decord": lambda epoch, i: bare(part, epoch, i),
    }
    for decoder in ("auto", "pyav"):
        data = settings(decoder=decoder)
        makers[f"{decoder}: frames"] = lambda epoch, i, data=data: clips.read(part[i], set(plan(part, epoch, i)), data)
        for name, augment in AUGMENTS.items():
            source = clips.TrainClips(part, settings(augment, decoder=decoder), VIEWS, run_seed=0)
            makers[f"{decoder}: two views, {name}"] = lambda epoch, i, s=source: collate([s.load((epoch, i))])
    taken: dict[str, list[float]] = {name: [] for name in makers}
    for k in range(-3, n):
        for name, make in random.Random(k).sample(
            list(makers.items()), len(makers)
        ):  # none is always after the slow one
            started = time.process_time()
            make(max(k, 0) // len(part), k % len(part))
            if k >= 0:  # the first few warm up
                taken[name].append(time.process_time() - started)
    return taken


def plan(part: Part, epoch: int, i: int) -> list[int]:
    rng, video = clips.generator(0, epoch, i), part[i]
    return sampling.indices(sampling.train_start(video.frames, sampling.span(SPEC), rng), SPEC, video.frames, "loop")


def bare(part: Part, epoch: int, i: int) -> None:
    """decord as a short script would call it, exact on this file or not."""
    import decord  # noqa: TID251  to be compared with

    decord.VideoReader(str(part[i].path), num_threads=1).get_batch(sorted(set(plan(part, epoch, i)))).asnumpy()


def throughput(part: Part, workers: int, seconds: float = 6.0) -> float:
    """Clips a second of the whole loader with two views, by the clock."""
    sampler = clips.StepSampler(len(part), min(8, len(part)), 0, 0, 10**6, 0, 1)
    batches = iter(clips.train_loader(part, settings(workers=workers), VIEWS, sampler, run_seed=0))
    next(batches)
    started, made = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        made += len(next(batches).label)
    return made / (time.perf_counter() - started)


def soak(part: Part, n: int) -> None:
    """Memory and open files while `n` clips are made in this process."""
    source = clips.TrainClips(part, settings(Augment(color_jitter=0.4)), VIEWS, run_seed=0)
    for k in range(n + 1):
        if k % max(n // 5, 1) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            now = pages * resource.getpagesize() / 2**20
            print(f"after {k} clips: {now:.0f} MB (peak {peak:.0f}), {len(os.listdir('/proc/self/fd'))} open files")
        source.load(divmod(k, len(part)))


if __name__ == "__main__":
    main()
