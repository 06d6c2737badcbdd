"""python -m vidkd.compare A B [--who student|teacher] [--allow KEY ...] [--reevaluate]

What B has over A, with its interval over videos (and seeds): A and B are folders of finished runs or of evaluations, or
folders of them by seed (seed0, seed1, ...). Figures that were got under different protocols are not compared: what
differs is said, and the exit status is 2. --allow names what may differ (size_px, frames, ...); --reevaluate scores the
cheaper of the two again, under the protocol of the other, into its folder evaluate/.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vidkd import cli, config_file, intervals, outcome
from vidkd.errors import ConfigError, DataError, VidkdError
from vidkd.outcome import Outcome

Side = list[Outcome]  # of every seed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--who", choices=("student", "teacher"), default="student", help="of both (default: student)")
    parser.add_argument("--allow", nargs="+", default=[], metavar="KEY", help="of the protocol: may differ")
    parser.add_argument("--reevaluate", action="store_true", help="score the cheaper side again where they differ")
    args = parser.parse_args(argv)
    a, b = read(args.a, args.who), read(args.b, args.who)
    for folder in (args.a, args.b):
        if left_out := unfinished(folder):
            print(f"{folder}: left out, not finished: {', '.join(left_out)}")
    if args.reevaluate and args.who == "student" and differences(a, b, args.allow):
        a, b = reevaluated(a, b, args.allow)
    print(compare(a, b, args.allow))
    return 0


def read(folder: Path, who: outcome.Who = "student") -> Side:
    """The outcome in `folder`, or those in its folders seed*. ConfigError where there is none."""
    if (folder / "results.json").is_file():
        return [outcome.read(folder, who)]
    seeds = [seed for seed in _seeds(folder) if (seed / "results.json").is_file()]
    if not seeds:
        outcome.results_of(folder)  # says what is missing
    return [outcome.read(seed, who) for seed in seeds]


def unfinished(folder: Path) -> list[str]:
    """The names of its folders seed* that hold no result yet; [] where `folder` is a result itself."""
    if (folder / "results.json").is_file():
        return []
    return [seed.name for seed in _seeds(folder) if not (seed / "results.json").is_file()]


def _seeds(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("seed*") if path.is_dir() and ".aside" not in path.name)


def differences(a: Side, b: Side, allow: list[str]) -> list[str]:
    """What the protocols of any two of them differ in, but for the network and what is allowed to."""
    free = (*outcome.NETWORK, *allow)
    found = (d for own in (*a, *b) for d in outcome.unlike(a[0].protocol, own.protocol, free))
    return [d.removeprefix("protocol.") for d in dict.fromkeys(found)]


def compare(a: Side, b: Side, allow: list[str]) -> str:
    """The figures of both, B's gain, and how many videos changed. DataError, with what differs, for two protocols."""
    if found := differences(a, b, allow):
        raise DataError(
            f"{a[0].folder} and {b[0].folder} were not scored under one protocol (here is A):\n  "
            + "\n  ".join(found)
            + "\n"
            "--reevaluate scores the cheaper one again under the protocol of the other; --allow KEY lets it differ"
        )
    if any(own.answers.videos != a[0].answers.videos for own in (*a, *b)):
        raise DataError(f"{a[0].folder} and {b[0].folder} were not scored on the same videos")
    n, title = len(a[0].answers.videos), a[0].task.title
    before, after = ([own.answers.figure for own in side] for side in (a, b))
    gain = intervals.gain_interval(after, before, n)
    lines = []
    for name, side, figures in (("A", a, before), ("B", b, after)):
        cost = side[0].figures["cost"]
        seeds = f", {len(side)} seeds" if len(side) > 1 else ""
        lines.append(
            f"{name}  {intervals.mean_interval(figures, n)} {title}, {side[0].protocol['network']}, "
            f"{cost['parameters']:,} parameters, {cost['gmacs']:.3f} GMACs{seeds}: {_shown(side)}"
        )
    points = "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*(100 * v for v in (gain.mean, gain.low, gain.high)))
    verdict = "may be chance" if gain.low <= 0 <= gain.high else "more than chance on these videos and seeds"
    lines.append(f"B - A: {points} over {n} videos; {verdict}")
    if a[0].task.primary == "top1":  # a mean over videos: of each by itself it can be said too
        change = [np.mean([f(i) for f in after]) - np.mean([f(i) for f in before]) for i in np.arange(n)[:, None]]
        lines.append(f"better on {sum(c > 0 for c in change)} videos, worse on {sum(c < 0 for c in change)}")
    return "\n".join(lines)


def reevaluated(a: Side, b: Side, allow: list[str]) -> tuple[Side, Side]:
    """The two with the one of fewer GMACs scored again under the protocol of the other. ConfigError where it is not a
    run that can be scored; VidkdError where that fails."""
    cheaper, other = (a, b) if a[0].figures["cost"]["gmacs"] <= b[0].figures["cost"]["gmacs"] else (b, a)
    again = [_score_again(own, other[0], allow) for own in cheaper]
    return (again, b) if cheaper is a else (a, again)


def _score_again(own: Outcome, other: Outcome, allow: list[str]) -> Outcome:
    run = own.folder if (own.folder / "student.safetensors").is_file() else own.folder.parent.parent
    if not (run / "student.safetensors").is_file():
        raise ConfigError(f"{own.folder}: no student.safetensors there to score again")
    words = overrides(own, other, allow)
    out = run / "evaluate" / f"as_{other.folder.resolve().parent.name}_{other.folder.name}"
    command = ["-m", "vidkd.evaluate", str(run), *words, "--part", other.protocol["part"], "--student-only"]
    command += ["--out", str(out)]
    print(shlex.join(["python", *command]), flush=True)
    if code := subprocess.run([sys.executable, *command], check=False).returncode:
        raise VidkdError(f"{run}: could not be scored again (exit status {code})")
    return outcome.read(out)


def overrides(own: Outcome, other: Outcome, allow: list[str]) -> list[str]:
    """What makes an evaluation of `own` one under the protocol of `other`: only what differs and is not allowed to."""
    p = other.protocol
    covered = p["stride"] * p["frames"]  # of source frames: clip.frames x clip.stride
    stride = round(covered - p["span_frames"] + 1)
    settings: dict[tuple[str, ...], dict[str, Any]] = {
        ("index_sha256",): {"data.root": str(config_file.load(other.folder / "config.yaml").data.root)},
        ("split",): {"data.split": p["split"]},
        ("span_frames", "stride"): {"data.clip": {"frames": round(covered / stride), "stride": stride}},
        ("fps",): {"data.fps": p["fps"]},
        ("short",): {"data.short": p["short"]},
        ("clips", "crops"): {"data.test_views": {"clips": p["clips"], "crops": p["crops"]}},
        ("windows",): {"data.windows": p["windows"]},
        ("decoder",): {"data.decoder": p["decoder"]},
        ("mixed_precision",): {"train.mixed_precision": p["mixed_precision"]},
        ("frames",): {"student.view.frames": p["frames"]},
        ("size_px",): {"student.view.size_px": p["size_px"]},
        ("degrade",): {"student.view.degrade": p["degrade"]},
    }
    wanted: dict[str, Any] = {}
    for keys, said in settings.items():
        if any(own.protocol.get(key) != p.get(key) and key not in allow for key in keys):
            wanted |= said
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in wanted.items()]


def _shown(side: Side) -> str:
    return os.path.commonpath([own.folder for own in side])


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
