"""python -m vidkd.evaluate RUN_OR_CHECKPOINT [CONFIG] [KEY=VALUE ...] [--part PART] [--student-only] [--out DIR]
                            [--stream RUN ...]

Score a trained network on every video of a part, its teacher beside it. RUN_OR_CHECKPOINT is a run directory or one of
its checkpoints/step... folders, whose own configuration is used unless CONFIG is given, or a weights file together with
a CONFIG. More views, another size:

    python -m vidkd.evaluate runs/ucf101_kd data.test_views.clips=10 data.test_views.crops=3

With --stream, several networks (of RGB and of optical flow) are scored as one, and each alone: every one sees the data
set of its own run. Of detectors the mean of their raw answers is decoded; of recognisers the probabilities are averaged
(task.fusion=step_probabilities: the official code's rule). KEY=VALUE holds for all of them.

    python -m vidkd.evaluate runs/thumos14_teacher --stream runs/thumos14_flow_teacher
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

from vidkd import checkpoint, cli, config_file, distiller, distributed, processes, results, streams
from vidkd.config import Run
from vidkd.data import clips, index
from vidkd.errors import ConfigError, DataError
from vidkd.taps import Frozen, Tapped


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("rest", nargs="*", metavar="[CONFIG] KEY=VALUE")
    parser.add_argument("--part", help="default: data.test")
    parser.add_argument("--student-only", action="store_true", help="do not run the teacher")
    parser.add_argument("--stream", type=Path, action="append", default=[], metavar="RUN", help="it answers too")
    parser.add_argument("--out", type=Path, help="default: evaluate/<part>_<what differs> in the run directory")
    args = parser.parse_intermixed_args(argv)
    configs = [item for item in args.rest if "=" not in item]
    overrides = [item for item in args.rest if "=" in item]
    if len(configs) > 1:
        raise ConfigError(f"one CONFIG at most, got {', '.join(configs)}; overrides are KEY=VALUE")
    if args.stream and configs:
        raise ConfigError(f"--stream: each run is scored by its own configuration; leave out {configs[0]}")
    run = config_file.load(Path(configs[0]) if configs else own_config(args.weights), overrides)
    part = args.part or run.data.test
    differs = [*configs, *overrides, *(f"--stream={path}" for path in args.stream)]
    out = args.out or default_out(args.weights, part, differs)
    if args.stream:
        runs = {args.weights: run} | {path: config_file.load(own_config(path), overrides) for path in args.stream}
        if len(runs) < 1 + len(args.stream):
            raise ConfigError("--stream: a run together with itself says nothing new; name another one")
        outcome = evaluate_streams(runs, part, out)
        lines = [f"{each['run']}: {results.one_line(each)}" for each in outcome["streams"]]
        lines.append(f"together: {outcome['student']['headline']}")
    else:
        outcome = evaluate(run, args.weights, part, out, student_only=args.student_only)
        lines = [f"{who:8}{results.one_line(outcome[who])}" for who in ("student", "teacher") if who in outcome]
    if distributed.rank() == 0:
        print("\n".join([*lines, f"written to {out}"]))
    return 0


def evaluate(run: Run, weights: Path, part: str, out: Path, *, student_only: bool = False) -> dict:
    """Score `weights` as the student of `run`; configuration, results and predictions go to `out`, once all is scored.

    ConfigError or DataError, and nothing written, where that cannot be: also for an `out` that could not be made.
    """
    accelerator = processes.make_accelerator(run)
    check_out(out)
    data_set = index.read(run.data.root)
    clips.check(data_set, run)
    task = distiller.build_task(run, data_set.classes)
    clips.part_of(data_set, run, task, part).check_files()
    student = trained_student(run, weights, len(data_set.classes))
    teacher = None
    if run.teacher and not student_only:
        network, _ = distiller.build_network(run.teacher, len(data_set.classes), run.data.clip.frames, "teacher")
        teacher = Frozen(network, run.teacher_precision)
        teacher.to(accelerator.device)
    return results.evaluate(run, data_set, part, task, student.to(accelerator.device), teacher, out)


def evaluate_streams(runs: dict[Path, Run], part: str, out: Path) -> dict:
    """Score the students at the paths, each under its own run, as one: `streams.evaluate`.

    ConfigError or DataError as for `evaluate`; also where the streams could not be joined.
    """
    accelerator = processes.make_accelerator(next(iter(runs.values())))
    check_out(out)
    found = []
    for path, run in runs.items():
        data_set = index.read(run.data.root)
        clips.check(data_set, run)
        task = distiller.build_task(run, data_set.classes)
        found.append(streams.Stream(path, run, data_set, task, trained_student(run, path, len(data_set.classes))))
    return streams.evaluate(found, part, out, accelerator.device)


def trained_student(run: Run, weights: Path, num_classes: int) -> Tapped:
    """The student of `run` with the weights of a run, a checkpoint or a file. DataError if they are of another."""
    saved = is_checkpoint(weights)
    section = run.student.saved_in(None if saved else weights)
    student, account = distiller.build_network(section, num_classes, run.data.clip.frames)
    if saved:
        try:
            checkpoint.restore_module(student, checkpoint.student_tensors(weights))
        except (LookupError, RuntimeError) as error:
            raise DataError(
                f"{weights}: not the checkpoint of {run.student.name} with these options and {num_classes} "
                f"classes: {' '.join(str(error).splitlines()[:2])}"
            ) from None
    elif distributed.rank() == 0:
        print(account)
    return student


def check_out(out: Path) -> None:
    """ConfigError if results could not be written there: said before an hour of scoring, not after it."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"{out}: cannot be written; choose another folder with --out")


def is_checkpoint(path: Path) -> bool:
    return (path / "manifest.json").exists()


def run_folder(path: Path) -> Path:
    """The run directory that `path` is, is a checkpoint of, or is a file in."""
    if is_checkpoint(path):
        return path.absolute().parent.parent
    return path if path.is_dir() else path.parent


def own_config(path: Path) -> Path:
    """The configuration that belongs to the weights at `path`."""
    config = run_folder(path) / "config.yaml"
    if not config.exists():
        raise ConfigError(f"{path}: no config.yaml beside it; give the CONFIG: vidkd.evaluate {path} CONFIG")
    return config


def default_out(path: Path, part: str, differs: list[str]) -> Path:
    """A folder of its own for every network, part and set of overrides."""
    folder = run_folder(path)
    differs = [*differs, *([] if path.absolute() == folder.absolute() else [path.name])]
    tag = hashlib.sha256("\n".join(differs).encode()).hexdigest()[:8] if differs else "as_trained"
    return folder / "evaluate" / f"{part}_{tag}"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
