"""The training loop, top to bottom."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import torch
from accelerate import Accelerator

from vidkd import bottleneck, distiller, evaluation, signals, stepping
from vidkd.config import Run
from vidkd.data import clips, mixing, order
from vidkd.data.index import Part
from vidkd.data.loading import Loader
from vidkd.distiller import Terms, Trainee
from vidkd.distributed import averaged, broadcast_state, gather_objects, mean_over_ranks, on_first
from vidkd.guard import Guard
from vidkd.log import Log
from vidkd.stopwatch import Stopwatch
from vidkd.taps import Frozen
from vidkd.tasks._base import BaseTask
from vidkd.teacher_cache import CachedTeacher
from vidkd.trained import Trained, resume, save
from vidkd.types import ClipBatch, View


def train(
    run: Run,
    accelerator: Accelerator,
    trained: Trained,
    teacher: Frozen | CachedTeacher | None,
    task: BaseTask,
    train_part: Part,
    val_part: Part | None,
    log: Log,
    wanted: str = "auto",
    stop: int | None = None,
) -> None:
    """Train `run` (lengths in steps) to its end, from the checkpoint that `wanted` says (trained.resume).

    A signal saves the step that was reached and ends in Interrupted; `stop` ends after that step, like a kill.
    """
    trainee = trained.unwrapped()
    resume(run, accelerator, trained, log, wanted)
    on_first(lambda: log.start(trained.step, trained.scored))
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
                    on_first(log.sync)
                    save(run, accelerator, trained)
                signals.check(accelerator.device)
                if trained.step >= (stop or steps):
                    return
                in_train_mode(trainee, frozen)
                if trainee.takes_turns():
                    take_turns(trainee, trained.step, frozen)
                terms, figures = update(run, trained, batches, teacher, task, accelerator, watch, log.say)
                trained.step += 1
                log.step()
                if run.data.on_error == "skip":
                    count_unreadable(run, trained, loader, len(train_part), log)
                if due(trained.step, run.train.log_every_steps, steps):
                    losses = {f"loss/{name}": value for name, value in mean_over_ranks(terms).items()}
                    counts = {"data/replaced": trained.unreadable.count, "train/left_out": trained.left_out}
                    log.write(trained.step, {**losses, **figures, **counts})
                    trained.verdict = adviser.hear(watch.means())
        except signals.Interrupted as interrupted:
            on_first(log.sync)
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
    say: Callable[[str], None],
) -> tuple[Terms, dict[str, float]]:
    """One optimiser step over `accumulate` micro-batches: the mean of each loss term, and the step's figures.

    No terms for a step that was left out (train.on_nonfinite: skip).
    """
    started, n_clips, device = time.perf_counter(), 0, accelerator.device
    figures, before = stepping.set_learning_rates(run, trained), stepping.statistics(run, trained)
    pulling = run.log.gradients and due(trained.step + 1, run.train.log_every_steps, run.train.count())
    sums, pulls, k = Sums(), Sums(), run.train.accumulate
    guard = Guard(run.out_dir)
    for micro in range(k):
        address = (run.seed, trained.step * k + micro, accelerator.process_index)
        with watch("data"):
            loaded = next(batches)
            batch = mixed(run, task, loaded, address, device)
        n_clips += len(batch.label)
        torch.manual_seed(order.mixed_seed(*address))  # dropout and noise are addressed, not consumed
        with accelerator.accumulate(trained.trainee):
            with accelerator.autocast():
                seen = None
                if teacher is not None:
                    with watch("teacher"):
                        seen = teach(teacher, batch)
                student, distilled = trained.trainee(batch, seen)
            supervised = task.losses(batch, student)
            terms = distiller.losses(run, trained.step, supervised, distilled)
            if pulling:
                pull = distiller.weighted(run, trained.step, supervised, distilled)
                pulls.add(distiller.gradients(pull, trained.unwrapped().student))
            with watch("backward"):
                accelerator.backward(terms["total"])
            guard.add(batch.clip, partial(mixed, run, task, loaded, address, device), seen, terms)
            sums.add(terms)
            if accelerator.sync_gradients:
                with watch("optimiser"):
                    norms = stepping.clip(run, trained, accelerator)
                    # fp16 overflows now and then; its scaler skips such a step by itself
                    wrong = guard.check(trained.step + 1, norms if accelerator.scaler is None else {}, device)
                    if wrong:
                        stepping.leave_out(run, trained, accelerator.scaler, wrong, before)
                        say(f"left out: {wrong}")
                        sums, pulls = Sums(), Sums()
                    else:
                        stepping.update(trained, accelerator.scaler)
                        figures |= norms
    spent = watch.lap()
    trained.seconds += (seconds := time.perf_counter() - started)
    figures |= {f"time/{part}_s": s for part, s in {"step": seconds, **spent}.items()}
    rate = n_clips * accelerator.num_processes / seconds
    figures |= {"time/data_share": spent["data"] / seconds, "time/clips_per_s": rate}
    figures |= {f"grad/{name}": float((averaged(pull) / k).norm()) for name, pull in pulls.items()}
    return {name: total / k for name, total in sums.items()}, figures


class Sums(Terms):
    """Of every term, over micro-batches, in float32."""

    def add(self, terms: Terms) -> None:
        for name, term in terms.items():
            self[name] = self[name] + term.detach().float() if name in self else term.detach().float()


def mixed(run: Run, task: BaseTask, loaded: ClipBatch, address: tuple[int, ...], device: torch.device) -> ClipBatch:
    """A batch as the networks see it: on the device, mixed as its address says."""
    made = mixing.mix(loaded.to(device), run.data.augment, task.num_outputs(), order.generator(*address, 1))
    return task.altered(made)


def teach(teacher: Frozen | CachedTeacher, batch: ClipBatch) -> View:
    return teacher.replay(batch) if isinstance(teacher, CachedTeacher) else teacher(batch.seen_by("teacher"))


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
    scores = evaluation.score({"student": student}, task.keep, run, part, device)["student"]
    results = task.results(scores)
    value = float(results[task.primary])
    if value > trained.best_value:
        trained.best_value = value
        trained.best = {name: t.detach().cpu().clone() for name, t in student.state_dict().items()}
        trained.best_kept = {name: t.detach().cpu().clone() for name, t in trained.unwrapped().kept().items()}
    trained.scored = trained.step
    trained.saved = min(trained.saved, trained.step - 1)  # one that a signal during this left does not know of it
    log.write(trained.step, {f"val/{k}": v for k, v in results.items() if isinstance(v, int | float)})


def train_loader(
    run: Run, part: Part, first_step: int, accelerator: Accelerator, teacher: Frozen | CachedTeacher | None
) -> Loader:
    """This process's micro-batches from `first_step` on; a cached teacher needs no view of its own."""
    k = run.train.accumulate
    sampler = order.StepSampler(
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
