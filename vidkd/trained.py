"""What a run is made of while it trains, and how it is saved and restored."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidkd import checkpoint, optim
from vidkd.config import Run
from vidkd.distiller import Trainee
from vidkd.errors import ConfigError
from vidkd.log import Log
from vidkd.taps import Tapped

ON_CPU = (
    "on CPU accelerate launch starts one whatever --num_processes says; "
    "use: torchrun --nproc_per_node N -m vidkd.train CONFIG"
)


@dataclass
class Trained:
    """All the loop remembers. Everything here is in a checkpoint; everything else is a function of the step."""

    trainee: nn.Module  # Trainee, perhaps inside DDP
    optimizers: dict[str, torch.optim.Optimizer]  # "student", "methods"
    ema: AveragedModel | None
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # the student's weights at its best on the val part
    best_value: float = -math.inf
    seconds: float = 0.0  # spent in steps, over all starts of the run
    refused: int = 0  # fp16 steps in a row that the scaler skipped, up to now

    def student(self) -> Tapped:
        """The student that is evaluated: the averaged one where there is one."""
        student = self.unwrapped().student if self.ema is None else self.ema.module
        assert isinstance(student, Tapped)
        return student

    def unwrapped(self) -> Trainee:
        """The trainee outside DDP."""
        trainee = getattr(self.trainee, "module", self.trainee)
        assert isinstance(trainee, Trainee)
        return trainee


def make_accelerator(run: Run) -> Accelerator:
    """Devices, processes and precision; ConfigError if another number of processes runs than the launcher said."""
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=run.train.mixed_precision,
        gradient_accumulation_steps=run.train.accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=bool(run.methods))],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ConfigError(f"{accelerator.num_processes} process(es) run, the launcher started {launched}; {ON_CPU}")
    return accelerator


def check_processes(run: Run, accelerator: Accelerator) -> None:
    """ConfigError if the processes are not those that train.processes wants, or cannot share train.batch_size."""
    count = accelerator.num_processes
    if run.train.processes not in (None, count):
        raise ConfigError(f"{count} process(es) run, train.processes is {run.train.processes}; {ON_CPU}")
    if run.train.batch_size % (count * run.train.accumulate):
        raise ConfigError(
            f"train.batch_size {run.train.batch_size} must be a multiple of processes x accumulate = "
            f"{count * run.train.accumulate}"
        )


def prepare(run: Run, accelerator: Accelerator, trainee: Trainee) -> Trained:
    """Optimisers, the average, the device and DDP."""
    named = list(trainee.named_parameters())
    student = [(n.removeprefix("student.net."), p) for n, p in named if n.startswith("student.")]
    owned = [(n, p) for n, p in named if n.startswith("methods.")]
    made = {
        "student": optim.optimizer(run.optim, student),
        "methods": optim.optimizer(run.optim_methods or run.optim.model_copy(update={"lr_scale": {}}), owned),
    }
    if made["student"] is None:
        raise ConfigError("optim.lr_scale freezes every parameter of the student: nothing would be learned")
    ema = None
    if run.train.ema is not None:
        ema = AveragedModel(trainee.student, multi_avg_fn=get_ema_multi_avg_fn(run.train.ema), use_buffers=True)
        ema.to(accelerator.device)
    # Not handed to accelerate: its wrapper steps the fp16 scale once for every optimiser, not once for all of them.
    optimizers = {name: o for name, o in made.items() if o is not None}
    return Trained(accelerator.prepare(trainee), optimizers, ema)


def save(run: Run, accelerator: Accelerator, trained: Trained) -> None:
    """Publish a checkpoint; the first process writes, the others wait."""
    if accelerator.is_main_process:
        groups = {"trainee": trained.unwrapped().state_dict(), "best": trained.best}
        groups |= {f"optim_{name}": checkpoint.optimizer_tensors(o) for name, o in trained.optimizers.items()}
        if trained.ema is not None:
            groups["ema"] = trained.ema.state_dict()
        state: dict[str, Any] = {"best_value": trained.best_value if trained.best else None, "seconds": trained.seconds}
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        checkpoint.save(checkpoints(run), trained.step, {k: v for k, v in groups.items() if v}, state)
    accelerator.wait_for_everyone()


def resume(run: Run, accelerator: Accelerator, trained: Trained, log: Log) -> None:
    """Restore the newest checkpoint that verifies, if there is any; every tensor by name, none left out."""
    found = checkpoint.newest(checkpoints(run))
    if found is None:
        return
    groups, state, step, complaints = found
    for complaint in complaints:
        log.say(f"a newer checkpoint was passed over: {complaint}")
    trained.unwrapped().load_state_dict(groups["trainee"])
    for name, optimizer in trained.optimizers.items():
        checkpoint.restore_optimizer(optimizer, groups.get(f"optim_{name}", {}))
    if trained.ema is not None:
        trained.ema.load_state_dict(groups["ema"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    trained.best, trained.step, trained.seconds = groups.get("best", {}), step, state["seconds"]
    trained.best_value = -math.inf if state["best_value"] is None else state["best_value"]
    log.say(f"resumed from step {step}")


def checkpoints(run: Run) -> Path:
    return run.out_dir / "checkpoints"
