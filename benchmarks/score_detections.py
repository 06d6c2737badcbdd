"""How long `vidkd.score` takes on as many detections as a THUMOS14 detector leaves.

    python benchmarks/score_detections.py ANNOTATIONS [--subset test] [--each 200] [--bootstrap 0]

ANNOTATIONS is any file that data_prep reads (AFSD's test_Annotation.csv, thumos_gt.json, ActionFormer's). For every
video: 200 detections, half of them near an action of it and half anywhere, in a CSV; then the time of reading both
files and of every figure, two lists of tIoU (0.3:0.1:0.7 and 0.1:0.1:0.5) and recall among them, on the wall clock and
of the CPU.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from vidkd import annotations, score
from vidkd.types import Segments

SPREAD_S = 1.0  # of the ends of detections about those of their action


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--subset")
    parser.add_argument("--each", type=int, default=200, metavar="N", help="detections a video")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="N")
    args = parser.parse_args()
    said = annotations.read(args.annotations).only(args.subset, args.annotations)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detections.csv"
        found = detections(said.actions, sorted(said.subset), args.each)
        annotations.write(file, found)
        wall, cpu = time.perf_counter(), time.process_time()
        options = {"annotations": args.annotations, "subset": args.subset, "bootstrap": args.bootstrap}
        figures = score.score(file, "detection", **options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{figures['n_videos']} videos, {figures['n_actions']} actions, {figures['n_detections']} detections")
    print(f"mAP@{figures['tiou']} {figures['map']:.1%}; {wall:.2f} s, {cpu:.2f} s of the CPU")


def detections(actions: Segments, videos: list[str], each: int) -> Segments:
    """`each` detections of every video, drawn by a fixed seed."""
    rng = np.random.default_rng(0)
    labels = np.unique(actions.label)
    rows: list[tuple[str, float, float, str, float]] = []
    for video in videos:
        own = np.flatnonzero(actions.video == video)
        last = float(actions.end_s[own].max(initial=60.0))
        for i in range(each):
            if len(own) and i % 2:
                k = int(rng.choice(own))
                start, end = (float(rng.normal(at[k], SPREAD_S)) for at in (actions.start_s, actions.end_s))
                label = actions.label[k]
            else:
                start = float(rng.uniform(0, last))
                end, label = start + float(rng.exponential(4.0)), rng.choice(labels)
            rows.append((video, start, max(end, start), str(label), float(rng.uniform())))
    return Segments.of(rows, scored=True)


if __name__ == "__main__":
    main()
