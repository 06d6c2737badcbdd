"""What a task adds to a clip, and windows over whole videos."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.clip_settings import STUDENT, read, settings
from vidkd.config import ClipSpec, Data, TestViews, ViewSpec, Windows
from vidkd.data import clips
from vidkd.data.clips import TestClips, TrainClips
from vidkd.data.index import Index
from vidkd.errors import DataError
from vidkd.tasks._base import BaseTask, TaskSection
from vidkd.types import Shown


class Maps(BaseTask[TaskSection]):
    """A task whose truth is a map a frame, cut as the picture is, and that learns from the second half of a video."""

    def truth(self, shown: Shown) -> dict[str, Tensor]:
        assert shown.window is not None
        _, _, height, width = shown.window
        frames = torch.tensor(shown.frames, dtype=torch.float32)
        return {"map": frames[:, None, None].expand(-1, height, width), "start_s": torch.tensor(shown.start_s)}

    def wants(self, shown: Shown) -> bool:
        return shown.start_s >= shown.duration_s / 2


def run_with(data: Data) -> Any:
    return SimpleNamespace(data=data, task=TaskSection(kind="maps"), views=lambda: {"student": STUDENT})


def test_a_task_adds_its_own_truth_to_training_and_test_clips(dataset: Index):
    run = run_with(settings())
    part = clips.part_of(dataset, run, Maps(run.task, dataset.classes), "train", training=True)
    item = TrainClips(part, run.data, {"student": STUDENT}, run_seed=0).load((0, 12))
    assert item.extra["map"].shape == (1, 8, 96, 96)
    assert item.extra["map"][0, :, 0, 0].tolist()[::2] == read(item.views["student"][0])
    batch = next(iter(clips.test_loader(part, settings(test_views=TestViews(clips=2)), {"student": STUDENT}, 3, 0, 1)))
    assert batch.extra["map"].shape == (6, 8, 96, 96)


def test_windows_slide_over_whole_videos(dataset: Index):
    """The 13 videos have 1, 3, 6, ..., 36 frames; a window covers 8, and the last one is flush with the end."""
    run = run_with(settings(clip=ClipSpec(frames=8), windows=Windows(train_step=4, test_step=8)))
    task = Maps(run.task, dataset.classes)
    test = clips.part_of(dataset, run, task, "train")
    of_last = [test[i].start for i in range(len(test)) if test[i].name == "clip_12"]
    assert of_last == [0, 8, 16, 24, 28]
    wanted = clips.part_of(dataset, run, task, "train", training=True)
    assert {wanted[i].name for i in range(len(wanted))} == {f"clip_{i}" for i in range(6, 13)}  # of 16 frames and more
    assert [wanted[i].start for i in range(len(wanted)) if wanted[i].name == "clip_12"] == [20, 24, 28]
    item = TrainClips(wanted, run.data, {"student": ViewSpec(size_px=64)}, run_seed=0).load((3, len(wanted) - 2))
    assert read(item.views["student"][0]) == list(range(24, 32))
    assert item.extra["start_s"].item() == pytest.approx(24 / wanted[0].fps)


def test_videos_are_read_at_the_rate_of_the_configuration(dataset: Index):
    fps = dataset.part("split1", "train")[0].fps
    run = run_with(settings(clip=ClipSpec(frames=8), fps=fps / 3))
    part = clips.part_of(dataset, run, Maps(run.task, dataset.classes), "train")
    item = TestClips(part, run.data, {"student": ViewSpec(size_px=64)}).load((0, 12))
    assert read(item.views["student"][0]) == list(range(8, 32, 3))  # 36 frames are 12; the middle 8 of them
    assert item.extra["start_s"].item() == pytest.approx(2 * 3 / fps)


def test_a_task_that_finds_nothing_says_so(dataset: Index):
    class Nothing(Maps):
        def wants(self, shown: Shown) -> bool:
            return False

    run = run_with(settings(windows=Windows(train_step=4, test_step=8)))
    with pytest.raises(DataError, match="the task maps finds nothing to learn from in any span of 'train'"):
        clips.part_of(dataset, run, Nothing(run.task, dataset.classes), "train", training=True)


def test_a_video_without_a_label_is_for_tasks_that_need_none(dataset: Index):
    bare = dataset.table.set_column(
        dataset.table.column_names.index("label"), "label", pa.array(["", *dataset.table["label"].to_pylist()[1:]])
    )
    unlabelled = Index(dataset.root, bare, dataset.classes, dataset.card)
    assert unlabelled.part("split1", "train")[0].label == -1
    with pytest.raises(DataError, match="'clip_0' has no label, which the task maps needs"):
        clips.part_of(unlabelled, run_with(settings()), Maps(TaskSection(kind="maps"), dataset.classes), "train")


def test_steps_larger_than_a_window_are_refused():
    with pytest.raises(ValidationError, match="more than the 8 frames of a clip"):
        settings(clip=ClipSpec(frames=8), windows=Windows(train_step=4, test_step=9))
