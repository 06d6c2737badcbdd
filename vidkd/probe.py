"""python -m vidkd.probe RUN_OR_BENCH [--sizes PX ...] [--frames N ...]

Score trained students on what they were not trained for, and leave probe.json beside each: the test frames in a random
order and one frame repeated (what is then lost was motion, what is left is appearance), and other resolutions and frame
counts. Of a bench, every finished run, its teachers included; what is there already is not scored again. The report
shows it. A single such evaluation: python -m vidkd.evaluate RUN student.view.degrade.time=shuffled
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vidkd import checkpoint, cli, config_file, distiller, evaluation, outcome, processes
from vidkd.config import Run, ViewSpec
from vidkd.data import clips, index
from vidkd.errors import ConfigError

TIMES = ("shuffled", "static")
SIZES, FRAMES = (0.75, 1.0, 1.5), (0.5, 1.0)  # of the student's own, where none are given


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.probe", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="RUN_OR_BENCH")
    parser.add_argument("--sizes", type=int, nargs="*", metavar="PX", help="sides (default: 3/4, 1 and 3/2 of its own)")
    parser.add_argument("--frames", type=int, nargs="*", metavar="N", help="(default: half of its own, and its own)")
    args = parser.parse_args(argv)
    for folder in runs(args.folder):
        found = probe(folder, args.sizes, args.frames)
        print(f"{folder}: {'; '.join(map(_said, found))}")
    return 0


def runs(folder: Path) -> list[Path]:
    """The finished runs of a bench, or the run itself. ConfigError where there is none."""
    if not (folder / "bench.json").is_file():
        outcome.results_of(folder)  # says what is missing
        return [folder]
    bench = json.loads((folder / "bench.json").read_text(encoding="utf-8"))["bench"]
    apart = [Path(row["set"]["out"]) for row in (*bench["first"], *bench["rows"]) if "out" in row["set"]]
    there = sorted(path.parent for path in folder.glob("*/seed*/results.json") if ".aside" not in path.parent.name)
    return [path for path in (*apart, *there) if (path / "results.json").is_file()]


def probe(folder: Path, sizes: list[int] | None = None, frames: list[int] | None = None) -> list[dict[str, Any]]:
    """Every point that was asked for, and those that were there; probe.json is written after each new one.

    A size or a clip length that the network cannot take is left out.
    """
    run = config_file.load(folder / "config.yaml")
    weights = outcome.results_of(folder)["student"]["protocol"]["weights_sha256"]
    path = folder / "probe.json"
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = there.get("points", []) if there.get("weights_sha256") == weights else []  # else of another training
    done = {(p["time"], p["frames"], p["size_px"]): p for p in known}
    for view in wanted(run, sizes, frames):
        place = (view.degrade.time, view.frames or run.data.clip.frames, view.size_px)
        if place in done:
            continue
        try:
            point = _score(folder, run, view)
        except ConfigError:
            if view.degrade.time != "as_is":
                raise
            continue
        own = point["frames"] == _own_frames(run) and point["size_px"] == run.student.view.size_px
        done[place] = point | {"own_size": own}
        content = {"weights_sha256": weights, "points": list(done.values())}
        checkpoint.write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return list(done.values())


def wanted(run: Run, sizes: list[int] | None, frames: list[int] | None) -> list[ViewSpec]:
    """The views to score: as it was trained, the two probes of it, then every size with every number of frames."""
    own, t = run.student.view, _own_frames(run)
    worse = [own.degrade.model_copy(update={"time": time}) for time in TIMES]
    views = [own, *(own.model_copy(update={"degrade": degrade}) for degrade in worse)]
    sides = sizes if sizes is not None else [2 * round(own.size_px * share / 2) for share in SIZES]
    lengths = frames if frames is not None else [max(1, round(t * share)) for share in FRAMES]
    for length in lengths:
        if not 0 < length <= run.data.clip.frames:
            raise ConfigError(f"--frames {length}: the clips have {run.data.clip.frames} frames (data.clip.frames)")
        views += [own.model_copy(update={"size_px": side, "frames": length}) for side in sides]
    return views


def _score(folder: Path, run: Run, view: ViewSpec) -> dict[str, Any]:
    """The student of `folder` on that view of the part that its results are of."""
    run = run.model_copy(update={"student": run.student.model_copy(update={"view": view}), "teacher": None})
    device = processes.make_accelerator(run).device
    data_set = index.read(run.data.root)
    section = run.student.saved_in(folder)
    student, _ = distiller.build_network(section, len(data_set.classes), run.data.clip.frames)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.test)
    progress = f"{folder.parent.name}/{folder.name} {view.degrade.time} at {view.size_px} px"
    student.to(device)
    scores = evaluation.score({"student": student}, task.keep, run, part, device, progress=progress)["student"]
    figures = task.results(scores)
    kept = {key: figures[key] for key in (task.primary, f"{task.primary}_interval") if key in figures}
    place = {"time": view.degrade.time, "frames": view.frames or run.data.clip.frames, "size_px": view.size_px}
    return place | {"primary": task.primary, **kept}


def _own_frames(run: Run) -> int:
    return run.student.view.frames or run.data.clip.frames


def _said(point: dict[str, Any]) -> str:
    return f"{point['frames']}x{point['size_px']} {point['time']} {point[point['primary']]:.1%}"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
