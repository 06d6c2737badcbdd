"""What a run is made of while it trains, and how it is saved and restored."""

import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vidkd
from vidkd import checkpoint, config_file, distributed, optim, run_dir
from vidkd.config import Run
from vidkd.data import decode
from vidkd.data.index import Index, Part
from vidkd.data.loading import Unreadable
from vidkd.distiller import Trainee
from vidkd.errors import ConfigError, DataError, VidkdError
from vidkd.log import Log
from vidkd.models import weights
from vidkd.section import in_steps
from vidkd.taps import Tapped

# With which the libraries below torch compute other bits; ATEN_CPU_CAPABILITY is seen as the processor
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
             "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
             "CUBLAS_WORKSPACE_CONFIG")  # fmt: skip
RESUME = ("auto", "never")  # or the path of a checkpoint
COUNTS = ("refused", "left_out", "left_out_in_a_row")  # plain numbers of Trained that a checkpoint holds by their name


@dataclass
class Trained:
    """All the loop remembers. All that decides a result is in a checkpoint; the rest is a function of the step."""

    trainee: nn.Module  # Trainee, perhaps inside DDP
    optimizers: dict[str, torch.optim.Optimizer]  # "student", "methods"
    ema: AveragedModel | None
    inputs: dict[str, Any] = field(default_factory=dict)  # checksums of its data and weights
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # the student's weights at its best on the val part
    best_kept: dict[str, Tensor] = field(default_factory=dict)  # what the methods keep, of the same moment
    best_value: float = -math.inf
    scored: int = 0  # the last step after which the val part was scored
    saved: int = 0  # the last step of which there is a checkpoint that knows all that is known
    unreadable: Unreadable = field(default_factory=Unreadable)
    seconds: float = 0.0  # spent in steps, over all starts of the run
    refused: int = 0  # fp16 steps in a row that the scaler skipped, up to now
    left_out: int = 0  # steps in which something was no number (train.on_nonfinite: skip)
    left_out_in_a_row: int = 0  # up to now
    verdict: str = ""  # what held this start of the run up (bottleneck.py); in no checkpoint

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
    check_frozen_statistics(trainee.student)
    ema = None
    if run.train.ema is not None:
        ema = AveragedModel(trainee.student, multi_avg_fn=get_ema_multi_avg_fn(run.train.ema), use_buffers=True)
        ema.to(accelerator.device)
    # Not handed to accelerate: its wrapper steps the fp16 scale once for every optimiser, not once for all of them.
    optimizers = {name: o for name, o in made.items() if o is not None}
    return Trained(accelerator.prepare(trainee), optimizers, ema)


def check_frozen_statistics(student: nn.Module) -> None:
    """ConfigError for batch normalisation that is frozen with the statistics it was made with: it would normalise
    nothing, and activations would fade from layer to layer."""
    for name, module in student.named_modules():
        if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) or module.running_mean is None:
            continue
        own, variance = list(module.parameters()), module.running_var
        unlearned = not module.running_mean.any() and variance is not None and bool((variance == 1).all())
        if own and unlearned and not any(p.requires_grad for p in own):
            raise ConfigError(
                f"optim.lr_scale freezes {name.removeprefix('net.')}, whose batch statistics were never learned; give "
                "student.weights that hold them, or let it learn"
            )


def check_space(run: Run, trained: Trained) -> None:
    """ConfigError where the disk cannot hold the checkpoints that are kept and the one being written."""
    sizes = [t.nbytes for t in trained.unwrapped().state_dict().values()]
    needed = sum(sizes) * _copies(run) * (checkpoint.KEPT + 1)
    there = sum(f.stat().st_size for path in checkpoint.complete(checkpoints(run)) for f in path.glob("*.safetensors"))
    free = shutil.disk_usage(run.out_dir).free
    if free + there < needed:
        raise ConfigError(
            f"{run.out_dir}: its disk has {free:,} bytes free, the checkpoints of this run take about "
            f"{needed - there:,} more; make room, or choose another disk with out=..."
        )


def check_grace(run: Run, trained: Trained, log: Log) -> None:
    """Say so if what a signal sets off may take longer than train.grace_s: a save may have begun when it comes, and
    another one follows. How long one takes is tried out with the weights."""
    one = checkpoint.seconds_to_write(run.out_dir, trained.unwrapped().state_dict()) * _copies(run)
    if 2 * one > run.train.grace_s:
        log.say(
            f"{run.out_dir}: a checkpoint takes about {one:.1f} s to write there; a signal may come inside one and "
            f"asks for another, and train.grace_s is {run.train.grace_s:g}. Allow more with torchrun "
            "--shutdown-timeout, or with the scheduler's warning, and say so in train.grace_s"
        )


def save(run: Run, accelerator: Accelerator, trained: Trained) -> None:
    """Publish a checkpoint, unless there is one of this step; the first process writes, the others wait."""
    if trained.saved == trained.step:
        return
    distributed.on_first(lambda: _publish(run, accelerator, trained))
    trained.saved = trained.step


def _publish(run: Run, accelerator: Accelerator, trained: Trained) -> None:
    groups = {"trainee": trained.unwrapped().state_dict(), "best": trained.best, "best_kept": trained.best_kept}
    groups |= {f"optim_{name}": checkpoint.optimizer_tensors(o) for name, o in trained.optimizers.items()}
    if trained.ema is not None:
        groups["ema"] = trained.ema.state_dict()
    state: dict[str, Any] = {
        "best_value": trained.best_value if trained.best else None,
        "seconds": trained.seconds,
        "scored": trained.scored,
        "unreadable": asdict(trained.unreadable),
        **{name: getattr(trained, name) for name in COUNTS},
        "processes": accelerator.num_processes,
        "environment": environment(accelerator),
        "inputs": trained.inputs,
        "run": run.model_dump(mode="json"),
    }
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    checkpoint.save(checkpoints(run), trained.step, {k: v for k, v in groups.items() if v}, state)
    run_dir.saved(run.out_dir)


