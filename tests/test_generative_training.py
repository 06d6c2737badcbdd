"""Generative attention distillation from end to end: a teacher with its CVAE, then a student; and the published
defects (T1 to T14; those of losses: test_methods_generative.py, those of the head: models/test_attention.py)."""

import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import tiny_set
import vidkd
from conftest import REPOSITORY
from vidkd import config_file, distiller, train, trainer
from vidkd.config import Augment
from vidkd.data import clips, index, order, transforms
from vidkd.errors import ConfigError
from vidkd.models import weights
from vidkd.report import attention as report_attention
from vidkd.report import material, page
from vidkd.section import in_steps
from vidkd.tasks import recognition
from vidkd.types import ClipBatch

SMALL = ("data.clip.frames=8", "data.clip.stride=1", "data.augment.flip=0", "data.workers=0", "student.name=tiny16",
         "student.options={}", "student.weights=null", "student.adapt=none", "student.reset_head=false",
         "student.view={size_px: 16, frames: 4}", "student.taps={}",
         "optim.lr_scale={}", "optim.warmup=null", "train.batch_size=8",
         "train.epochs=null", "train.steps=4", "train.save_every={steps: 1}", "train.log_every_steps=1")  # fmt: skip
TEACHER = ("teacher.name=tiny16", "teacher.view={size_px: 16, frames: 4}", "teacher.allow_weak=true",
           "teacher.preflight_clips=2", "teacher.cache=null", "teacher.taps={}")  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory):
    return tiny_set.make(tmp_path_factory.mktemp("set") / "tiny", train=16, test=4)


def teacher_run(clips_root, out, *overrides):
    path = REPOSITORY / "configs" / "jhmdb21_generative_teacher.yaml"
    return config_file.load(path, [*SMALL, f"data.root={clips_root}", f"out={out}", *overrides])


