"""`python -m data_prep NAME ...`: one module of this folder a data set, found by looking."""

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from vidkd.errors import VidkdError

FOLDER = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    began = time.perf_counter()
    try:
        status = args.run(args)
    except VidkdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"  {time.perf_counter() - began:.1f} s")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Prepare a video data set.")
    commands = parser.add_subparsers(metavar="NAME", required=True)
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        module = import_module(f"data_prep.{path.stem}")
        text = (module.__doc__ or "").strip()
        command = commands.add_parser(
            path.stem,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--out", type=Path, required=True, help="the prepared folder, made here")
        command.add_argument("--workers", type=int, default=_cores(), help="processes (default: %(default)s)")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
