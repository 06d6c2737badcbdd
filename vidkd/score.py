"""python -m vidkd.score PREDICTIONS [--bootstrap N] [--json FILE]

The figures of a predictions file (.csv or .parquet, as a run or vidkd.evaluate left it), computed again from nothing
else and by the same functions: they are those of results.json, to the last digit.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vidkd import checkpoint, cli, results, tasks
from vidkd.errors import ConfigError, DataError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.score", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--task", default="recognition", help="whose predictions they are (default: %(default)s)")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="N", help="a bootstrapped interval of N resamples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, also those not printed")
    args = parser.parse_args(argv)
    if args.bootstrap < 0:
        raise ConfigError(f"--bootstrap {args.bootstrap}: a number of resamples, 0 or more")
    figures = score(args.predictions, args.task, args.bootstrap)
    print("\n".join(lines(figures)))
    if args.json:
        checkpoint.write_atomic(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


def score(path: Path, task: str = "recognition", bootstrap: int = 0) -> dict[str, Any]:
    """What the task's `results` said of the same predictions."""
    if task not in tasks.names():
        raise ConfigError(f"no task {task!r}; there are: {', '.join(tasks.names())}")
    module = tasks.load(task)
    if not hasattr(module, "rescore"):
        raise ConfigError(f"the task {task} does not score from a predictions file")
    columns = results.read_predictions(path, module.TEXT)
    try:
        return module.rescore(columns, bootstrap)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def lines(figures: dict[str, Any]) -> list[str]:
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
    for row in figures.get("per_class", ()):
        share = "  none" if row["accuracy"] is None else f"{row['accuracy']:6.1%}"
        found.append(f"  {share}  {row['correct']:5} of {row['n']:5}  {row['class']}")
    return found


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
