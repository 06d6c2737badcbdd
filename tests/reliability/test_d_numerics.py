"""D: nothing that is not a number reaches a weight, on any process; accumulation changes nothing."""

import json
import os
import signal
import weakref
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reliability import runs
from small_run import SMALL, lines, same, tensors
from vidkd import guard, stepping, train, trainer
from vidkd.data import index
from vidkd.errors import DataError
from vidkd.methods.logits import Method
from vidkd.types import ClipBatch, View

STEP = 3
PLAIN = (*SMALL, "data.augment.mixup_alpha=0", "train.save_every={steps: 1}", "train.steps=5", "train.accumulate=2")


def not_a_number(where: str, value: float, rank: str, dump: Path) -> None:
    """Have `where` turn into `value` at STEP on process `rank`, and the weights be written when the run gives up."""
    update, teach, clip, mix = trainer.update, trainer.teach, stepping.clip, trainer.mixing.mix
    forward = Method.forward
    now = {"step": 0, "micro": 0}
    mine = os.environ.get("RANK", "0") == rank

    def due() -> bool:
        return mine and now["step"] == STEP and now["micro"] == 2

    def updating(run, trained, *args):
        now.update(step=trained.step + 1, micro=0)
        try:
            return update(run, trained, *args)
        except DataError:
            save_file({k: v.clone() for k, v in trained.unwrapped().state_dict().items()}, dump)
            raise

    def mixing(batch, *args):
        now["micro"] += 1
        batch = mix(batch, *args)
        if where == "input" and due():
            batch.views["student"] = batch.views["student"].float() / 255
            batch.views["student"][0, 0, 0, 0, 0] = value
        return batch

    def teaching(*args):
        view = teach(*args)
        if where == "teacher" and due():
            view.logits[0, 0] = value
        return view

    def distilling(*args):
        terms = forward(*args)
        return {name: term * value if where == "term" and due() else term for name, term in terms.items()}

    def clipping(run, trained, accelerator):
        if where == "gradient" and due():
            next(p for p in trained.trainee.parameters() if p.grad is not None).grad.view(-1)[0] = value
        return clip(run, trained, accelerator)

    trainer.update, trainer.teach, stepping.clip, trainer.mixing.mix = updating, teaching, clipping, mixing
    Method.forward = distilling


NAMES = {"input": "label", "teacher": "teacher logits", "term": "logits/kd", "gradient": "optim/grad_norm_student"}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        pytest.param(*case, marks=[] if case in (("teacher", torch.inf), ("gradient", torch.nan)) else pytest.mark.slow)
        for case in product(("input", "teacher", "term", "gradient"), (torch.nan, torch.inf))
    ],
)
def test_d1_both_processes_stop_before_the_weights_change(root, tmp_path, where, value):
    out, dump = tmp_path / "run", tmp_path / "dump.safetensors"
    both = runs.ranks(root, out, 2, base=PLAIN, before=partial(not_a_number, where, value, "1", dump))
    assert [rank.end(60) for rank in both] == [2, 2], both[0].said() + both[1].said()
    for rank in both:
        said = rank.said()
        assert f"step {STEP}: not finite: {NAMES[where]}" in said and "on process 1. Clips: train_" in said
        assert "Traceback" not in said
    same(load_file(dump), tensors(out, STEP - 1), rtol=0, atol=0)
    assert [line["step"] for line in lines(out)] == list(range(1, STEP))
    (left,) = (out / "bad_batches").glob("*.safetensors")
    about = json.loads(left.with_suffix(".json").read_text())
    assert about["step"] == STEP and NAMES[where] in about["not_finite"]
    shown = load_file(left)
    names = [name for clips in about["clips"] for name in clips]
    assert len(names) == sum(len(shown[f"{i}.label"]) for i in range(len(about["clips"])))
    assert len(names) == (4 if where == "gradient" else 2)  # the guilty micro-batch, where it is known
    part = index.read(root).part("split1", "train").names()
    assert names[0] == part[int(shown["0.address"][0, 1])]


@pytest.mark.parametrize("where", [pytest.param("teacher", marks=pytest.mark.slow), "term"])
def test_d1_one_process_says_it_too_and_the_run_can_go_on(root, tmp_path, where):
    out, dump = tmp_path / "run", tmp_path / "dump.safetensors"
    run = runs.run(root, out, base=PLAIN, before=partial(not_a_number, where, torch.nan, "0", dump))
    assert run.process.exitcode == 2
    assert f"step {STEP}: not finite: {NAMES[where]}" in run.said()
    assert str(out / "bad_batches") in run.said()
    again = runs.run(root, out, base=PLAIN)  # the fault was not in the data
    assert again.process.exitcode == 0
    assert [line["step"] for line in lines(out)] == list(range(1, 6))


@pytest.mark.slow
def test_d1_all_processes_leave_the_same_step_out(root, tmp_path):
    out, dump = tmp_path / "run", tmp_path / "none"
    both = runs.ranks(root, out, 2, "train.on_nonfinite=skip", base=PLAIN,
                      before=partial(not_a_number, "gradient", torch.nan, "1", dump))  # fmt: skip
    assert [rank.end() for rank in both] == [0, 0], both[0].said() + both[1].said()
    assert f"left out: step {STEP}: not finite: optim/grad_norm_student on process" in both[0].said()
    assert [line["train/left_out"] for line in lines(out) if "train/left_out" in line] == [0, 0, 1, 1, 1]
    assert not dump.exists()


