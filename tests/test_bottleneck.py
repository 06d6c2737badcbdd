"""What a run waits for, by arithmetic on seconds, and in a real run."""

import json

import pytest

from vidkd import bottleneck, train
from vidkd.bottleneck import Setting, verdict

REST = {"student": 0.2, "methods": 0.1, "backward": 0.6, "optimiser": 0.1}  # 1 s


def test_a_live_teacher_should_be_cached():
    found = verdict({"data": 0.1, "teacher": 3.0, **REST}, Setting(teacher="live"))
    assert found.kind == "teacher"
    assert found.text.startswith("teacher-bound: the teacher takes 73% of a step (3.00 s of 4.10 s); ")
    assert "teacher.cache={views: 8} would help most: a step 3.7 x as fast (1.10 s)" in found.text  # 4.1 / 1.1


def test_a_teacher_that_cannot_be_cached_is_not_advised_to_be():
    found = verdict({"data": 0.1, "teacher": 3.0, **REST}, Setting(teacher="live", cacheable=False))
    assert found.kind == "teacher"
    assert "cache" not in found.text
    assert "no setting would help: without waiting and teacher a step is 4.10 x as fast" in found.text


def test_clips_that_are_made_in_the_step_want_workers():
    """3 s of making on one core; 3 workers make it beside the step, in 1 s, as long as the step itself."""
    found = verdict({"data": 3.0, **REST}, Setting(workers=0, free_cores=3))
    assert found.kind == "decode"
    assert "data.workers=3 would help most: a step 4.0 x as fast (1.00 s)" in found.text


def test_workers_that_are_too_few():
    """2 workers take 2 s for a step's clips, so 4 s of work: 8 would take half a second, less than the step."""
    found = verdict({"data": 1.0, **REST}, Setting(workers=2, free_cores=6))
    assert "data.workers=8 would help most: a step 2.0 x as fast (1.00 s)" in found.text
    found = verdict({"data": 1.0, **REST}, Setting(workers=2, free_cores=1))  # 4 s over 3
    assert "data.workers=3 would help most: a step 1.5 x as fast (1.33 s)" in found.text


def test_without_a_free_core_the_videos_should_be_smaller():
    """Decoding is 0.8 of 3 s; at half the side it takes a quarter: 1.8 s are saved of 4."""
    found = verdict({"data": 3.0, **REST}, Setting(decode_share=0.8, stored_px=256, needed_px=128))
    assert (
        "--short-side 128 (the videos are 256 px) would help most: a step 1.8 x as fast (2.20 s) at best" in found.text
    )
    found = verdict({"data": 3.0, **REST}, Setting(decode_share=0.8, stored_px=128, needed_px=128))
    assert "--frames raw would help most: a step 2.5 x as fast (1.60 s) at best" in found.text
    found = verdict({"data": 3.0, **REST}, Setting(decode_share=0.8, stored_px=256, needed_px=128, packed=True))
    assert "no setting would help" in found.text


def test_the_best_of_several_changes_is_named():
    spent = {"data": 0.5, "teacher": 0.6, **REST}
    setting = Setting(teacher="live", free_cores=1, workers=0, on_gpu=True)
    assert "teacher.cache" in verdict(spent, setting).text  # saves 0.6 s; a worker 0.5 s
    assert "data.workers=1" in verdict(spent | {"data": 0.9}, setting).text


def test_a_student_that_is_all_there_is():
    found = verdict({"data": 0.01, **REST}, Setting(teacher="cached", on_gpu=True))
    assert found.text == (
        "student-bound: training the student takes 99% of a step (1.00 s of 1.01 s); "
        "no setting would help: without waiting and teacher a step is 1.01 x as fast"
    )
    found = verdict({"data": 0.0, **REST}, Setting(on_gpu=True, idle_gpus=1))
    assert "accelerate launch --num_processes 2 would help most: a step 2.0 x as fast (0.50 s) at best" in found.text
    found = verdict({"data": 0.0, **REST}, Setting(threads=2, free_cores=2))
    assert "train.threads=4 would help most: a step 2.0 x as fast" in found.text


@pytest.mark.parametrize(("change", "kind"), [([], "teacher"), (["teacher=null", "methods=[]"], "decode")])
def test_a_run_says_it_on_the_way_and_at_its_end(make, change, kind, capsys, monkeypatch):
    monkeypatch.setattr(bottleneck.os, "sched_getaffinity", lambda pid: {0})  # no core is free
    run = make(
        "run",
        "data.augment.mixup_alpha=0",
        "teacher.name=i3d",
        "teacher.view.size_px=32",
        "teacher.view.frames=8",
        *change,
    )
    outcome = train.train(run)
    said = outcome["bottleneck"]
    assert said.startswith(f"{kind}-bound: ")
    help_ = {"teacher": "teacher.cache={views: 8}", "decode": "python -m data_prep ... --short-side 22"}[kind]
    assert f"{help_} " in said and "would help most: a step " in said
    printed = capsys.readouterr()
    assert f"{kind}-bound" in printed.out + printed.err
    assert train.summary(outcome).endswith(said)
    lines = [json.loads(line) for line in (run.out_dir / "metrics.jsonl").read_text().splitlines()]
    parts = ["data", "student", "methods", "backward", "optimiser", *(["teacher"] if kind == "teacher" else [])]
    for line in [line for line in lines if "loss/total" in line]:
        assert sum(line[f"time/{part}_s"] for part in parts) <= line["time/step_s"]
        assert all(line[f"time/{part}_s"] >= 0 for part in parts)
