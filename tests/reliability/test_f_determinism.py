"""F: the same seed gives the same bits, however many workers load and whoever draws random numbers beside it."""

import json
import os
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reliability import golden, runs
from small_run import SMALL, losses, same, weights
from vidkd import train, trainer
from vidkd.data import clips

DROPOUT = ("methods=[{kind: logits}, {kind: reliability.turns}]", "data.augment.color_jitter=0.4")


def test_f1_the_same_seed_is_the_same_run(make):
    one, two = make("one", *DROPOUT), make("two", *DROPOUT)
    train.train(one)
    random.seed(5), np.random.seed(5), torch.rand(7)
    train.train(two)
    assert losses(one) == losses(two)
    same(weights(one, 6), weights(two, 6), rtol=0, atol=0)


def enforced(path: Path) -> None:
    """Have the process write down, in its first step, what torch was told about algorithms."""
    update = trainer.update

    def updating(*args):
        said = [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark]
        path.write_text(json.dumps([*said, os.environ.get("CUBLAS_WORKSPACE_CONFIG")]))
        return update(*args)

    trainer.update = updating


def test_f1_deterministic_algorithms_are_asked_for_and_change_nothing_on_a_cpu(root, tmp_path):
    """What they change on a GPU was not tried: no test here has one."""
    left = []
    for said, wanted in (("true", [True, False, ":4096:8"]), ("false", [False, False, None])):
        out, seen = tmp_path / said, tmp_path / f"{said}.json"
        run = runs.run(root, out, f"train.deterministic={said}", base=SMALL, before=partial(enforced, seen))
        assert run.process.exitcode == 0, run.said()
        assert json.loads(seen.read_text()) == wanted
        left.append(runs.left(out))
    assert left[0] == left[1]


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


def noting(folder: Path) -> None:
    """Every process writes down its noise and its clips of each step, and its weights when it has ended."""
    mine, update, manual_seed = os.environ["RANK"], trainer.update, torch.manual_seed
    noise: list[int] = []

    def seeded(seed):
        noise.append(int(seed))
        return manual_seed(seed)

    def updating(run, state, *args):
        torch.manual_seed = seeded
        made = update(run, state, *args)
        torch.manual_seed = manual_seed
        save_file(
            {name: t.clone() for name, t in state.unwrapped().state_dict().items()}, folder / f"{mine}.safetensors"
        )
        (folder / f"{mine}.json").write_text(json.dumps(noise))
        return made

    trainer.update = updating


@pytest.mark.slow
def test_f3_processes_draw_their_own_noise_and_train_one_model(root, tmp_path):
    both = runs.ranks(root, tmp_path / "run", 2, "train.steps=3", base=SMALL, before=partial(noting, tmp_path))
    assert [rank.end() for rank in both] == [0, 0], both[0].said()
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == len(two) == 3 and len({*one, *two}) == 6
    same(*(load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)), rtol=0, atol=0)


def test_f4_the_golden_losses(root, tmp_path):
    """Written only by `make golden`; TOLERANCE says why it is what it is. To the bit where the machine is the same."""
    kept = json.loads(golden.FILE.read_text())
    found = golden.losses(tmp_path)
    tolerance = 0 if golden.machine() == kept["written_on"] else golden.TOLERANCE
    assert len(found) == len(kept["losses"]) == 20
    for step, (now, then) in enumerate(zip(found, kept["losses"], strict=True), start=1):
        assert now.keys() == then.keys()
        for name in now:
            assert now[name] == pytest.approx(then[name], rel=0, abs=tolerance), f"step {step}, {name}"


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
