"""accelerate launch -m vidkd.train CONFIG [KEY=VALUE ...] [--resume auto|never|CHECKPOINT] [--print-config]

Train the `student` of CONFIG, with its `teacher` and `methods` if it has them, evaluate it, and leave in runs/<name>:
student.safetensors, config.yaml, MODEL_CARD.md, results.json, predictions and metrics.jsonl. The same command again
goes on where it stopped. SIGTERM, SIGUSR1, SIGHUP (a closed terminal) and Ctrl-C save the step that was reached and end
with 128 + the signal's number; a second Ctrl-C ends at once.
"""

import argparse
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from vidkd import (
    cli,
    config_file,
    distiller,
    distributed,
    export,
    preflight,
    processes,
    results,
    run_dir,
    signals,
    teacher_cache,
    trained,
    trainer,
)
from vidkd.config import Run
from vidkd.data import clips, decode, features, index
from vidkd.errors import ConfigError
from vidkd.log import Log


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="vidkd.train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|CHECKPOINT",
        help="auto: from the newest checkpoint; never: delete an earlier run first; CHECKPOINT: from that folder",
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    args = parser.parse_intermixed_args(argv)
    run = config_file.load(args.config, args.overrides)
    if args.print_config:
        print(config_file.dump(run), end="")
        return 0
    if args.resume not in trained.RESUME and not Path(args.resume).is_dir():
        raise ConfigError(f"--resume {args.resume}: neither auto nor never nor the folder of a checkpoint")
    with cli.whoever_reads():
        print(summary(train(run, args.resume)))
    return 0


def train(run: Run, resume: str = "auto", stop: int | None = None) -> dict[str, Any]:
    """The whole run; its results. `stop` ends the training after that step without evaluating, as a kill would."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signals.die_with_parent(signal.SIGTERM)  # a launcher that was killed leaves nobody behind in the run's folder
    signals.not_without_parent()
    accelerator = processes.make_accelerator(run)
    processes.check(run, accelerator)
    data_set = index.read(run.data.root)
    clips.check(data_set, run)
    decode.check(run.data.decoder)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.train, training=True)
    test = clips.part_of(data_set, run, task, run.data.test)
    val = clips.part_of(data_set, run, task, run.data.val) if run.data.val else None
    for scored in (test, val):  # that it can be scored is known before the training, not after
        if scored is not None:
            scored.check_files()
    if len(part) < run.train.batch_size:
        raise ConfigError(f"train.batch_size {run.train.batch_size} is more than the {len(part)} training clips")
    run = trained.as_saved(run, part)

    sums = trained.inputs(run, data_set) | task.protocol()
    run_dir.same_everywhere(run, sums, trained.versions())
    lock = distributed.on_first(lambda: run_dir.claim(run, resume))
    if resume != "never":
        distributed.on_first(lambda: run_dir.same_inputs(run.out_dir, sums))
    run_dir.shared(run.out_dir)
    if resume != "never" and stop is None and (done := distributed.from_first(lambda: run_dir.finished(run.out_dir))):
        return done
    torch.manual_seed(run.seed)
    trainee, teacher, accounts = distiller.build(run, len(data_set.classes))
    for network in (trainee.student, *([teacher.tapped] if teacher else [])):
        network.check_channels(features.channels(part))
    distiller.check_weights(run, trainee, task)
    task.asks(trainee.student)
    state = trained.prepare(run, accelerator, trainee)
    state.inputs = sums
    log = Log(run, run.out_dir, accelerator.is_main_process)
    if accelerator.device.type == "cpu" and run.train.mixed_precision != "no":
        log.say(
            f"train.mixed_precision: {run.train.mixed_precision} on a CPU: weight gradients of 3-D convolutions with "
            "few positions were seen to be garbage (docs/performance.md); teacher.mixed_precision is safe, this is not"
        )
    for account in accounts:
        log.say(account)
    guide: Any = teacher
    if teacher is not None:
        teacher.to(accelerator.device)
        log.say(preflight.check_teacher(run, teacher, part, task, accelerator.device))
        if run.teacher and run.teacher.cache:
            teacher_cache.check(run)
            guide = teacher_cache.open_cache(
                run, data_set, part, teacher, trainee.each_method(), accelerator.device, log.say
            )
            log.say(guide.verdict)
    distributed.on_first(lambda: trained.check_space(run, state))
    distributed.on_first(lambda: run_dir.begin(run, resume, sums))  # nothing more can be wrong with the run
    distributed.on_first(lambda: trained.check_grace(run, state, log))
    with closing(log):
        trainer.train(run, accelerator, state, guide, task, part, val, log, resume, stop)
    if stop is not None:
        return {}
    student = state.student()
    if state.best:
        student.load_state_dict(state.best)
    distributed.broadcast_state(student)
    outcome = results.evaluate(
        run, data_set, run.data.test, task, student, teacher, run.out_dir,
        training_s=state.seconds, bottleneck=state.verdict,
    )  # fmt: skip
    distributed.on_first(lambda: trained.save_kept(run, state))
    distributed.on_first(lambda: export.save_student(run.out_dir, student, run, data_set.classes, outcome))
    del lock
    return outcome


def summary(outcome: dict[str, Any]) -> str:
    """What a person wants to read at the end."""
    lines = [f"{outcome['name']}, seed {outcome['seed']}:"]
    for who in ("student", "teacher"):
        if who in outcome:
            lines.append(f"  {who:8}{results.one_line(outcome[who])}")
    if outcome.get("bottleneck"):
        lines.append(f"  {outcome['bottleneck']}")
    return "\n".join(lines)


if __name__ == "__main__":
    signals.command()
    sys.exit(cli.run_main(main, sys.argv[1:]))
