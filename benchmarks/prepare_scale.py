"""OMP_NUM_THREADS=1 python benchmarks/prepare_scale.py --work /tmp/scale [--videos 10000 100000 650000]

How the memory of preparing grows with the number of videos: the largest resident size of the real commands, each in a
process of its own, and the CPU time it took, over data sets of so many empty files in 700 folders of classes. Nothing
is decoded: what would make a video writes one byte (or, in the rows `list` and `folder`, refuses it). Everything else
is what `python -m data_prep` does: listing, journal, resuming, the final join, index.csv and sources.csv. The last
row opens the index as training does. It takes two small files a video below --work.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

CLASSES = 700
LIST = "list --root {work}/nothing --train {work}/list.txt --out {work}/list --allow-failures {n}"
KINETICS = "kinetics --root {work}/in --annotations {work}/csv --out {work}/out"
ROWS = (  # (name of the row, words of the command)
    ("list, flat", LIST),
    ("... again, nothing to keep", LIST),
    ("folder, a tenth held out", "folder --root {work}/in --out {work}/folder --holdout 0.1 --allow-failures {n}"),
    ("kinetics", KINETICS),
    ("... again, all made", KINETICS),
    ("... one of 100 shards of it", KINETICS + " --shard 7/100"),
    ("verify --sizes-only", "verify {work}/out --sizes-only"),
    ("stats", "stats {work}/out --samples 0"),
    ("the index, as training opens it", "train {work}/out"),
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, or one of an earlier run")
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 650_000])
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.row:
        return measured(args.row)
    found: dict[str, list[str]] = {name: [] for name, _ in ROWS}
    for n in args.videos:
        work = args.work / str(n)
        fill(work, n)
        for name, words in ROWS:
            command = [sys.executable, __file__, "--work", str(work), "--row", words.format(work=work, n=n)]
            done = subprocess.run(command, capture_output=True, text=True)
            try:
                own = json.loads(done.stdout.splitlines()[-1])
            except (IndexError, ValueError):
                raise SystemExit(f"{words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}") from None
            found[name].append(f"{own['peak_mb']:.0f} MB, {own['seconds']:.0f} s")
            print(f"{n} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(f"| | {' | '.join(f'{n:,} videos' for n in args.videos)} |")
    print("|" + "---|" * (len(args.videos) + 1))
    for name, figures in found.items():
        print(f"| {name} | {' | '.join(figures)} |")
    return 0


def fill(work: Path, n: int) -> None:
    """The files, and the lists that name them, unless an earlier run has made them."""
    if (work / "list.txt").exists():
        return
    for i in range(min(CLASSES, n)):
        (work / "in" / f"class {i:03d}").mkdir(parents=True)
    (work / "nothing").mkdir()
    (work / "csv").mkdir()
    stems = [f"{i * 2654435761 % (1 << 44):011x}" for i in range(n)]  # names as YouTube draws them: in no order
    with (work / "csv" / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        for i, stem in enumerate(stems):
            table.writerow([f"class {i % CLASSES:03d}", stem, 1, 11, "train"])
            (work / "in" / f"class {i % CLASSES:03d}" / f"{stem}_000001_000011.mp4").touch()
    (work / "list.txt").write_text("".join(f"{stem}.mp4 {i % CLASSES}\n" for i, stem in enumerate(stems)))


def measured(words: str) -> int:
    """Run one command in this process; print how large it became."""
    name, *rest = words.split()
    if name == "train":
        opened(Path(rest[0]))
    else:
        prepared(name, rest)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak_mb, "seconds": time.process_time()}))
    return 0


def prepared(name: str, words: list[str]) -> None:
    from data_prep.__main__ import main as data_prep
    from data_prep.pipeline import prepare
    from data_prep.pipeline.produce import Facts

    def make(_settings: object, _item: object, target: Path) -> Facts:
        if name != "kinetics":
            return Facts(status="refused", reason="nothing is decoded here")
        target.write_bytes(b"x")
        return Facts(300, 25.0, 170, 128)

    workers = [] if name == "stats" else ["--workers", "1"]
    with mock.patch.object(prepare, "transcode", make):
        status = data_prep([name, *words, *workers])
    if status:
        raise SystemExit(f"{name}: exit status {status}")


def opened(root: Path) -> None:
    from vidkd.data import index

    part = index.read(root).part("split1", "train")
    part.check_files()
    for i in range(0, len(part), max(len(part) // 1000, 1)):
        part[i]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