@pytest.fixture(scope="module")
def teacher(clips_root, tmp_path_factory):
    """The directory of a trained step 1."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    out = tmp_path_factory.mktemp("runs") / "teacher"
    train.train(teacher_run(clips_root, out))
    return out


@pytest.fixture
def make(clips_root, teacher, tmp_path):
    """Step 2 in a folder of its own."""

    def made(name, *overrides):
        path = REPOSITORY / "configs" / "jhmdb21_generative.yaml"
        own = (*SMALL, *TEACHER, f"teacher.weights={teacher}", f"data.root={clips_root}", f"out={tmp_path / name}")
        return config_file.load(path, [*own, *overrides])

    return made


def checkpoint(run, step):
    return load_file(run.out_dir / "checkpoints" / f"step{step:08d}" / "trainee.safetensors")


class TestTwoSteps:
    def test_step_1_leaves_what_step_2_needs_and_nothing_else(self, teacher):
        kept = load_file(teacher / "methods.safetensors")
        assert {name.split(".")[0] for name in kept} == {"generative_attention/encoder", "generative_attention/decoder"}
        student = load_file(teacher / "student.safetensors")
        assert {name.split(".")[0] for name in student} == {"early", "middle", "late", "head", "attention"}

    def test_the_guide_is_the_teachers_cvae_and_no_checkpoint_holds_it(self, make, teacher):
        run = make("student")
        train.train(run)
        trainee, frozen, _ = distiller.build(in_steps(run, 2), 4)
        kept = {n.split("/")[1]: t for n, t in load_file(teacher / "methods.safetensors").items()}
        guide = trainee.methods[0].guide.module.state_dict()
        assert guide.keys() == kept.keys() and all(torch.equal(guide[n], kept[n]) for n in kept)
        assert torch.equal(frozen.tapped.net.get_submodule("attention.head.excite").weight,
                           load_file(teacher / "student.safetensors")["attention.head.excite.weight"])  # fmt: skip
        assert {".".join(n.split(".")[:3]) for n in checkpoint(run, 4) if n[0] == "m"} == {"methods.0.cvae"}
        assert not (run.out_dir / "methods.safetensors").exists()

    def test_the_student_keeps_its_attention_wherever_it_goes(self, make):
        run = make("student")
        outcome = train.train(run)
        student = vidkd.load_student(run.out_dir)
        video = torch.randint(0, 256, (2, 3, 4, 16, 16), dtype=torch.uint8)
        assert student.tapped(video).taps["attention"].shape == (2, 32, 2)
        price = outcome["student"]["cost"]
        head = sum(p.numel() for p in student.tapped.net.get_submodule("attention").parameters())
        assert price["parameters"] - price["parameters_without_attention"] == head > 0
        assert price["gmacs"] > price["gmacs_without_attention"] > 0
        card = (run.out_dir / "MODEL_CARD.md").read_text()
        assert f"without attention {price['parameters_without_attention']:,}" in card
        assert "distilled from `tiny16` by generative_attention" in card

    def test_the_report_shows_when_both_networks_look(self, make):
        run = make("student")
        train.train(run)
        text, left_out = page.page(material.read(run.out_dir))
        assert "Attention over time" in text and "Attention over time" not in left_out
        assert text.count('polyline class="mean teacher"') == text.count('aria-label="attention over time: ') == 4
        network = vidkd.load_student(run.out_dir).tapped
        video = torch.randint(0, 256, (1, 3, 4, 16, 16), dtype=torch.uint8)
        assert torch.equal(report_attention.lam_of(network, video), network(video).taps["attention"][0])
        assert text.count("correlation of the two over channels and time: ") == 4

    def test_what_the_report_says_of_attention_by_hand(self):
        lam = torch.tensor([[0.2, 0.4], [0.6, 0.8]])  # two channels, two steps
        assert report_attention.weights(lam) == pytest.approx([0.8, 1.2])
        assert report_attention.said({"teacher": lam, "student": 1 - lam}) == [
            "mean: teacher 0.50, student 0.50",
            "correlation of the two over channels and time: -1.00",
        ]
        assert report_attention.said({"teacher": lam, "student": lam[:1]}) == ["mean: teacher 0.50, student 0.30"]
        assert report_attention.said({"student": lam}) == ["mean: student 0.50"]

    def test_a_parity_attention_is_exported_too(self, make):
        run = make("parity", "teacher=null", "student.attention={head: parity, reweight: parity}",
                   "methods=[{kind: generative_attention, spatial: conv}]")  # fmt: skip
        train.train(run)
        assert vidkd.load_student(run.out_dir)(torch.rand(1, 3, 4, 16, 16)).shape == (1, 4)
        assert "trained without a teacher by generative_attention" in (run.out_dir / "MODEL_CARD.md").read_text()

    def test_a_teacher_without_a_cvae_is_a_mistake(self, make, teacher, tmp_path):
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "student.safetensors").write_bytes((teacher / "student.safetensors").read_bytes())
        bare = f"teacher.weights={tmp_path / 'bare'}"
        with pytest.raises(ConfigError, match=r"kept no CVAE; train the teacher with this method .* generative: none"):
            train.train(make("a", bare))
        train.train(make("b", bare, "methods.0.generative=none", "methods.0.weights={}"), stop=1)

    def test_t2_a_cvae_of_another_kind_is_a_mistake(self, make):
        with pytest.raises(ConfigError, match=r"the teacher's CVAE of 'late' is another than spatial says, .*fold"):
            train.train(make("a", "methods.0.spatial=conv"))

    def test_a_changed_cvae_is_not_resumed(self, make, teacher):
        train.train(make("student"), stop=2)
        path = teacher / weights.KEPT
        content = path.read_bytes()
        path.write_bytes(content[:-4] + b"\0\0\0\0")
        try:
            with pytest.raises(ConfigError, match=r"teacher.weights methods changed since this run began"):
                train.train(make("student"))
        finally:
            path.write_bytes(content)

    def test_killed_and_resumed_in_turns_is_uninterrupted(self, make):
        turns = ("methods.0.turn={steps: 1}", "methods.0.noise=independent", "log.gradients=true")
        whole, killed = make("whole", *turns), make("killed", *turns)
        train.train(whole)
        train.train(killed, stop=3)
        train.train(killed)
        a, b = checkpoint(whole, 4), checkpoint(killed, 4)
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)

    def test_the_best_on_val_keeps_the_cvae_of_that_moment(self, clips_root, tmp_path, monkeypatch):
        values, results = (
            iter([0.9, 0.1, 0.5]),
            recognition.Task.results,
        )  # after step 3, after step 4, on the test part
        monkeypatch.setattr(recognition.Task, "results", lambda *args: results(*args) | {"top1": next(values)})
        run = teacher_run(clips_root, tmp_path / "t", "data.val=val", "train.eval_every={steps: 3}")
        train.train(run)
        kept, best = (load_file(run.out_dir / f"{name}.safetensors") for name in ("methods", "student"))
        third, last = checkpoint(run, 3), checkpoint(run, 4)
        assert torch.equal(best["head.weight"], third["student.net.head.weight"])
        for name in kept:
            assert torch.equal(kept[name], third[name.replace("generative_attention/", "methods.0.cvae.")])
        assert not torch.equal(third["methods.0.cvae.decoder.0.weight"], last["methods.0.cvae.decoder.0.weight"])

    def test_a_cached_teacher_is_asked_for_its_attention_alone(self, make, tmp_path):
        cache = f"teacher.cache={{views: 2, dtype: fp32, dir: {tmp_path / 'cache'}}}"
        run = make("cached", cache)
        train.train(run)
        assert list((tmp_path / "cache").rglob("*attention*"))
        assert not list((tmp_path / "cache").rglob("*late*"))


class TestTurns:
    """T3 and T4, on a network with batch norm."""

    def steps(self, make, frozen=()):
        """The trainee's tensors before a step of the CVAE, after it, and after a step of the network."""
        run = in_steps(make("x", "student.name=small_r3d", "student.options={width: 8}", "teacher.weights=null",
                            "teacher.name=small_r3d", "teacher.options={width: 8}", "methods.0.turn={steps: 1}"),
                       10)  # fmt: skip
        torch.manual_seed(0)
        trainee, teacher, _ = distiller.build(run, 4)
        named = dict(trainee.named_parameters())
        optimizer = torch.optim.SGD(trainee.parameters(), lr=0.1)
        task = distiller.build_task(run, tuple("abcd"))
        views = {name: torch.rand(4, 3, 4, 16, 16) for name in ("student", "teacher")}
        batch = ClipBatch(views, torch.arange(4), tuple("abcd"))
        fixed = {n for n in named if n.startswith(tuple(frozen))} if frozen else set()
        states = [{n: t.clone() for n, t in trainee.state_dict().items()}]
        theirs = {n: t.clone() for n, t in teacher.state_dict().items()}
        for step in range(3):
            trainer.take_turns(trainee, step, fixed)
            view, terms = trainee(batch, teacher(batch.seen_by("teacher")))
            distiller.losses(run, step, task.losses(batch, view), terms)["total"].backward()
            optimizer.step()
            optimizer.zero_grad()
            states.append({n: t.clone() for n, t in trainee.state_dict().items()})
        assert any("running_mean" in n for n in theirs) and not self.changed(theirs, teacher.state_dict())
        return states

    @staticmethod
    def changed(a, b):
        return {n for n in a if not torch.equal(a[n], b[n])}

    def test_t3_the_cvaes_turn_moves_no_batch_statistics(self, make):
        before, cvae, network, _ = self.steps(make)
        first, second = self.changed(before, cvae), self.changed(cvae, network)
        assert first and all(".cvae." in n for n in first)
        assert any("running_mean" in n for n in second) and any("attention" in n for n in second)
        assert not any(".cvae." in n for n in second)

    def test_t4_what_is_frozen_stays_frozen_through_all_turns(self, make):
        first, *_, last = self.steps(make, frozen=("student.net.stem", "student.net.stage1"))
        changed = self.changed(first, last)
        assert changed and not [n for n in changed if n.startswith(("student.net.stem", "student.net.stage1"))]


