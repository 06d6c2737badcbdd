"""The training loop, top to bottom."""

import math
import time
from collections.abc import Iterator
from contextlib import closing

import torch
from accelerate import Accelerator
from torch import nn

from vidkd import bottleneck, distiller, evaluation, optim, signals
from vidkd.config import Run
from vidkd.data import clips, mixing
from vidkd.data.index import Part
from vidkd.data.loading import Loader
from vidkd.distiller import Terms, Trainee
from vidkd.distributed import broadcast_state, gather_objects, mean_over_ranks
from vidkd.guard import DivergedError, Guard
from vidkd.log import Log
from vidkd.stopwatch import Stopwatch
from vidkd.taps import Frozen
from vidkd.tasks._base import BaseTask
from vidkd.teacher_cache import CachedTeacher
from vidkd.trained import Trained, check_space, prepare, resume, save
from vidkd.types import ClipBatch, View

MAX_REFUSED = 20  # fp16 steps in a row that the scaler may skip while it looks for a scale


def train(
    run: Run,
    accelerator: Accelerator,
    trainee: Trainee,
    teacher: Frozen | CachedTeacher | None,
    task: BaseTask,
    train_part: Part,
    val_part: Part | None,
    log: Log,
    wanted: str = "auto",
    stop: int | None = None,
) -> Trained:
    """Train `run` (lengths in steps) to its end, from the checkpoint that `wanted` says (trained.resume).

    A signal saves the step that was reached and ends in Interrupted; `stop` ends after that step, like a kill.
    """
    trained = prepare(run, accelerator, trainee)
    if accelerator.is_main_process:
        check_space(run, trained)
    resume(run, accelerator, trained, log, wanted)
    log.start(trained.step, trained.scored)
    steps, frozen = run.train.count(), {n for n, p in trainee.named_parameters() if not p.requires_grad}
    loader = train_loader(run, train_part, trained.step, accelerator, teacher)
    trainee.watch = watch = Stopwatch(accelerator.device)
    adviser = bottleneck.Adviser(run, accelerator.device, accelerator.num_processes, train_part, log.say)
    with signals.noted(), closing(iter(loader)) as batches:
        try:
            while True:
                scoring = run.train.eval_every and due(trained.step, run.train.eval_every.count(), steps)
                if val_part is not None and scoring and trained.scored < trained.step:
                    validate(run, trained, task, val_part, accelerator.device, log)
                if due(trained.step, run.train.save_every.count(), steps):
                    log.sync()
                    save(run, accelerator, trained)
                signals.check(accelerator.device)
                if trained.step >= (stop or steps):
                    return trained
                in_train_mode(trainee, frozen)
                if trainee.takes_turns():
                    take_turns(trainee, trained.step, frozen)
                terms, figures = update(run, trained, batches, teacher, task, accelerator, watch)
                trained.step += 1
                log.step()
                if run.data.on_error == "skip":
                    count_unreadable(run, trained, loader, len(train_part), log)
                if due(trained.step, run.train.log_every_steps, steps):
                    losses = {f"loss/{name}": value for name, value in mean_over_ranks(terms).items()}
                    log.write(trained.step, {**losses, **figures, "data/replaced": trained.unreadable.count})
                    trained.verdict = adviser.hear(watch.means())
        except signals.Interrupted as interrupted:
            log.sync()
            save(run, accelerator, trained)
            log.say(f"{interrupted}: step {trained.step} is saved; the same command goes on from there")
            raise


def update(
    run: Run,
    trained: Trained,
    batches: Iterator[ClipBatch],
    teacher: Frozen | CachedTeacher | None,
    task: BaseTask,
    accelerator: Accelerator,
    watch: Stopwatch,
) -> tuple[Terms, dict[str, float]]:
    """One optimiser step over `accumulate` micro-batches: the mean of each loss term, and the step's figures."""
    started, n_clips, sums = time.perf_counter(), 0, Terms()
    figures = set_learning_rates(run, trained)
    guard = Guard(run.out_dir)
    for micro in range(run.train.accumulate):
        with watch("data"):
            batch = next(batches).to(accelerator.device)
        n_clips += len(batch.label)
        address = (run.seed, trained.step * run.train.accumulate + micro, accelerator.process_index)
        torch.manual_seed(clips.mixed_seed(*address))  # dropout and noise are addressed, not consumed
        batch = mixing.mix(batch, run.data.augment, task.num_outputs(), clips.generator(*address, 1))
        with accelerator.accumulate(trained.trainee):
            with accelerator.autocast():
                seen = None
                if teacher is not None:
                    with watch("teacher"):
                        seen = teach(teacher, batch)
                student, distilled = trained.trainee(batch, seen)
            supervised = task.losses(batch, student)
            terms = distiller.losses(run, trained.step, supervised, distilled)
            if run.log.gradients and due(trained.step + 1, run.train.log_every_steps, run.train.count()):
                pulls = distiller.weighted(run, trained.step, supervised, distilled)
                norms = distiller.gradient_norms(pulls, trained.unwrapped().student)
                figures |= {f"grad/{name}": norm for name, norm in norms.items()}
            with watch("backward"):
                accelerator.backward(terms["total"])
            guard.add(batch, seen, terms)
            sums = {name: sums.get(name, 0.0) + term.detach().float() for name, term in terms.items()}
            if accelerator.sync_gradients:
                with watch("optimiser"):
                    figures |= (norms := clip(run, trained, accelerator))
                    # fp16 overflows now and then; its scaler skips such a step by itself
                    guard.check(trained.step + 1, norms if accelerator.scaler is None else {}, accelerator.device)
                    step_optimizers(trained, accelerator)
    if trained.ema is not None:
        trained.ema.update_parameters(trained.unwrapped().student)
    spent = watch.lap()
    trained.seconds += (seconds := time.perf_counter() - started)
    figures |= {f"time/{part}_s": s for part, s in {"step": seconds, **spent}.items()}
    rate = n_clips * accelerator.num_processes / seconds
    figures |= {"time/data_share": spent["data"] / seconds, "time/clips_per_s": rate}
    return {name: total / run.train.accumulate for name, total in sums.items()}, figures


