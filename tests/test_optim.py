"""Learning rates by hand; groups by prefix."""

import pytest
import torch
from torch import nn

from vidkd import optim
from vidkd.errors import ConfigError
from vidkd.optim import Constant, Cosine, Optim, StepDecay, Warmup


def net():
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 2))


def test_warmup_then_cosine_to_zero():
    section = Optim(lr=1.0, warmup=Warmup(steps=4))
    rates = [optim.learning_rate(section, step, 104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0.0)


def test_cosine_ends_where_it_is_told():
    section = Optim(lr=2.0, schedule=Cosine(final=0.1))
    assert optim.learning_rate(section, 50, 50) == pytest.approx(0.2)  # after the last step, which is number 49
    parameter = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=2.0)
    torch_says = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=50, eta_min=0.2)
    for step in range(50):
        assert optim.learning_rate(section, step, 50) == pytest.approx(torch_says.get_last_lr()[0])
        sgd.step()
        torch_says.step()


def test_the_last_step_learns_also_where_the_cosine_ends_at_nothing():
    assert 0 < optim.learning_rate(Optim(lr=1.0), 49, 50) < 0.002


def test_step_decay_falls_at_its_fractions():
    section = Optim(lr=1.0, schedule=StepDecay(kind="step", at=(0.5, 0.75)))
    assert [round(optim.learning_rate(section, s, 100), 6) for s in (0, 49, 50, 74, 75, 99)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]


def test_constant_is_constant_after_warmup():
    section = Optim(lr=1.0, warmup=Warmup(steps=2, start=0.5), schedule=Constant(kind="constant"))
    assert [optim.learning_rate(section, s, 10) for s in (0, 1, 2, 9)] == [0.75, 1.0, 1.0, 1.0]


def test_the_longest_prefix_scales_and_zero_freezes():
    model = net()
    section = Optim(lr=1.0, lr_scale={"0": 0.0, "1": 0.1, "1.bias": 0.5})
    made = optim.optimizer(section, model.named_parameters())
    optim.set_learning_rate(made, 2.0)
    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert not model[0].weight.requires_grad
    assert id(model[0].weight) not in rate
    assert rate[id(model[1].weight)] == pytest.approx(0.2)
    assert rate[id(model[1].bias)] == pytest.approx(1.0)
    assert rate[id(model[2].weight)] == pytest.approx(2.0)


def test_vectors_are_not_decayed():
    made = optim.optimizer(Optim(lr=1.0, weight_decay=0.3), net().named_parameters())
    assert all(group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0.0) for group in made.param_groups)


@pytest.mark.parametrize(
    ("kind", "cls"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_kinds(kind, cls):
    assert type(optim.optimizer(Optim(kind=kind, lr=0.1), net().named_parameters())) is cls


def test_nesterov_is_the_default_of_sgd():
    assert optim.optimizer(Optim(lr=0.1), net().named_parameters()).param_groups[0]["nesterov"]


def test_a_prefix_of_nothing_is_a_mistake():
    with pytest.raises(ConfigError, match="no parameter starts with 'layer9'"):
        optim.optimizer(Optim(lr=0.1, lr_scale={"layer9": 0.1}), net().named_parameters())


def test_nothing_to_learn_is_no_optimiser():
    assert optim.optimizer(Optim(lr=0.1), []) is None
