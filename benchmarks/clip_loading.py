"""What a clip costs: decoding alone, and the whole loader around it, on originals and in every prepared form.

    python benchmarks/clip_loading.py VIDEOS --work FOLDER [--count 12] [--clips 240] [--soak 5000]

VIDEOS holds originals, <class>/<video>.avi (UCF101's). Made from them in FOLDER, once: copies as Kinetics has them
(H.264, 340x256, 10 s, x264's defaults at crf 20), and of both sets of originals each prepared form, by data_prep.
Rows are interleaved: a clip, 16 frames 2 apart at a random place of a random video, is made by all rows in a random
order, so a busy machine slows all alike. CPU ms are user + system time of this process: the median over clips; ratios
are medians of the ratios of single clips. Two views: teacher 112 px, student 56 px.
"""

import argparse
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data_prep.__main__ import main as data_prep
from data_prep.pipeline import ffmpeg, transcode
from vidkd.config import Augment, ClipSpec, Data, ViewSpec
from vidkd.data import clips, index, order, sampling, transforms
from vidkd.data.index import Part
from vidkd.data.loading import collate

VIEWS = {"teacher": ViewSpec(size_px=112), "student": ViewSpec(size_px=56)}
SPEC = ClipSpec(frames=16, stride=2)
PLAIN, JITTER = Augment(), Augment(color_jitter=0.4)
FORMS = {  # name -> words of data_prep
    "video": ["--frames", "video"],
    "raw": ["--frames", "raw"],
    "jpeg": ["--frames", "jpeg"],
    "video of 112": ["--frames", "video", "--short-side", "112"],  # px: as large as the teacher's view
    "jpeg of 112": ["--frames", "jpeg", "--short-side", "112"],
}
KINETICS = "-t 10 -an -vf scale=340:256 -c:v libx264 -crf 20 -threads 1 -pix_fmt yuv420p"
BASE, BARE, SMALL = "original: decord, to 112 px", ": frames", ": frames to 112 px"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12, help="videos, of all classes")
    parser.add_argument("--clips", type=int, default=240, help="clips of each set of originals")
    parser.add_argument(
        "--soak", type=int, default=0, help="then so many clips more, to see memory and files stay flat"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    originals = make_originals(args.videos, args.work, args.count)
    for name, root in originals.items():
        parts = prepared(name, root, args.work)
        print(f"\n{name} originals, {args.clips} clips; load {os.getloadavg()[0]:.1f}\n")
        report(measure(parts, args.clips))
        print()
        for form in FORMS:
            for workers in range((os.cpu_count() or 1) + 1):
                rate, cpu_ms = throughput(parts[form], workers)
                print(f"{form}, two views, jitter, {workers} workers: {rate:.0f} clips/s, {cpu_ms:.1f} CPU ms a clip")
            if args.soak:
                soak(parts[form], args.soak)


# Making what is measured.


def make_originals(videos: Path, work: Path, count: int) -> dict[str, Path]:
    """{name: folder of <class>/<video>}: the XviD files themselves, and copies as Kinetics has them."""
    found = sorted(videos.glob("*/*.avi"))
    for path in found[:: max(len(found) // count, 1)][:count]:
        own, copy = work / "xvid" / path.parent.name / path.name, work / "h264" / path.parent.name / f"{path.stem}.mp4"
        for target in (own, copy):
            target.parent.mkdir(parents=True, exist_ok=True)
        if not own.exists():
            own.write_bytes(path.read_bytes())
        if not copy.exists():
            ffmpeg.run(["-stream_loop", "-1", "-i", str(path.absolute()), *KINETICS.split(), str(copy)], 600)
    return {"H.264 340x256": work / "h264", "XviD 320x240": work / "xvid"}


def prepared(name: str, root: Path, work: Path) -> dict[str, Part]:
    """The forms that data_prep makes, and the originals as if they were one, frames counted."""
    parts = {}
    for form, making in FORMS.items():
        out = work / f"{root.name}_{form.replace(' ', '_')}"
        started, is_new = cpu_s(), not out.exists()
        words = ["folder", "--root", str(root), "--out", str(out), "--test-fraction", "0", "--workers", "1"]
        if data_prep([*words, *making]):
            sys.exit(f"{out} could not be prepared")
        if is_new and form == "video":
            took = cpu_s() - started
            print(f"{name}: prepared in {took:.1f} CPU s, {took / plain_ffmpeg_s(root, out):.2f} times a plain ffmpeg")
        table = index.read(out).facts
        parts[form] = Part(out, table, index.pa.array([0] * table.num_rows))
    table = parts["video"].table
    files = [next((root / path).parent.glob(f"{Path(path).stem}.*")) for path in table["path"].to_pylist()]
    for column, values in (("path", [str(f.absolute()) for f in files]), ("bytes", [f.stat().st_size for f in files])):
        table = table.set_column(table.column_names.index(column), column, index.pa.array(values))
    return {"original": Part(root, table, parts["video"].labels), **parts}


def plain_ffmpeg_s(root: Path, out: Path) -> float:
    """CPU seconds of ffmpeg alone for the same videos at the same settings."""
    settings, scratch, started = transcode.Settings(), out.with_name("scratch.mp4"), cpu_s()
    for path in root.glob("*/*"):
        options = ffmpeg.output(scratch, settings.crf, settings.preset, transcode.TUNE)
        scale = [
            "-threads",
            "1",
            "-i",
            str(path.absolute()),
            "-an",
            "-vf",
            f"scale=-2:{settings.short_side}:{transcode.SCALING}",
        ]
        ffmpeg.run([*scale, *options], 600)
    scratch.unlink()
    return cpu_s() - started


def cpu_s() -> float:
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)


# Measuring.


def measure(parts: dict[str, Part], n: int) -> dict[str, list[float]]:
    """Row -> CPU seconds of each clip."""
    rows: dict[str, Callable[[int, int], object]] = {BASE: lambda e, i: bare_decord(parts["original"], e, i, 112)}
    rows["original: bare decord"] = lambda e, i: bare_decord(parts["original"], e, i)
    rows["video: bare decord"] = lambda e, i: bare_decord(parts["video"], e, i)
    for name, part in parts.items():
        rows[name + BARE] = lambda e, i, part=part: frames(part, e, i)
        rows[name + SMALL] = lambda e, i, part=part: to_112(frames(part, e, i))
        for words, augment in (("crop, flip", PLAIN), ("crop, flip, colour jitter", JITTER)):
            source = clips.TrainClips(part, settings(augment), VIEWS, run_seed=0)
            rows[f"{name}: two views, {words}"] = lambda e, i, s=source: collate([s.load((e, i))])
    taken: dict[str, list[float]] = {name: [] for name in rows}
    size = len(parts["original"])
    for k in range(-3, n):  # the first few warm up
        epoch, i = divmod(max(k, 0), size)
        for name, make in random.Random(k).sample(list(rows.items()), len(rows)):
            started = time.process_time()
            make(epoch, i)
            if k >= 0:
                taken[name].append(time.process_time() - started)
    return taken


def report(taken: dict[str, list[float]]) -> None:
    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(taken[a], taken[b], strict=True))

    print("| what | CPU ms a clip | clips/s per core | x decord on originals | / decode of that file | / to 112 px |")
    print("|---|---|---|---|---|---|")
    for name, seconds in taken.items():
        ms = 1000 * statistics.median(seconds)
        bare = (f"{ratio(name, name.partition(':')[0] + what):.2f}" for what in (BARE, SMALL))
        print(f"| {name} | {ms:.2f} | {1000 / ms:.0f} | {ratio(BASE, name):.1f} | {' | '.join(bare)} |")


def settings(augment: Augment, **more: Any) -> Data:
    return Data(root=Path("."), clip=SPEC, augment=augment, **({"workers": 0} | more))


def plan(part: Part, epoch: int, i: int) -> list[int]:
    rng, video = order.generator(0, epoch, i), part[i]
    wanted = sampling.indices(sampling.train_start(video.frames, sampling.span(SPEC), rng), SPEC, video.frames, "loop")
    return sorted(set(wanted))


def frames(part: Part, epoch: int, i: int) -> torch.Tensor:
    return clips.read(part[i], plan(part, epoch, i), settings(PLAIN))[0]


def to_112(frames: torch.Tensor) -> torch.Tensor:
    window = transforms.centre(*frames.shape[-2:])
    return transforms.view(transforms.crop(frames, window), transforms.Drawn(window), 112)


def bare_decord(part: Part, epoch: int, i: int, size: int = -1) -> None:
    """decord as a short script would call it, exact on this file or not; frames as large as they are, or resized."""
    import decord  # noqa: TID251  to be compared with

    reader = decord.VideoReader(str(part[i].path), num_threads=1, width=size, height=size)
    reader.get_batch(plan(part, epoch, i)).asnumpy()


def throughput(part: Part, workers: int, steps: int = 40) -> tuple[float, float]:
    """(clips a second by the clock, CPU ms a clip of all processes) of the whole loader, its workers' start left out
    of the first and counted in the second."""
    began_cpu_s = cpu_s()
    sampler = order.StepSampler(len(part), min(8, len(part)), 0, 0, steps, 0, 1)
    batches = iter(clips.train_loader(part, settings(JITTER, workers=workers), VIEWS, sampler, run_seed=0))
    for _ in islice(batches, 4):  # until the workers have begun
        pass
    started = time.perf_counter()
    made = sum(len(batch.label) for batch in batches)
    return made / (time.perf_counter() - started), 1000 * (cpu_s() - began_cpu_s) / (made * steps / (steps - 4))


def soak(part: Part, n: int) -> None:
    """Memory and open files while `n` clips are made in this process."""
    source = clips.TrainClips(part, settings(JITTER), VIEWS, run_seed=0)
    for k in range(n + 1):
        if k % max(n // 5, 1) == 0:
            status = Path("/proc/self/status").read_text()
            own_mb = int(status.partition("RssAnon:")[2].split()[0]) / 1024  # pages of the file cache are not ours
            print(f"  after {k} clips: {own_mb:.0f} MB, {len(os.listdir('/proc/self/fd'))} open files", flush=True)
        source.load(divmod(k, len(part)))


if __name__ == "__main__":
    main()
