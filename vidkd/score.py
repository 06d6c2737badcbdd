"""python -m vidkd.score PREDICTIONS [--annotations FILE] [--tiou 0.3:0.1:0.7] [--bootstrap N] [--json FILE]

The figures of a predictions file (.csv or .parquet, as a run or vidkd.evaluate left it), computed again from nothing
else and by the same functions: they are those of results.json, to the last digit. With --annotations, of anybody's
detections: a .csv with the columns video, start_s, end_s, label, score, or ActivityNet's .json.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidkd import checkpoint, cli, tasks
from vidkd.errors import ConfigError


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.bootstrap < 0:
        raise ConfigError(f"--bootstrap {args.bootstrap}: a number of resamples, 0 or more")
    scorers = {name: tasks.load(name) for name in tasks.names()}
    told = [name for name, module in scorers.items() if getattr(args, getattr(module, "ASKS_FOR", ""), None)]
    args.task = args.task or next(iter(told), "recognition")
    streams = getattr(args, "stream", None) or ()
    cli.check_outputs([args.json], [args.predictions, getattr(args, "annotations", None), *streams])
    figures = score(**vars(args))
    print("\n".join(lines(figures, scorers[args.task].class_line)))
    if args.json:
        checkpoint.write_atomic(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


def parser() -> argparse.ArgumentParser:
    """The options, those that each task adds among them."""
    made = argparse.ArgumentParser(
        prog="vidkd.score", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("predictions", type=Path)
    made.add_argument("--task", help="whose predictions they are (default: recognition, or what the options tell)")
    made.add_argument("--bootstrap", type=int, default=0, metavar="N", help="a bootstrapped interval of N resamples")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, also those not printed")
    for name in tasks.names():
        getattr(tasks.load(name), "add_score_arguments", lambda _: None)(made)
    return made


def score(predictions: Path, task: str | None = "recognition", **options: Any) -> dict[str, Any]:
    """What the task's `results` said of the same predictions; `options` are those of the command line."""
    if task not in tasks.names():
        raise ConfigError(f"no task {task!r}; there are: {', '.join(tasks.names())}")
    module = tasks.load(task)
    if not hasattr(module, "score_file"):
        raise ConfigError(f"the task {task} does not score from a predictions file")
    defaults = vars(parser().parse_args([str(predictions)]))
    return module.score_file(predictions, argparse.Namespace(**(defaults | options)))


def lines(figures: dict[str, Any], class_line: Callable[[dict[str, Any]], str]) -> list[str]:
    """Every figure that is one number, with its interval; then those of single views; then the classes."""
    found = []
    for name, value in figures.items():
        if isinstance(value, int | float):
            interval = figures.get(f"{name}_interval")
            between = f"  95 % {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            found.append(f"{name:20} {value if isinstance(value, int) else f'{value:.4f}'}{between}")
        elif name.endswith("_bootstrap"):
            found.append(f"{name:20} {value[0]:.4f} to {value[1]:.4f}")
        elif isinstance(value, str):
            found.append(f"{name:20} {value}")
    one_view = figures.get("clip", {}).items()
    found += [f"{'clip ' + name:20} {value:.4f}" for name, value in one_view if isinstance(value, float)]
    return found + [f"  {class_line(row)}" for row in figures.get("per_class", ())]


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
