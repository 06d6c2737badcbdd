"""python -m vidkd.bench BENCH.yaml [--jobs N] [--only PATTERN ...] [--dry-run | --table] [--stale-s S]

Run a grid of ordinary configurations over several seeds, each cell in a process of its own, and write one table
(table.md, table.csv, table.html) into its folder. The same command continues: a finished cell is not run again, one
that was killed goes on, and one whose configuration, data or teacher changed is run again, its old results moved aside.
--only runs the rows whose names match, and what they are compared with: a large grid can be done in pieces, and its
table then shows every row that is finished by now, as --table does at any time, running nothing.
Launched many times, on any machines that share the folder, it spreads the grid: every cell is claimed by one of them.
"""

import argparse
import sys
from pathlib import Path

from vidkd import cli
from vidkd.bench import claims, grid, run, state, table
from vidkd.errors import ConfigError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bench", type=Path)
    parser.add_argument("--jobs", type=int, help="cells at a time (default: the bench's)")
    parser.add_argument(
        "--only", nargs="+", metavar="PATTERN", help="rows, as --dry-run names them; * stands for anything: 'FMD, *'"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and why, and stop")
    parser.add_argument("--table", action="store_true", help="run nothing: the table of the rows that are finished")
    parser.add_argument(
        "--stale-s",
        type=float,
        default=claims.STALE_S,
        help=f"a claim of another machine that does not beat for so long is taken over (default: {claims.STALE_S:.0f})",
    )
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be 1 or more")
    bench = grid.load(args.bench)
    wanted = grid.only(bench, args.only) if args.only else bench
    if args.dry_run:
        print("\n".join(run.plan(wanted)))
        return 0
    if not args.table:
        run.run(wanted, args.jobs or bench.jobs, args.stale_s)
    done = state.finished_part(bench) if args.only or args.table else bench
    print(table.write(done))
    if len(done.rows) < len(bench.rows):
        print(f"\n{len(done.rows)} of {len(bench.rows)} rows are finished")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
