"""What is in the clips of a step, for any number of workers, processes and interruptions."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import numbered
from data.clip_settings import NOISY, RICH, STILL, STUDENT, TEACHER, read, settings
from vidkd.config import ClipSpec, Data, TestViews, ViewSpec
from vidkd.data import clips, sampling
from vidkd.data.clips import TestClips, TrainClips
from vidkd.data.index import Index, Part
from vidkd.data.order import StepSampler
from vidkd.errors import ConfigError
from vidkd.types import ClipBatch


def same(a: ClipBatch, b: ClipBatch) -> bool:
    assert a.address is not None and b.address is not None
    views = all(torch.equal(a.views[name], b.views[name]) for name in a.views | b.views)
    return views and a.clip == b.clip and torch.equal(a.label, b.label) and torch.equal(a.address, b.address)


# Training clips


def test_both_views_are_of_one_span(part: Part):
    source = TrainClips(part, settings(), {"teacher": TEACHER, "student": STUDENT}, run_seed=0)
    starts = set()
    for epoch in range(30):
        item = source.load((epoch, 12))  # 36 frames
        teacher, student = read(item.views["teacher"][0]), read(item.views["student"][0])
        assert teacher == list(range(teacher[0], teacher[0] + 16, 2))
        assert student == teacher[::2]
        starts.add(teacher[0])
    assert len(starts) > 10
    assert (item.name, item.label, item.address) == ("clip_12", 0, (29, 12))
    assert item.views["teacher"].shape == (1, 3, 8, 64, 64) and item.views["teacher"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("short", "expected"), [("loop", [0, 2, 1, 0, 2, 1, 0, 2]), ("hold", [0, 2, 2, 2, 2, 2, 2, 2])]
)
def test_d8_short_videos_loop_or_hold_in_training_and_evaluation_alike(part: Part, short: str, expected: list[int]):
    for source in (
        TrainClips(part, settings(short=short), {"teacher": TEACHER}, run_seed=0),
        TestClips(part, settings(short=short), {"teacher": TEACHER}),
    ):
        assert read(source.load((0, 1)).views["teacher"][0]) == expected  # 3 frames
        assert read(source.load((0, 0)).views["teacher"][0]) == [0] * 8  # one frame


def test_a_clip_follows_from_its_address_alone(part: Part):
    source = TrainClips(part, settings(augment=RICH), {"teacher": TEACHER, "student": NOISY}, run_seed=0)
    before = {key: source.load(key).views for key in ((0, 5), (0, 6), (1, 5), (7, 12))}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    for key in reversed(before):
        again = source.load(key).views
        assert all(torch.equal(again[name], before[key][name]) for name in again)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not torch.equal(before[0, 5]["teacher"], before[1, 5]["teacher"])


def test_a_view_does_not_depend_on_which_others_are_made(part: Part):
    """A teacher's answers are cached from its view alone, and replayed to a student whose view is then alone."""
    data = settings(augment=RICH)
    both = TrainClips(part, data, {"teacher": TEACHER, "student": NOISY}, run_seed=0)
    teacher = TrainClips(part, data, {"teacher": TEACHER}, run_seed=99)
    student = TrainClips(part, data, {"student": NOISY}, run_seed=0)
    for key in [(e, i) for e in range(4) for i in (0, 3, 7, 12)]:
        views = both.load(key).views
        assert torch.equal(teacher.load(key).views["teacher"], views["teacher"])
        assert torch.equal(student.load(key).views["student"], views["student"])


def test_addresses_are_replayed_and_the_students_noise_is_not(part: Part):
    data = settings(augment=RICH)
    views = {"teacher": TEACHER, "student": STUDENT}
    replaying = TrainClips(part, data, views, run_seed=0, addresses=3)
    plain = TrainClips(part, data, views, run_seed=0)
    for epoch in range(7):
        item, expected = replaying.load((epoch, 9)), plain.load((epoch % 3, 9))
        assert item.address == (epoch % 3, 9)
        assert all(torch.equal(item.views[name], expected.views[name]) for name in views)
    noisy = TrainClips(part, data, {"teacher": TEACHER, "student": NOISY}, run_seed=0, addresses=3)
    first, later = noisy.load((1, 9)).views, noisy.load((4, 9)).views
    assert torch.equal(first["teacher"], later["teacher"])
    assert not torch.equal(first["student"], later["student"])
    other_run = TrainClips(part, data, {"student": NOISY}, run_seed=1, addresses=3)
    assert not torch.equal(first["student"], other_run.load((1, 9)).views["student"])


def test_a_noisy_teacher_is_replayable_too(part: Part):
    one, other = (TrainClips(part, settings(), {"teacher": NOISY}, run_seed=s, addresses=2) for s in (0, 1))
    assert torch.equal(one.load((0, 9)).views["teacher"], other.load((2, 9)).views["teacher"])


def test_the_students_view_is_the_teachers_made_smaller(part: Part):
    source = TrainClips(part, settings(augment=RICH), {"teacher": TEACHER, "student": ViewSpec(size_px=32)}, run_seed=0)
    for key in [(e, i) for e in range(5) for i in (5, 12)]:
        views = source.load(key).views
        half = torch.nn.functional.avg_pool2d(views["teacher"][0].float(), 2)
        assert (half - views["student"][0].float()).abs().mean() < 4


