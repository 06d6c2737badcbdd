"""`python -m data_prep NAME ...`: one module of this folder a data set, found by looking."""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from vidkd.errors import VidkdError

FOLDER = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    began = time.perf_counter()
    try:
        status = args.run(args)
    except VidkdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"  {time.perf_counter() - began:.1f} s", flush=True)
    return status


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """Of the command that is asked for, or of all: some take long to import."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Prepare a video data set, or look at one."
    )
    commands = parser.add_subparsers(metavar="NAME", required=True)
    modules = {path.stem: f"data_prep.{path.stem}" for path in sorted(FOLDER.glob("[a-z]*.py"))}
    modules |= {name: f"data_prep.pipeline.{name}" for name in ("verify", "show", "stats")}
    for name in argv[:1] if argv[:1] and argv[0] in modules else modules:
        module = import_module(modules[name])
        text = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