@pytest.mark.parametrize(("name", "collapsed"), [("i3d_top", 10), ("i3d_bottom", 10), ("i3d_2d", 20)])
def test_the_shipped_student_starts_from_the_collapsed_kinetics_network(shared, name, collapsed):
    path = REPOSITORY / "configs" / "ucf101_generative.yaml"
    kinetics = f"student.weights={shared / 'weights' / 'i3d_rgb_k400.safetensors'}"
    run = config_file.load(path, [f"student.name={name}", "student.view={size_px: 32, frames: 8}", kinetics])
    network, account = distiller.build_network(run.student, 101, run.data.clip.frames)
    assert len(account.collapsed) == collapsed and account.new_head and account.new_attention
    assert len(account.loaded) == len(
        [n for n in network.net.state_dict() if not n.startswith(("logits", "attention"))]
    )


@pytest.mark.parametrize("use", ["train", "test"])
def test_frames_that_no_network_is_shown_are_not_decoded(make, monkeypatch, use):
    """A flat stem sees half of the frames: without a teacher that is asked, the others are left alone."""
    asked, read = [], clips.read
    monkeypatch.setattr(
        clips, "read", lambda video, indices, data: asked.append(set(indices)) or read(video, asked[-1], data)
    )
    run = make("x", "teacher.view.frames=8")
    part = index.read(run.data.root).part("split1", "train")
    for views in (run.views(), {"student": run.student.view}):
        if use == "train":
            clips.TrainClips(part, run.data, views, run.seed).clip(0, 0)
        else:
            clips.TestClips(part, run.data, views).load((0, 0))
    every, half = map(sorted, asked)
    assert len(every) == 8 and half == every[::2]


