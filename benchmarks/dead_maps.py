"""OMP_NUM_THREADS=1 python benchmarks/dead_maps.py RUN [--tap late ...] [--clips 20]

How many maps of a run's networks have no direction: of every tap, the share of its (clip, channel) maps that are zero
everywhere over (t, h, w), and of its (clip, frame, channel) maps over (h, w). The clips are the middle views of videos
spread over the run's test part, as its student and, where it still has one, its teacher see them. What a ReLU has cut
has such maps, the more the smaller they are; before it (the tap late_signed) there are none.
"""

import argparse
import sys
from pathlib import Path

import torch

from vidkd import cli, config_file, distiller, export
from vidkd.data import clips, index
from vidkd.errors import ConfigError, one_of
from vidkd.methods._maps import dead_share
from vidkd.taps import Frozen, Tapped


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tap", nargs="+", help="default: every tap of the networks")
    parser.add_argument("--clips", type=int, default=20)
    args = parser.parse_args(argv)
    if args.clips < 1:
        raise ConfigError(f"--clips {args.clips}: must be 1 or more")
    lines = ["| | tap | [T, H, W, C] | all-zero clip maps | all-zero frame maps | smallest value |"]
    lines += ["|---|---|---|---|---|---|", *counted(args.run, args.tap, args.clips)]
    print("\n".join(lines))
    return 0


@torch.no_grad()
def counted(folder: Path, taps: list[str] | None, most: int) -> list[str]:
    """A line of the table for every tap of either network."""
    run = config_file.load(folder / "config.yaml")
    data_set = index.read(run.data.root)
    part = clips.part_of(data_set, run, distiller.build_task(run, data_set.classes), run.data.test)
    networks: dict[str, Tapped] = {"student": export.load_student(folder).tapped}
    if run.teacher is not None:
        teacher = distiller.build_network(run.teacher, len(data_set.classes), run.data.clip.frames, "teacher")[0]
        networks["teacher"] = Frozen(teacher).tapped
    offered = [name for network in networks.values() for name in network.taps]
    for tap in taps or ():
        if tap not in offered:
            raise ConfigError(one_of(tap, sorted(set(offered)), "tap"))
    shown = clips.TestClips(part, run.data, run.views())
    count = min(most, len(part))
    seen = [shown.load((0, i * len(part) // count)).views for i in range(count)]
    lines = []
    for who, network in networks.items():
        answers = [network(views[who][len(views[who]) // 2].unsqueeze(0)).taps for views in seen]
        for tap in network.taps:
            maps = torch.cat([answer[tap] for answer in answers])
            if maps.ndim == 5 and tap in (taps or network.taps):
                lines.append(line(who, tap, maps))
    return lines


def line(who: str, tap: str, maps: torch.Tensor) -> str:
    """maps [B, C, T, H, W] -> their line."""
    c, t, h, w = maps.shape[1:]
    dead = (f"{dead_share(maps, form):.1%}" for form in ("spatiotemporal", "per_frame"))
    return f"| {who} | {tap} | {t}x{h}x{w}x{c} | {' | '.join(dead)} | {maps.min().item():.3g} |"


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
