"""The end of a step: learning rates, clipped gradients, the update; or none, if something in it is no number."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidkd import optim
from vidkd.config import Run
from vidkd.guard import DivergedError
from vidkd.trained import Trained

MAX_REFUSED = 20  # fp16 steps in a row that the scaler may skip while it looks for a scale
HINT = "A lower optim.lr, a longer warm-up or optim.max_grad_norm may help"


def set_learning_rates(run: Run, trained: Trained) -> dict[str, float]:
    """Give every optimiser the learning rate of this step; the rates, as figures."""
    rates = {}
    for name, optimizer in trained.optimizers.items():
        section = run.optim_methods if name == "methods" and run.optim_methods else run.optim
        rates[f"optim/lr_{name}"] = optim.learning_rate(section, trained.step, run.train.count())
        optim.set_learning_rate(optimizer, rates[f"optim/lr_{name}"])
    return rates


def clip(run: Run, trained: Trained, accelerator: Accelerator) -> dict[str, float]:
    """Clip each optimiser's gradients as its section says; their norms before that.

    The norm comes first: to clip an infinity to max_grad_value would hide it from the guard.
    """
    norms = {}
    for name, optimizer in trained.optimizers.items():
        section = run.optim_methods if name == "methods" and run.optim_methods else run.optim
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(optimizer)
        norms[f"optim/grad_norm_{name}"] = float(nn.utils.get_total_norm(gradients))
        if section.max_grad_value is not None and parameters:  # torch takes no empty list, as of who rests in this step
            nn.utils.clip_grad_value_(parameters, section.max_grad_value)
        if section.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
    return norms


def update(trained: Trained, scaler: torch.amp.GradScaler | None) -> None:
    """Step every optimiser, and the fp16 scale once for all of them, and move the average.

    DivergedError if fp16 overflows step after step.
    """
    for optimizer in trained.optimizers.values():
        optimizer.step() if scaler is None else scaler.step(optimizer)
        optimizer.zero_grad()
    if scaler is not None:
        before = scaler.get_scale()
        scaler.update()
        trained.refused = trained.refused + 1 if scaler.get_scale() < before else 0
        if trained.refused > MAX_REFUSED:
            raise DivergedError(f"step {trained.step + 1}: fp16 overflowed {trained.refused} times in a row; use bf16")
    if trained.ema is not None:
        trained.ema.update_parameters(trained.unwrapped().student)
    trained.left_out_in_a_row = 0


def statistics(run: Run, trained: Trained) -> dict[str, Tensor]:
    """A copy of what a forward pass changes without an optimiser, where a step may have to be left out."""
    if run.train.on_nonfinite == "raise":
        return {}
    return {name: buffer.clone() for name, buffer in trained.unwrapped().named_buffers()}


def leave_out(
    run: Run, trained: Trained, scaler: torch.amp.GradScaler | None, wrong: str, before: dict[str, Tensor]
) -> None:
    """End a step in which something was no number, as if it had not been made; `before` are its `statistics`.

    DivergedError, which says what was `wrong`, unless train.on_nonfinite is skip, and where it happens too often.
    """
    if run.train.on_nonfinite == "raise":
        raise DivergedError(f"{wrong}. {HINT}")
    trained.left_out += 1
    trained.left_out_in_a_row += 1
    if trained.left_out_in_a_row > run.train.max_nonfinite:
        raise DivergedError(
            f"{wrong}. It would be step {trained.left_out_in_a_row} in a row that is left out, train.max_nonfinite "
            f"allows {run.train.max_nonfinite}. {HINT}"
        )
    for optimizer in trained.optimizers.values():
        optimizer.zero_grad()
    if scaler is not None:
        scaler.update()  # it was told of these gradients, and hears of the next only after this
    for name, buffer in trained.unwrapped().named_buffers():
        buffer.copy_(before[name])
