"""How hard every weighted term pulls at the student."""

import re

import pytest
import torch

from conftest import CONFIGS
from vidkd import config_file, distiller, plan, pulls
from vidkd.data import clips, index
from vidkd.processes import make_accelerator
from vidkd.pulls import Pull
from vidkd.section import Ramp
from vidkd.trained import as_saved
from vidkd.trainer import train_loader

FMD = next(p for p in CONFIGS if p.stem == "motion_fmd")
SMALL = ("student.name=tiny4", "student.options={}", "teacher.name=tiny16", "teacher.options={}",
         "teacher.weights=null", "teacher.allow_weak=true", "data.workers=0", "data.clip.frames=8",
         "data.clip.stride=1", "student.view.size_px=16", "teacher.view.size_px=24", "train.batch_size=4",
         "train.epochs=null", "train.steps=20", "optim.warmup=null", "train.threads=1")  # fmt: skip
METHODS = "methods=[{kind: logits}, {kind: feature_consistency, faithful: false%s}]"


def loaded(root, *words):
    return config_file.load(FMD, [*SMALL, f"data.root={root}", *words])


def measured(root, *words):
    run = loaded(root, *words)
    accelerator, data_set = make_accelerator(run), index.read(run.data.root)
    task = distiller.build_task(run, data_set.classes)
    part = clips.part_of(data_set, run, task, run.data.train, training=True)
    run = as_saved(run, part)
    torch.manual_seed(0)
    trainee, teacher, _ = distiller.build(run, len(data_set.classes))
    batch = next(iter(train_loader(run, part, 0, accelerator, teacher)))
    return {p.name: p for p in pulls.measure(run, trainee, teacher, task, batch, accelerator)}, (trainee, batch, task)


def test_a_pull_is_the_norm_of_the_gradient_times_the_weight(root):
    found, (trainee, batch, task) = measured(root, METHODS % "", "task.weights={label: 0.25}")
    assert list(found) == ["label", "logits/kd", "feature_consistency/consistency"]
    trainee.student.zero_grad()
    task.losses(batch, trainee.student(batch.seen_by("student")))["label"].backward()
    by_hand = sum(float(p.grad.square().sum()) for p in trainee.student.parameters() if p.grad is not None) ** 0.5
    assert found["label"].norm == pytest.approx(0.25 * by_hand, rel=1e-4)
    assert found["label"].supervised and not found["logits/kd"].supervised


def test_a_ramp_counts_with_what_it_comes_to(root):
    ramp, _ = measured(root, METHODS % ", weights: {consistency: {to: 3.0, steps: 10}}")
    down, _ = measured(root, METHODS % ", weights: {consistency: {start: 3.0, to: 0.0, steps: 10}}")
    plain, _ = measured(root, METHODS % ", weights: {consistency: 3.0}")
    name = "feature_consistency/consistency"
    assert ramp[name].norm == down[name].norm == plain[name].norm > 0
    assert ramp[name].override(6) == "methods.1.weights.consistency={to: 6, steps: 10}"
    assert plain[name].override(6) == "methods.1.weights.consistency=6"


def test_what_weighs_nothing_does_not_pull(root):
    found, _ = measured(root, METHODS % ", weights: {consistency: 0.0}")
    assert list(found) == ["label", "logits/kd"]


def pull(name, norm, weight=1.0, supervised=False, ramp=None):
    return Pull(name, f"methods.0.weights.{name}", weight, norm, supervised, ramp)


def test_a_term_that_is_not_felt_is_named_with_the_weight_that_mends_it():
    lines = pulls.said(
        [
            pull("label", 22.8, supervised=True),
            pull("attention", 0.0031, 0.1),
            pull("kd", 0.5),
            pull("kl", 0.0),
            pull("prior", 0.0001, 0.5, ramp=Ramp(to=0.5, steps=30)),
        ]
    )
    assert lines[0].endswith(
        "label 22.8, attention 0.0031, kd 0.5, kl 0, prior 0.0001; kl: none, so only what the method itself holds "
        "learns from it"
    )
    assert lines[1:] == [
        "careful: attention pulls at the student with 0.00014 of the pull of label, and can hardly be felt at weight "
        "0.1; methods.0.weights.attention=70 would give it about 0.1 of it",
        "careful: prior pulls at the student with 4.4e-06 of the pull of label, and can hardly be felt at weight 0.5; "
        "methods.0.weights.prior={to: 10000, steps: 30} would give it about 0.1 of it",
    ]


def test_without_labels_the_strongest_term_is_what_others_are_compared_with():
    lines = pulls.said([pull("kd", 5.0), pull("l1", 0.04)])
    assert len(lines) == 2 and "l1 pulls at the student with 0.008 of the pull of kd" in lines[1]
    assert len(pulls.said([pull("kd", 5.0), pull("l1", 0.06)])) == 1


def test_the_plan_warns_and_what_it_advises_is_felt(root):
    weak = METHODS % ", weights: {consistency: 1.0e-4}"

    def said(*words):
        return " ".join(plan.plan(loaded(root, weak, *words), 1).split())

    text = said()
    advised = re.search(
        r"careful: feature_consistency/consistency pulls .* (methods\.1\.weights\.consistency=\S+) w", text
    )
    assert advised is not None, text
    mended = said(advised[1])
    assert "careful: feature_consistency" not in mended
    label, consistency = (float(re.search(rf"{name} ([\d.e-]+\d)", mended)[1]) for name in (": label", "/consistency"))
    assert 0.03 < consistency / label < 0.3