def teach(teacher: Frozen | CachedTeacher, batch: ClipBatch) -> View:
    return teacher.replay(batch) if isinstance(teacher, CachedTeacher) else teacher(batch.seen_by("teacher"))


def set_learning_rates(run: Run, trained: Trained) -> dict[str, float]:
    rates = {}
    for name, optimizer in trained.optimizers.items():
        section = run.optim_methods if name == "methods" and run.optim_methods else run.optim
        rates[f"optim/lr_{name}"] = optim.learning_rate(section, trained.step, run.train.count())
        optim.set_learning_rate(optimizer, rates[f"optim/lr_{name}"])
    return rates


def clip(run: Run, trained: Trained, accelerator: Accelerator) -> dict[str, float]:
    """Clip each optimiser's gradients as its section says; their norms before that."""
    norms = {}
    for name, optimizer in trained.optimizers.items():
        section = run.optim_methods if name == "methods" and run.optim_methods else run.optim
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(optimizer)
        if section.max_grad_value is not None:
            nn.utils.clip_grad_value_(parameters, section.max_grad_value)
        norms[f"optim/grad_norm_{name}"] = float(
            nn.utils.clip_grad_norm_(parameters, section.max_grad_norm or math.inf)
        )
    return norms


def step_optimizers(trained: Trained, accelerator: Accelerator) -> None:
    """Step every optimiser, and the fp16 scale once for all of them; DivergedError if it refuses step after step."""
    scaler = accelerator.scaler
    for optimizer in trained.optimizers.values():
        optimizer.step() if scaler is None else scaler.step(optimizer)
        optimizer.zero_grad()
    if scaler is not None:
        before = scaler.get_scale()
        scaler.update()
        trained.refused = trained.refused + 1 if scaler.get_scale() < before else 0
        if trained.refused > MAX_REFUSED:
            raise DivergedError(f"step {trained.step + 1}: fp16 overflowed {trained.refused} times in a row; use bf16")


def count_unreadable(run: Run, trained: Trained, loader: Loader, videos: int, log: Log) -> None:
    """Count and name the videos that any process had to replace in this step; DataError if they become too many."""
    allowed = max(1.0, run.data.max_bad_fraction * videos)  # one is not yet a habit, however few there are
    for bad in (bad for of_rank in gather_objects(loader.replaced) for bad in of_rank):
        log.say(f"replaced by {bad.used}: {bad.reason}")
        trained.unreadable.add(bad, allowed)
    loader.replaced.clear()


def take_turns(trainee: Trainee, step: int, frozen: set[str]) -> None:
    """Let only the parameters that learn at `step` receive gradients; the optimiser skips the others, and the batch
    statistics of modules in which nothing learns stay as they are."""
    resting = frozen | {name for name, _ in trainee.named_parameters() if not trainee.learns(name, step)}
    for name, parameter in trainee.named_parameters():
        parameter.requires_grad_(name not in resting)
    in_train_mode(trainee, resting)


def in_train_mode(trainee: Trainee, frozen: set[str]) -> None:
    """Train mode, but for the modules whose parameters are all in `frozen`: their batch statistics must not move."""
    trainee.train()
    for prefix, module in trainee.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        if names and frozen.issuperset(names):
            module.eval()


def validate(run: Run, trained: Trained, task: BaseTask, part: Part, device: torch.device, log: Log) -> None:
    """Score the val part; remember the student if it was never better."""
    student = trained.student()
    broadcast_state(student)
    scores = evaluation.score({"student": student}, task, run, part, device)["student"]
    results = task.results(scores)
    value = float(results[task.primary])
    if value > trained.best_value:
        trained.best_value = value
        trained.best = {name: t.detach().cpu().clone() for name, t in student.state_dict().items()}
        trained.best_kept = {name: t.detach().cpu().clone() for name, t in trained.unwrapped().kept().items()}
    trained.scored = trained.step
    log.write(trained.step, {f"val/{k}": v for k, v in results.items() if isinstance(v, int | float)})


def train_loader(
    run: Run, part: Part, first_step: int, accelerator: Accelerator, teacher: Frozen | CachedTeacher | None
) -> Loader:
    """This process's micro-batches from `first_step` on; a cached teacher needs no view of its own."""
    k = run.train.accumulate
    sampler = clips.StepSampler(
        size=len(part),
        micro_batch_global=run.train.batch_size // k,
        seed=run.seed,
        first=first_step * k,
        last=run.train.count() * k,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        accumulate=k,
    )
    views, addresses = run.views(), None
    if isinstance(teacher, CachedTeacher):
        addresses = teacher.addresses
        if teacher.normalise is None:  # no method reads the teacher's input
            del views["teacher"]
    return clips.train_loader(part, run.data, views, sampler, run.seed, addresses)


def due(step: int, every: int, last: int) -> bool:
    return step > 0 and (step % every == 0 or step == last)