def test_d1_a_tap_of_the_teacher_is_named(tmp_path):
    batch = ClipBatch({"student": torch.zeros(1, 3, 2, 4, 4)}, label=torch.zeros(1), clip=("a",), address=None)
    taps = {"late": torch.zeros(1, 2, 1, 1, 1), "early": torch.full((1, 2, 1, 1, 1), torch.inf)}
    seen = guard.Guard(tmp_path)
    seen.add(("a",), lambda: batch, View(torch.zeros(1, 4), taps), {"label": torch.tensor(1.0)})
    assert "step 3: not finite: teacher tap early. Clips: a." in seen.check(3, {}, torch.device("cpu"))


def test_d1_bad_batches_do_not_fill_the_disk(tmp_path):
    (tmp_path / "bad_batches").mkdir()
    for step in range(guard.LEFT):
        (tmp_path / "bad_batches" / f"step{step:08d}_process0.safetensors").touch()
    full = guard.Guard(tmp_path)
    full.add(("a",), lambda: pytest.fail("made again for nothing"), None, {"label": torch.tensor(torch.nan)})
    assert f"no file ({tmp_path / 'bad_batches'} holds {guard.LEFT} already)" in full.check(99, {}, torch.device("cpu"))


def test_d1_micro_batches_are_not_kept_on_the_device(make, monkeypatch):
    """Accumulation saves memory: of the views that the networks saw, those of the last micro-batch are left at most."""
    seen, alive, mix, check = [], [], trainer.mixing.mix, guard.Guard.check

    def mixing(*args):
        batch = mix(*args)
        seen.append(weakref.ref(batch.views["student"]))
        return batch

    def checking(self, *args):
        alive.append(sum(view() is not None for view in seen))
        return check(self, *args)

    monkeypatch.setattr(trainer.mixing, "mix", mixing)
    monkeypatch.setattr(guard.Guard, "check", checking)
    train.train(make("run", "train.accumulate=4"), stop=3)  # mixup makes new views
    assert len(seen) == 12
    assert len(alive) == 3 and max(alive) <= 1


@pytest.mark.slow
def test_d2_the_teacher_is_the_same_after_the_training(root, tmp_path):
    teacher, out = tmp_path / "teacher", tmp_path / "run"
    alone = ("methods=[]", "teacher=null", "student.name=tiny16", "student.view.size_px=32", "student.view.frames=8")
    assert runs.run(root, teacher, *alone, base=SMALL).process.exitcode == 0
    run = runs.run(root, out, f"teacher.weights={json.dumps(str(teacher))}", base=SMALL)
    assert run.process.exitcode == 0, run.said()
    made, used = (json.loads((folder / "results.json").read_text()) for folder in (teacher, out))
    assert used["teacher"]["protocol"]["weights_sha256"] == made["student"]["protocol"]["weights_sha256"]
    assert used["teacher"]["confusion"] == made["student"]["confusion"]


def test_d3_accumulation_is_exact(root, tmp_path):
    """Twenty steps over an uneven epoch of 24 clips in batches of 10, at once and in five portions."""
    made = {}
    for k in (1, 5):
        how = ("train.batch_size=10", f"train.accumulate={k}", "train.steps=20", "data.augment.mixup_alpha=0")
        assert runs.run(root, tmp_path / str(k), *how, base=SMALL).process.exitcode == 0
        made[k] = [line["loss/total"] for line in lines(tmp_path / str(k))]
    assert made[5] == pytest.approx(made[1], rel=0, abs=1e-6)
    same(tensors(tmp_path / "5", 20), tensors(tmp_path / "1", 20), rtol=0, atol=1e-6)


def pulls(out: Path) -> list[list[float]]:
    return [[value for name, value in line.items() if name.startswith("grad/")] for line in lines(out)]


def test_d3_how_hard_a_term_pulls_is_of_the_whole_step(make):
    """Of all its micro-batches, not of the last one."""
    found = []
    for k in (1, 4):
        run = make(str(k), f"train.accumulate={k}", "data.augment.mixup_alpha=0", "log.gradients=true")
        train.train(run, stop=3)
        found.append(pulls(run.out_dir))
    assert [len(step) for step in found[0]] == [2, 2, 2]
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4)


@pytest.mark.slow
def test_d3_how_hard_a_term_pulls_is_of_all_processes(root, tmp_path):
    how = ("data.augment.mixup_alpha=0", "log.gradients=true", "train.steps=3")
    assert runs.run(root, tmp_path / "one", *how, base=SMALL).process.exitcode == 0
    both = runs.ranks(root, tmp_path / "two", 2, *how, base=SMALL)
    assert [rank.end() for rank in both] == [0, 0], both[0].said()
    assert torch.allclose(torch.tensor(pulls(tmp_path / "two")), torch.tensor(pulls(tmp_path / "one")), rtol=1e-4)


def test_a_signal_that_comes_with_a_bad_step_does_not_hide_it(root, tmp_path):
    out = tmp_path / "run"
    run = runs.start(root, out, base=PLAIN, before=partial(both, tmp_path / "dump.safetensors"))
    assert run.end() == 2
    assert "not finite" in run.said()


def both(dump: Path) -> None:
    not_a_number("term", torch.nan, "0", dump)
    check = guard.Guard.check

    def signalled(self, step, *args):
        if step == STEP:
            os.kill(os.getpid(), signal.SIGTERM)
        return check(self, step, *args)

    guard.Guard.check = signalled
