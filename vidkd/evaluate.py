"""python -m vidkd.evaluate RUN_OR_WEIGHTS [CONFIG] [KEY=VALUE ...] [--part PART] [--student-only] [--out DIR]

Score a trained network on every video of a part, its teacher beside it. RUN_OR_WEIGHTS is a run directory, whose own
configuration is used unless CONFIG is given, or a weights file together with a CONFIG. More views, another size:

    python -m vidkd.evaluate runs/ucf101_kd data.test_views.clips=10 data.test_views.crops=3
"""

import argparse
import hashlib
import sys
from pathlib import Path

from vidkd import cli, config_file, distiller, results, trained
from vidkd.config import Run
from vidkd.data import clips, index
from vidkd.errors import ConfigError
from vidkd.taps import Frozen


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path, metavar="RUN_OR_WEIGHTS")
    parser.add_argument("rest", nargs="*", metavar="[CONFIG] KEY=VALUE")
    parser.add_argument("--part", help="default: data.test")
    parser.add_argument("--student-only", action="store_true", help="do not run the teacher")
    parser.add_argument("--out", type=Path, help="default: evaluate/<part>_<what differs> in the run directory")
    args = parser.parse_intermixed_args(argv)
    configs = [item for item in args.rest if "=" not in item]
    overrides = [item for item in args.rest if "=" in item]
    if len(configs) > 1:
        raise ConfigError(f"one CONFIG at most, got {', '.join(configs)}; overrides are KEY=VALUE")
    run = config_file.load(Path(configs[0]) if configs else own_config(args.weights), overrides)
    out = args.out or default_out(args.weights, args.part or run.data.test, [*configs, *overrides])
    outcome = evaluate(run, args.weights, args.part or run.data.test, out, student_only=args.student_only)
    for who in ("student", "teacher"):
        if who in outcome:
            print(f"{who:8}{results.one_line(outcome[who])}")
    print(f"written to {out}")
    return 0


def evaluate(run: Run, weights: Path, part: str, out: Path, *, student_only: bool = False) -> dict:
    """Score `weights` as the student of `run`; results.json and predictions go to `out`."""
    accelerator = trained.make_accelerator(run)
    data_set = index.read(run.data.root)
    clips.check(data_set, run)
    section = run.student.model_copy(update={"weights": weights, "adapt": "none", "reset_head": False})
    student, account = distiller.build_network(section, len(data_set.classes), run.data.clip.frames)
    print(account)
    teacher = None
    if run.teacher and not student_only:
        network, _ = distiller.build_network(run.teacher, len(data_set.classes), run.data.clip.frames)
        teacher = Frozen(network, run.teacher_precision)
        teacher.to(accelerator.device)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
    task = distiller.build_task(run, data_set.classes)
    return results.evaluate(run, data_set, part, task, student.to(accelerator.device), teacher, out)


def own_config(weights: Path) -> Path:
    """The configuration that lies beside the weights."""
    folder = weights if weights.is_dir() else weights.parent
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{weights}: no config.yaml beside it; give the CONFIG: vidkd.evaluate {weights} CONFIG")
    return folder / "config.yaml"


def default_out(weights: Path, part: str, differs: list[str]) -> Path:
    folder = weights if weights.is_dir() else weights.parent
    tag = hashlib.sha256("\n".join(differs).encode()).hexdigest()[:8] if differs else "as_trained"
    return folder / "evaluate" / f"{part}_{tag}"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