def resume(run: Run, accelerator: Accelerator, trained: Trained, log: Log, wanted: str = "auto") -> None:
    """Restore the newest checkpoint that verifies, if there is any, or the one at the path `wanted`: all of it or
    DataError. Those it passes over get another name, so that they are neither counted nor read again.

    ConfigError if it is of another configuration, or if its data or weights are others now.
    """
    path = distributed.from_first(lambda: _choose(run, log, wanted))
    if path is None:
        return
    found = checkpoint.read(path)
    try:
        run_dir.same_run(run, config_file.parse(found.state["run"], str(path)), path)
        # those written before 22 November 2026 do not say what they were made from
        if changed := run_dir.unlike(found.state.get("inputs", trained.inputs), trained.inputs):
            raise ConfigError(f"{path}: {' and '.join(changed)} changed since it was written: it is of another run")
        _restore(accelerator, trained, found)
    except VidkdError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: does not fit this run: {(str(error).splitlines() or [repr(error)])[0]}") from None
    log.say(f"resumed from step {trained.step}")
    here = {"processes": accelerator.num_processes, "environment": environment(accelerator)}
    if changed := run_dir.differences(here, {key: found.state.get(key) for key in here}):
        log.say(f"equal to rounding, no longer to the bit, because of another {'; '.join(changed)}")
    distributed.barrier()  # all have read it
    distributed.on_first(lambda: _pass_over(run, path, trained.step, log))
    if path.resolve().parent != checkpoints(run).resolve():
        trained.saved = 0
        save(run, accelerator, trained)


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the bits of a result depend on besides the configuration."""
    device = accelerator.device
    said: dict[str, Any] = {**versions(), "device": device.type}
    if variables := {name: os.environ[name] for name in VARIABLES if name in os.environ}:
        said["variables"] = variables
    if device.type == "cuda":
        return said | {"processor": torch.cuda.get_device_name(device)}
    # Another instruction set, or another number of threads, adds in another order.
    return said | {"processor": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """Of this toolkit and of those packages that compute or decode."""
    packages = {name: version(name) for name in ("torch", "torchvision", "accelerate", "numpy")}
    return {"vidkd": vidkd.__version__, **packages, **decode.decoder_versions()}


def _choose(run: Run, log: Log, wanted: str) -> Path | None:
    """The checkpoint to resume."""
    if wanted not in RESUME:
        return checkpoint.read(Path(wanted)).path
    found = checkpoint.newest(checkpoints(run))
    if found is None:
        return None
    newest, complaints = found
    for complaint in complaints:
        log.say(f"a newer checkpoint was passed over: {complaint}")
    return newest.path


def _pass_over(run: Run, path: Path, step: int, log: Log) -> None:
    """Put the checkpoints of `step` or later aside, but for that at `path`."""
    for other in checkpoint.complete(checkpoints(run)):
        if other.resolve() != path.resolve() and checkpoint.step_of(other) >= step:
            log.say(f"{other.name} is now {checkpoint.set_aside(other).name}")


def _restore(accelerator: Accelerator, trained: Trained, found: checkpoint.Saved) -> None:
    """Every tensor by name, none left out."""
    groups, state = found.groups, found.state
    checkpoint.restore_module(trained.unwrapped(), groups["trainee"])
    for name, optimizer in trained.optimizers.items():
        checkpoint.restore_optimizer(optimizer, groups.get(f"optim_{name}", {}))
    if trained.ema is not None:
        checkpoint.restore_module(trained.ema, groups["ema"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    trained.step = trained.saved = found.step
    trained.best, trained.best_kept = groups.get("best", {}), groups.get("best_kept", {})
    trained.seconds, trained.scored = float(state["seconds"]), int(state["scored"])
    trained.best_value = -math.inf if state["best_value"] is None else float(state["best_value"])
    trained.unreadable = Unreadable(**state["unreadable"])
    for name in COUNTS:
        setattr(trained, name, int(state.get(name, 0)))  # checkpoints written before 21 November 2026 do not have them


def as_saved(run: Run, part: Part) -> Run:
    """`run` as training on `part` saves it: with every length in steps."""
    return in_steps(run, len(part) // run.train.batch_size)


def inputs(run: Run, data_set: Index) -> dict[str, Any]:
    """Checksums of what the configuration only names."""
    sums: dict[str, Any] = {"data.root": data_set.checksum()}
    for who, section in (("student", run.student), ("teacher", run.teacher)):
        if section is not None and section.weights is not None:
            sums[f"{who}.weights"] = weights.checksum(section.weights)
    if run.teacher and run.teacher.weights and (kept := run.teacher.weights / weights.KEPT).is_file():
        sums["teacher.weights methods"] = weights.checksum(kept)
    return sums


def save_kept(run: Run, trained: Trained) -> None:
    """Leave methods.safetensors for the students of this network; no file where its methods keep nothing."""
    if kept := trained.best_kept or trained.unwrapped().kept():
        content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in kept.items()})
        checkpoint.write_atomic(run.out_dir / weights.KEPT, content)


def _copies(run: Run) -> int:
    """How many times the size of the weights a checkpoint is, at most."""
    of_optimizer = (run.optim.kind != "sgd") + (run.optim.momentum > 0 or run.optim.kind != "sgd")
    return 1 + of_optimizer + (run.train.ema is not None) + (run.data.val is not None)


def checkpoints(run: Run) -> Path:
    return run.out_dir / "checkpoints"
