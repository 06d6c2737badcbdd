"""accelerate launch -m vidkd.cache CONFIG [KEY=VALUE ...]

Build the teacher cache that training CONFIG would build in its first minutes, or finish one that was interrupted: for
many GPUs, or once before a grid. The same command again does nothing but check it.
"""

import argparse
import sys
from pathlib import Path

import torch

from vidkd import cli, config_file, distiller, preflight, processes, teacher_cache
from vidkd.data import clips, index
from vidkd.errors import ConfigError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.cache", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(argv)
    run = config_file.load(args.config, args.overrides)
    if run.teacher is None or run.teacher.cache is None:
        raise ConfigError(f"{args.config}: it has no teacher.cache section to build")
    teacher_cache.check(run)
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    accelerator = processes.make_accelerator(run)
    say = print if accelerator.is_main_process else lambda text: None
    data_set = index.read(run.data.root)
    clips.check(data_set, run)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.train, training=True)
    torch.manual_seed(run.seed)  # as train does: a teacher without weights is then the same one
    trainee, teacher, _ = distiller.build(run, len(data_set.classes))
    assert teacher is not None
    teacher.to(accelerator.device)
    say(preflight.check_teacher(run, teacher, part, task, accelerator.device))
    methods = trainee.each_method()
    say(teacher_cache.open_cache(run, data_set, part, teacher, methods, accelerator.device, say).verdict)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main, sys.argv[1:]))
