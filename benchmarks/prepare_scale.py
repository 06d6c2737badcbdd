"""OMP_NUM_THREADS=1 python benchmarks/prepare_scale.py --work /tmp/scale [--videos 10000 100000 650000]

How the memory of preparing grows with the number of videos: the largest resident size of real commands, each in a
process of its own, and the CPU time it took. Nothing is decoded.

list      a flat list of videos; what would make them refuses each: listing, dispatch, journal, join, index
kinetics  empty files in 700 folders of classes, the csv that names them, and a journal in which all are made: one of
          100,000 shards makes the few that are its own, finds the rest made, and writes index.csv and sources.csv
folder    the same files, as `folder` reads them, with a tenth of the groups held out
stats     of the data set that `kinetics` has written
training  opens that data set, as a run does
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

CLASSES = 700
SHARD = "--allow-failures {n} --shard 7/100000"
ROWS = {
    "list": "list --root {work}/nothing --train {work}/list.txt --out {work}/list --allow-failures {n}",
    "kinetics": f"kinetics --root {{work}}/in --annotations {{work}}/csv --out {{work}}/out {SHARD}",
    "folder": f"folder --root {{work}}/in --out {{work}}/folder --name kinetics --holdout 0.1 {SHARD}",
    "stats": "stats {work}/out --samples 0",
    "training": "training {work}/out",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, or one of an earlier run")
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 650_000])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        return measured(args.measure)
    found: dict[str, list[str]] = {name: [] for name in args.rows}
    for n in args.videos:
        work = args.work / str(n)
        fill(work, n)
        for name in args.rows:
            words = ROWS[name].format(work=work, n=n)
            command = [sys.executable, __file__, "--work", str(work), "--measure", words]
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
    """The files, the lists that name them and the journals, unless an earlier run has made them."""
    if (work / "filled").exists():
        return
    names = ("nothing", "csv", "out", "folder", *(f"in/class {i:03d}" for i in range(CLASSES)))
    for name in names:
        (work / name).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        table = csv.writer(stack.enter_context((work / "csv" / "train.csv").open("w", newline="")))
        table.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        flat = stack.enter_context((work / "list.txt").open("w"))
        journals = [stack.enter_context((work / name / ".journal.jsonl").open("w")) for name in ("out", "folder")]
        for i in range(n):
            stem = f"{i * 2654435761 % (1 << 44):011x}"  # as YouTube draws them: in no order
            label, name = f"class {i % CLASSES:03d}", f"{stem}_000001_000011.mp4"
            (work / "in" / label / name).touch()
            table.writerow([label, stem, 1, 11, "train"])
            flat.write(f"{stem}.mp4 {i % CLASSES}\n")
            made = {
                "path": f"{label}/{name}",
                "identity": f"{i:024x}",
                "bytes": 200_000,
                "checksum": f"sha256:{i:064x}",
            }
            made |= {"frames": 300, "fps": 25.0, "width": 170, "height": 128, "status": "ok", "reason": ""}
            for journal in journals:
                journal.write(json.dumps(made | {"source_checksum": f"sha256:{i:064x}"}) + "\n")
    for name in ("out", "folder"):
        (work / name / ".data_set").write_text("kinetics")
    (work / "filled").touch()


def measured(words: str) -> int:
    """Run one command in this process; print how large it became."""
    name, *rest = words.split()
    if name == "training":
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

    def refuse(_settings: object, _item: object, _target: Path) -> Facts:
        return Facts(status="refused", reason="nothing is decoded here")

    workers = [] if name == "stats" else ["--workers", "1"]
    with mock.patch.object(prepare, "transcode", refuse):
        status = data_prep([name, *words, *workers])
    if status:
        raise SystemExit(f"{name}: exit status {status}")


def opened(root: Path) -> None:
    from vidkd.data import index

    part = index.read(root).part("split1", "train")
    names, labels = part.names(), part.labels.to_pylist()
    assert len(names) == len(labels) == sum(part[i].frames > 0 for i in range(len(part)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
