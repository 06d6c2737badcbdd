"""D1: where the configuration allows it, a step with a NaN or an infinity is left out: counted, and of no effect."""

from types import SimpleNamespace

import pytest
import torch

from small_run import lines, same, tensors, weights
from vidkd import checkpoint, guard, stepping, train, trainer
from vidkd.methods.logits import Method

SKIP = ("train.on_nonfinite=skip", "train.save_every={steps: 1}", "data.augment.mixup_alpha=0")
NORM = ("student.name=small_r3d", "student.options={width: 4}", "train.ema=0.9")  # batch statistics, an average


def broken_at(monkeypatch, *steps):
    """The distillation term is no number in these steps, and the input of the student neither."""
    forward, mix, update, now = Method.forward, trainer.mixing.mix, trainer.update, {"step": 0}

    def updating(run, state, *args):
        now["step"] = state.step + 1
        return update(run, state, *args)

    def mixing(batch, *args):
        batch = mix(batch, *args)
        if now["step"] in steps:
            batch.views["student"] = batch.views["student"].float() * torch.nan
        return batch

    def distilling(*args):
        terms = forward(*args)
        return {name: term * torch.nan if now["step"] in steps else term for name, term in terms.items()}

    monkeypatch.setattr(trainer, "update", updating)
    monkeypatch.setattr(trainer.mixing, "mix", mixing)
    monkeypatch.setattr(Method, "forward", distilling)


def test_d1_a_step_that_is_left_out_changes_nothing_and_is_counted_through_a_kill(make, monkeypatch, capsys):
    broken_at(monkeypatch, 3, 4)
    whole, cut = make("whole", *SKIP, *NORM), make("cut", *SKIP, *NORM)
    train.train(whole)
    said = capsys.readouterr().out
    for step in (3, 4):
        assert f"left out: step {step}: not finite: label, logits/kd, total. Clips: train_" in said
    logged = [line for line in lines(whole.out_dir) if "train/left_out" in line]
    assert [line["train/left_out"] for line in logged] == [0, 0, 1, 2, 2, 2]
    assert ["loss/total" in line for line in logged] == [True, True, False, False, True, True]
    assert "NaN" not in (whole.out_dir / "metrics.jsonl").read_text()
    kept = {}
    for stop in (2, 3, 4, 5, None):
        train.train(cut, stop=stop)
        kept[stop] = tensors(cut.out_dir, stop or 6) | tensors(cut.out_dir, stop or 6, "ema")
    same(kept[3], kept[2], rtol=0, atol=0)  # weights, batch statistics and the average
    same(kept[4], kept[2], rtol=0, atol=0)
    assert any(not torch.equal(tensor, kept[2][name]) for name, tensor in kept[5].items())
    same(weights(cut, 6), weights(whole, 6), rtol=0, atol=0)
    assert lines(cut.out_dir)[-1]["train/left_out"] == 2


def test_d1_more_in_a_row_than_allowed_stop_the_run_also_over_a_restart(make, monkeypatch):
    broken_at(monkeypatch, 2, 3, 4)
    run = make("run", *SKIP, "train.max_nonfinite=2")
    train.train(run, stop=3)
    with pytest.raises(guard.DivergedError, match=r"step 4: not finite.*step 3 in a row.*max_nonfinite allows 2"):
        train.train(run)
    assert checkpoint.newest(run.out_dir / "checkpoints")[0].step == 3


def test_d1_fp16_steps_that_overflow_in_a_row_are_counted_and_end_the_run():
    layer = torch.nn.Linear(2, 1)
    state = SimpleNamespace(optimizers={"student": torch.optim.SGD(layer.parameters(), lr=1.0)}, step=0, ema=None,
                            refused=0, left_out_in_a_row=0)  # fmt: skip
    scaler = torch.amp.GradScaler("cpu")
    before = layer.weight.detach().clone()

    def step(value):
        scaler.scale(layer(torch.full((1, 2), value)).sum()).backward()
        stepping.update(state, scaler)

    for count in range(1, stepping.MAX_REFUSED + 1):
        step(torch.inf)
        assert state.refused == count
    assert torch.equal(layer.weight, before)
    step(1.0)
    assert state.refused == 0 and not torch.equal(layer.weight, before)
    for _ in range(stepping.MAX_REFUSED):
        step(torch.inf)
    with pytest.raises(guard.DivergedError, match=f"fp16 overflowed {stepping.MAX_REFUSED + 1} times in a row"):
        step(torch.inf)


def test_d1_a_left_out_step_leaves_the_fp16_scaler_ready_for_the_next(make):
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    state = SimpleNamespace(optimizers={"student": optimizer}, step=0, ema=None, refused=0, left_out=0,
                            left_out_in_a_row=0, unwrapped=lambda: layer)  # fmt: skip
    scaler, run = torch.amp.GradScaler("cpu"), make("run", *SKIP)
    for _ in range(2):
        scaler.scale(layer(torch.ones(1, 2)).sum() * torch.nan).backward()
        stepping.clip(run, state, SimpleNamespace(scaler=scaler))
        stepping.leave_out(run, state, scaler, "a term", stepping.statistics(run, state))
    assert (state.left_out, state.left_out_in_a_row) == (2, 2)
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("section", ["optim", "optim_methods"])
def test_d1_an_infinity_is_noticed_before_it_is_clipped_to_a_number(make, section):
    clipped = {"optim": "optim.max_grad_value=0.1", "optim_methods": "optim_methods={lr: 0.1, max_grad_value: 0.1}"}
    run, layer = make("run", clipped[section]), torch.nn.Linear(2, 1)
    which = "methods" if section == "optim_methods" else "student"
    state = SimpleNamespace(optimizers={which: torch.optim.SGD(layer.parameters(), lr=1.0)})
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert stepping.clip(run, state, SimpleNamespace(scaler=None)) == {f"optim/grad_norm_{which}": 5.0}
    assert float(layer.weight.grad.abs().max()) == pytest.approx(0.1)
    layer.weight.grad[0, 1] = torch.inf
    assert stepping.clip(run, state, SimpleNamespace(scaler=None)) == {f"optim/grad_norm_{which}": torch.inf}