# Loaders


def batches(part: Part, data: Data, first: int = 0, last: int = 8, **views: ViewSpec) -> list[ClipBatch]:
    sampler = StepSampler(len(part), 4, 3, first, last, 0, 1)
    return list(clips.train_loader(part, data, views or {"teacher": TEACHER, "student": NOISY}, sampler, run_seed=0))


def test_workers_and_interruptions_change_nothing(part: Part):
    data = settings(augment=RICH)
    state = torch.get_rng_state()
    whole = batches(part, data)
    assert len(whole) == 8
    for workers in (0, 1, 2):
        cut = batches(part, settings(augment=RICH, workers=workers), last=5)
        rest = batches(part, settings(augment=RICH, workers=workers), first=5)
        assert all(same(a, b) for a, b in zip(cut + rest, whole, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_says_what_it_is_made_of(part: Part):
    batch = batches(part, settings(), last=1)[0]
    assert batch.views["teacher"].shape == (4, 3, 8, 64, 64) and batch.views["student"].shape == (4, 3, 4, 32, 32)
    assert batch.address is not None
    assert batch.clip == tuple(f"clip_{i}" for i in batch.address[:, 1])
    assert batch.label.tolist() == [i % 2 for i in batch.address[:, 1].tolist()]
    assert batch.label.dtype == batch.address.dtype == torch.int64


@pytest.mark.parametrize("world", [1, 2, 3, 15])
@pytest.mark.parametrize("videos", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_test_video_is_seen_once(part: Part, world: int, videos: int, workers: int):
    data = settings(workers=workers, test_views=TestViews(clips=2, crops=3))
    seen = []
    for rank in range(world):
        if workers and rank > 1:
            continue  # a process for each of them says nothing new
        for batch in clips.test_loader(part, data, {"student": STUDENT}, videos, rank, world):
            assert len(batch.clip) <= videos * 6
            names = batch.clip[::6]
            assert batch.clip == tuple(name for name in names for _ in range(6))  # side by side
            seen += names
    expected = {f"clip_{i}" for i in range(13) if not workers or i % world < 2}
    assert len(seen) == len(expected) and set(seen) == expected


def test_test_views_are_clip_by_clip_over_the_whole_video(part: Part, monkeypatch: pytest.MonkeyPatch):
    data = settings(test_views=TestViews(clips=3, crops=1))
    item = TestClips(part, data, {"teacher": TEACHER, "student": STUDENT}).load((0, 12))
    assert item.views["teacher"].shape == (3, 3, 8, 64, 64)
    starts = sampling.test_starts(36, 15, 3)
    assert [read(view) for view in item.views["teacher"]] == [list(range(s, s + 16, 2)) for s in starts]
    assert [read(view)[0] for view in item.views["student"]] == starts
    monkeypatch.setattr(clips, "MAX_BYTES_AT_ONCE", 0)  # too large to be decoded in one piece
    piecewise = TestClips(part, data, {"teacher": TEACHER, "student": STUDENT}).load((0, 12))
    assert all(torch.equal(item.views[name], piecewise.views[name]) for name in item.views)


def test_test_crops_are_the_places_they_should_be(tmp_path: Path):
    wide = numbered.prepared(tmp_path, [9], size=(128, 96)).part("split1", "train")
    data = settings(clip=ClipSpec(frames=2), test_views=TestViews(clips=2, crops=3))
    views = TestClips(wide, data, {"teacher": ViewSpec(size_px=96)}).load((0, 0)).views["teacher"]
    single = settings(clip=ClipSpec(frames=2))
    middle = TestClips(wide, single, {"teacher": ViewSpec(size_px=96)}).load((0, 0)).views["teacher"]
    assert torch.equal(views[0, ..., 32:], views[2, ..., :64])  # the same clip, start and end of the longer side
    assert torch.equal(views[1, ..., :80], views[0, ..., 16:])
    assert not torch.equal(views[0], views[3])  # another clip
    assert middle.shape == (1, 3, 2, 96, 96)


def test_noise_of_test_views_is_addressed_too(part: Part):
    data = settings(test_views=TestViews(clips=2))
    one, other = (TestClips(part, data, {"student": NOISY}).load((0, 0)).views["student"] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


# Configurations that do not fit the data


def test_a_flip_that_changes_labels_is_refused(dataset: Index, part: Part):
    del part
    run = SimpleNamespace(data=settings(augment=RICH), views=lambda: {"student": STUDENT})
    mirrored = Index(dataset.root, dataset.table, dataset.classes, dataset.card | {"horizontal_flip": "changes_labels"})
    clips.check(dataset, run)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"set data\.augment\.flip=0"):
        clips.check(mirrored, run)  # pyright: ignore[reportArgumentType]
    run.data = settings(augment=STILL)
    clips.check(mirrored, run)  # pyright: ignore[reportArgumentType]


def test_a_view_cannot_have_more_frames_than_its_clip(dataset: Index):
    run = SimpleNamespace(data=settings(), views=lambda: {"student": ViewSpec(size_px=32, frames=9)})
    with pytest.raises(ConfigError, match=r"student\.view\.frames is 9, more than the 8"):
        clips.check(dataset, run)  # pyright: ignore[reportArgumentType]
