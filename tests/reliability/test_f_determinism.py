"""F: the same seed gives the same bits, however many workers load and whoever draws random numbers beside it."""

import json
import random

import numpy as np
import pytest
import torch

from reliability import golden
from small_run import losses, same, weights
from vidkd import train
from vidkd.data import clips

DROPOUT = ("methods=[{kind: logits}, {kind: reliability.turns}]", "data.augment.color_jitter=0.4")


def test_f1_the_same_seed_is_the_same_run(make):
    one, two = make("one", *DROPOUT), make("two", *DROPOUT)
    train.train(one)
    random.seed(5), np.random.seed(5), torch.rand(7)
    train.train(two)
    assert losses(one) == losses(two)
    same(weights(one, 6), weights(two, 6), rtol=0, atol=0)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_f2_workers_change_nothing(make, workers):
    alone, many = make("alone", *DROPOUT), make("many", *DROPOUT, f"data.workers={workers}")
    train.train(alone, stop=4)
    train.train(many, stop=4)
    assert losses(alone) == losses(many)
    same(weights(alone, 4), weights(many, 4), rtol=0, atol=0)


def test_f3_another_seed_is_another_run(make):
    one, two, three = make("one"), make("two", "seed=1"), make("three", "data.seed=1")
    for run in (one, two, three):
        train.train(run, stop=2)
    assert len({tuple(losses(run)) for run in (one, two, three)}) == 3


def test_f4_the_golden_losses(root, tmp_path):
    """Written only by `make golden`; TOLERANCE says why it is what it is."""
    kept = json.loads(golden.FILE.read_text())
    found = golden.losses(tmp_path)
    assert len(found) == len(kept["losses"]) == 20
    for step, (now, then) in enumerate(zip(found, kept["losses"], strict=True), start=1):
        assert now.keys() == then.keys()
        for name in now:
            assert now[name] == pytest.approx(then[name], rel=0, abs=golden.TOLERANCE), f"step {step}, {name}"


def test_f5_global_random_states_are_neither_read_nor_moved_by_loading(make, root, monkeypatch):
    plain, poisoned = make("plain", *DROPOUT), make("poisoned", *DROPOUT)
    train.train(plain, stop=2)
    clip = clips.TrainClips.clip

    def poisoning(self, epoch, i):
        random.seed(epoch + i), np.random.seed(epoch + i), torch.manual_seed(epoch + i)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        item = clip(self, epoch, i)
        assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])
        return item

    monkeypatch.setattr(clips.TrainClips, "clip", poisoning)
    train.train(poisoned, stop=2)
    assert losses(plain) == losses(poisoned)