def test_t8_every_crop_lies_inside_the_frame():
    for height, width in ((240, 320), (256, 340), (224, 224)):
        for i in range(300):
            drawn = transforms.draw(Augment(crop_scale=(0.4, 1.0)), height, width, order.generator(i))
            top, left, h, w = drawn.window
            assert top >= 0 and left >= 0 and top + h <= height and left + w <= width


def test_t9_crops_differ_between_epochs_and_repeat_under_one_seed(make):
    run = make("x")
    part = index.read(run.data.root).part("split1", "train")
    seen = [clips.TrainClips(part, run.data, run.views(), run.seed).clip(epoch, 0) for epoch in (0, 1, 0)]
    first, other, again = (item.views["student"] for item in seen)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_t12_the_method_is_importable_alone_and_its_keys_are_closed(make):
    code = "import sys; sys.argv = ['x', '--nonsense']; import vidkd.methods.generative_attention"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
    with pytest.raises(ConfigError, match=r"methods.spatail: no such key; did you mean 'spatial'\?"):
        make("x", "methods.0.spatail=conv")
    with pytest.raises(ConfigError, match=r"student.attention.head"):
        make("x", "student.attention={head: gpa}")
    with pytest.raises(ConfigError, match=r"methods: kind is missing; there are: .*generative_attention"):
        make("x", "methods=[{spatial: conv}]")
    assert [make("x", f"student.reset_head={word}").student.reset_head for word in ("false", "true")] == [False, True]


@pytest.mark.parametrize("frames", [1, 28])
def test_t13_videos_shorter_than_the_clip_loop(tmp_path, frames):
    root = tiny_set.make(tmp_path / "short", train=4, test=1, frames=frames)
    run = teacher_run(root, tmp_path / "run", "data.clip.frames=64", "student.view={size_px: 16}", "train.batch_size=2",
                      "train.steps=1")  # fmt: skip
    outcome = train.train(run)
    assert outcome["student"]["n_videos"] == 1


def test_t14_selection_is_on_videos_that_are_not_tested(make):
    with pytest.raises(ConfigError, match="must be different parts"):
        make("x", "data.val=test", "train.eval_every={steps: 1}")


def test_only_methods_that_can_do_without_a_teacher_may(make):
    with pytest.raises(ConfigError, match=r"methods need a teacher \(logits\)"):
        make("x", "teacher=null", "methods=[{kind: generative_attention}, {kind: logits}]")
