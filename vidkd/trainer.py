"""The training loop, top to bottom."""

import math
import time
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from vidkd import distiller, evaluation, optim
from vidkd.config import Run
from vidkd.data import clips, mixing
from vidkd.data.index import Part
from vidkd.distiller import Terms, Trainee
from vidkd.distributed import any_rank, mean_over_ranks
from vidkd.errors import DataError
from vidkd.log import Log
from vidkd.taps import Frozen
from vidkd.tasks._base import BaseTask
from vidkd.teacher_cache import CachedTeacher
from vidkd.trained import Trained, prepare, resume, save
from vidkd.types import ClipBatch, View


class DivergedError(DataError):
    """A loss or a gradient stopped being a number; no weight was changed by it."""


def train(
    run: Run,
    accelerator: Accelerator,
    trainee: Trainee,
    teacher: Frozen | CachedTeacher | None,
    task: BaseTask,
    train_part: Part,
    val_part: Part | None,
    log: Log,
    stop: int | None = None,
) -> Trained:
    """Train `run` (lengths in steps) from its newest checkpoint, if any, to its end; `stop` ends early, like a kill."""
    trained = prepare(run, accelerator, trainee)
    resume(run, accelerator, trained, log)
    log.start(trained.step)
    steps, frozen = run.train.count(), {n for n, p in trainee.named_parameters() if not p.requires_grad}
    batches = micro_batches(run, train_part, trained.step, accelerator, teacher)
    in_train_mode(trainee)
    while trained.step < (stop or steps):
        if trainee.takes_turns():
            take_turns(trainee, trained.step, frozen)
        terms, figures = update(run, trained, batches, teacher, task, accelerator)
        trained.step += 1
        log.step()
        if due(trained.step, run.train.log_every_steps, steps):
            losses = {f"loss/{name}": value for name, value in mean_over_ranks(terms).items()}
            log.write(trained.step, {**losses, **figures})
        if val_part is not None and run.train.eval_every and due(trained.step, run.train.eval_every.count(), steps):
            validate(run, trained, task, val_part, accelerator.device, log)
            in_train_mode(trainee)
        if due(trained.step, run.train.save_every.count(), steps):
            save(run, accelerator, trained)
    return trained


def update(
    run: Run,
    trained: Trained,
    batches: Iterator[ClipBatch],
    teacher: Frozen | CachedTeacher | None,
    task: BaseTask,
    accelerator: Accelerator,
) -> tuple[Terms, dict[str, float]]:
    """One optimiser step over `accumulate` micro-batches: the mean of each loss term, and the step's figures."""
    started, waited, n_clips = time.perf_counter(), 0.0, 0
    figures = set_learning_rates(run, trained)
    sums: Terms = {}
    for micro in range(run.train.accumulate):
        asked = time.perf_counter()
        batch = next(batches).to(accelerator.device)
        waited += time.perf_counter() - asked
        n_clips += len(batch.label)
        address = (run.seed, trained.step * run.train.accumulate + micro, accelerator.process_index)
        torch.manual_seed(clips.mixed_seed(*address))  # dropout and noise are addressed, not consumed
        batch = mixing.mix(batch, run.data.augment, task.num_outputs(), clips.generator(*address, 1))
        with accelerator.accumulate(trained.trainee):
            with accelerator.autocast():
                seen = None if teacher is None else teach(teacher, batch)
                student, distilled = trained.trainee(batch, seen)
            terms = distiller.losses(run, trained.step, task.losses(batch, student), distilled)
            accelerator.backward(terms["total"])
            sums = {name: sums.get(name, 0.0) + term.detach().float() for name, term in terms.items()}
            if accelerator.sync_gradients:
                figures |= clip(run, trained, accelerator)
                refuse_non_finite(run, trained, sums, figures, batch, accelerator)
            for optimizer in trained.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
    if trained.ema is not None:
        trained.ema.update_parameters(trained.unwrapped().student)
    seconds = time.perf_counter() - started
    trained.seconds += seconds
    figures["time/step_s"] = seconds
    figures["time/data_share"] = waited / seconds
    figures["time/clips_per_s"] = n_clips * accelerator.num_processes / seconds
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
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if section.max_grad_value is not None:
            accelerator.clip_grad_value_(parameters, section.max_grad_value)
        norm = accelerator.clip_grad_norm_(parameters, section.max_grad_norm or math.inf)
        norms[f"optim/grad_norm_{name}"] = float(norm) if norm is not None else 0.0
    return norms


def refuse_non_finite(
    run: Run, trained: Trained, terms: Terms, figures: dict[str, float], batch: ClipBatch, accelerator: Accelerator
) -> None:
    """DivergedError on every process, before any weight changes, if a term or gradient on any of them is not finite."""
    bad = [name for name, term in terms.items() if not torch.isfinite(term)]
    if run.train.mixed_precision != "fp16":  # fp16 overflows now and then; its scaler skips such a step by itself
        bad += [name for name, value in figures.items() if not math.isfinite(value)]
    if any_rank(bool(bad), accelerator.device):
        where = ", ".join(bad) if bad else "a term on another process"
        raise DivergedError(
            f"step {trained.step + 1}: not finite: {where}. Clips: {', '.join(batch.clip)}. "
            "No weight was changed by this step. A lower optim.lr, a longer warm-up or optim.max_grad_norm may help"
        )


def take_turns(trainee: Trainee, step: int, frozen: set[str]) -> None:
    """Let only the parameters that learn at `step` receive gradients; the optimiser skips the others."""
    for name, parameter in trainee.named_parameters():
        parameter.requires_grad_(name not in frozen and trainee.learns(name, step))


def in_train_mode(trainee: Trainee) -> None:
    """Train mode, but for what is wholly frozen: its batch statistics must not move either."""
    trainee.train()
    for module in trainee.student.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters) and not trainee.takes_turns():
            module.eval()


def validate(run: Run, trained: Trained, task: BaseTask, part: Part, device: torch.device, log: Log) -> None:
    """Score the val part; remember the student if it was never better."""
    student = trained.student()
    scores = evaluation.score({"student": student}, task, run, part, device)["student"]
    results = task.results(scores)
    value = float(results[task.primary])
    if value > trained.best_value:
        trained.best_value = value
        trained.best = {name: t.detach().cpu().clone() for name, t in student.state_dict().items()}
    log.write(trained.step, {f"val/{k}": v for k, v in results.items() if isinstance(v, int | float)})


def micro_batches(
    run: Run, part: Part, first_step: int, accelerator: Accelerator, teacher: Frozen | CachedTeacher | None
) -> Iterator[ClipBatch]:
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
    cached = isinstance(teacher, CachedTeacher)
    views = {name: view for name, view in run.views().items() if not (cached and name == "teacher")}
    addresses = teacher.addresses if isinstance(teacher, CachedTeacher) else None
    return iter(clips.train_loader(part, run.data, views, sampler, run.seed, addresses))


def due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
