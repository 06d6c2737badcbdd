"""The processes of a run: how many there are meant to be, how long they wait for each other, on what they compute."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from vidkd.config import Run
from vidkd.errors import ConfigError

PATIENCE_S = 600.0  # more than the longest that one process does alone: a save, an export
FOREIGN = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_DYNAMO_BACKEND")
SHARED = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun's store of addresses outlives a restart, and so do they
OFF = ("no", "false", "0", "")
ON_CPU = (
    "on CPU accelerate launch starts one whatever --num_processes says; "
    "use: torchrun --nproc_per_node N -m vidkd.train CONFIG"
)


def make_accelerator(run: Run) -> Accelerator:
    """Devices, processes and precision.

    ConfigError if another number of processes runs than the launcher said, if accelerate was told to train in a way
    that is not ours, or if the launcher would start processes again that then wait for the dead ones.

    A process that waits for another longer than PATIENCE_S, or twice data.timeout_s, ends with an error.
    """
    if foreign := [name for name in FOREIGN if os.environ.get(name, "no").lower() not in OFF]:
        raise ConfigError(
            f"{foreign[0]} is set: accelerate would train in a way that no checkpoint here knows; unset it"
        )
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ.get(SHARED) == "True":
        raise ConfigError(
            "torchrun --max-restarts: processes that it starts again would look for each other where the dead ones "
            "were, for ever (pytorch issue 135712); export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
        )
    if run.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or :16:8: cuBLAS may differ otherwise
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    patience = timedelta(seconds=max(PATIENCE_S, 2 * run.data.timeout_s))
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=run.train.mixed_precision,
        gradient_accumulation_steps=run.train.accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=bool(run.methods)),
            InitProcessGroupKwargs(timeout=patience),
        ],
    )
    # Process 0 keeps the addresses. Were it to leave (a run refused) before the others have met, they would wait for
    # each other as long as their patience is.
    accelerator.wait_for_everyone()
    accelerator.gradient_accumulation_steps = run.train.accumulate  # an environment variable would have the last word
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # Without --multi_gpu, accelerate launch starts one process whatever it was asked for. If that was more than one, it
    # says where they would meet, and not who this one is.
    meant = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if meant and "RANK" not in os.environ and accelerator.num_processes == 1:
        raise ConfigError(
            f"accelerate launch was asked for more than one process and started one: {ON_CPU}; on GPUs add "
            "--multi_gpu; for one process say --num_processes 1 (and unset MASTER_ADDR, if it is set)"
        )
    if accelerator.num_processes != launched:
        raise ConfigError(f"{accelerator.num_processes} process(es) run, the launcher started {launched}; {ON_CPU}")
    return accelerator


def check(run: Run, accelerator: Accelerator) -> None:
    """ConfigError if the processes are not those that train.processes wants, or cannot share train.batch_size."""
    count = accelerator.num_processes
    if run.train.processes not in (None, count):
        raise ConfigError(f"{count} process(es) run, train.processes is {run.train.processes}; {ON_CPU}")
    if run.train.batch_size % (count * run.train.accumulate):
        raise ConfigError(
            f"train.batch_size {run.train.batch_size} must be a multiple of processes x accumulate = "
            f"{count * run.train.accumulate}"
        )
