"""A teacher that was made to see something else than a run shows it stops the run before its first step."""

import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from vidkd import preflight, train
from vidkd.config import Run
from vidkd.data import index
from vidkd.distiller import build, build_task
from vidkd.errors import ConfigError
from vidkd.models import tiny

CLIP = ("data.augment.mixup_alpha=0", "train.steps=2")


@pytest.fixture
def teacher(make) -> Run:
    run = make("teacher", *CLIP, "methods=[]", "teacher=null", "student.name=tiny16", "student.view={size_px: 32}")
    train.train(run)
    return run


def said(run: Run) -> str:
    """The preflight's sentence about the teacher of `run`."""
    data_set = index.read(run.data.root)
    task, part = build_task(run, data_set.classes), data_set.part("split1", "train")
    _, frozen, _ = build(run, len(data_set.classes))
    assert frozen is not None
    return preflight.check_teacher(run, frozen, part, task, torch.device("cpu"))


def with_metadata(teacher: Run, path, **changed) -> str:
    """The teacher's weights as another file, which says something else of itself."""
    with safe_open(teacher.out_dir / "student.safetensors", "pt") as file:
        metadata = file.metadata() | changed
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, path, metadata)
    return f"teacher.weights={path}"


def test_what_fits_is_scored_and_nothing_else_is_said(make, teacher):
    verdict = said(make("run", *CLIP, f"teacher.weights={teacher.out_dir}", "teacher.preflight_clips=5"))
    assert "of 5 training clips" in verdict and "made for" not in verdict


def test_another_clip_length(make, teacher):
    run = make("run", f"teacher.weights={teacher.out_dir}", "teacher.view.frames=4", "teacher.allow_weak=false")
    with pytest.raises(ConfigError, match="made for clips of 8 frames, this run shows 4"):
        said(run)


def test_another_normalisation(make, teacher, monkeypatch):
    weights = f"teacher.weights={teacher.out_dir}"
    input = tiny.Input
    monkeypatch.setattr(tiny, "Input", lambda **more: input(mean=(0.1, 0.2, 0.3), **more))
    with pytest.raises(ConfigError, match=r"made for input mean \[.*this run gives \[0.1, 0.2, 0.3\]"):
        said(make("run", weights, "teacher.allow_weak=false"))


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        (("Right", "left", "down", "up"), ""),
        (("left", "right", "down", "up"), "output 0 is 'left' in the weights, 'right' in the data set"),
    ],
)
def test_other_classes_or_the_same_in_another_order(make, teacher, tmp_path, classes, complaint):
    """Also where the file is no student of ours, and only names its classes: public weights, say."""
    file = with_metadata(teacher, tmp_path / "w.safetensors", format="another", classes=json.dumps(classes))
    run = make("run", *CLIP, file, "teacher.allow_weak=false")
    with pytest.raises(ConfigError) as refused:  # it is at chance, too
        said(run)
    assert (complaint or "made for") in str(refused.value) if complaint else "made for" not in str(refused.value)
