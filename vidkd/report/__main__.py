"""python -m vidkd.report RUN_OR_BENCH [--out FILE]

Write one HTML page about a run directory or a bench directory: what was gained, the table, plots, learning curves,
confusions, videos, commands and versions. It holds everything it shows: it can be mailed, printed and read offline.
What python -m vidkd.probe RUN_OR_BENCH found (motion or appearance, other sizes) is shown where that was run before.
"""

import argparse
import sys
from pathlib import Path

from vidkd import checkpoint, cli
from vidkd.report import material, page


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="RUN_OR_BENCH")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the folder)")
    args = parser.parse_args(argv)
    text, left_out = page.page(material.read(args.folder))
    out = args.out or args.folder / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(out, text.encode())
    for title, reason in left_out.items():
        print(f"left out: {title}: {reason}")
    print(f"{out}: {len(text.encode()) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
