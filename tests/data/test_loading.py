"""What goes wrong while loading is one sentence that names the clip, and leaves no process behind."""

import ctypes
import multiprocessing
import os
import pickle  # noqa: TID251  to show that an error travels without one
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data import numbered
from vidkd.config import Augment, ClipSpec, Data, ViewSpec
from vidkd.data import clips, loading, order, sampling
from vidkd.data.index import Part
from vidkd.data.loading import Bad, Item, Key, Loader
from vidkd.errors import DataError

VIEWS = {"student": ViewSpec(size_px=32)}


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return numbered.prepared(tmp_path, [9] * 8).part("split1", "train")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    for _ in range(50):
        if not multiprocessing.active_children():
            return
        time.sleep(0.1)
    raise AssertionError(f"left running: {multiprocessing.active_children()}")


def settings(**changes: object) -> Data:
    fields = {"root": Path("."), "clip": ClipSpec(frames=4), "augment": Augment(), "workers": 0, "timeout_s": 60}
    return Data.model_validate(fields | changes)


def train(part: Part, data: Data, last: int = 4) -> Loader:
    sampler = order.StepSampler(len(part), 4, 0, 0, last, 0, 1)
    return clips.train_loader(part, data, VIEWS, sampler, run_seed=0)


def cut(part: Part, i: int) -> Path:
    """Damage video i so that it has its size, and cannot be decoded."""
    path = part[i].path
    path.write_bytes(path.read_bytes()[:600] + bytes(path.stat().st_size - 600))
    return path


# Bad videos


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_video_is_one_sentence_that_names_it(part: Part, workers: int):
    path = cut(part, 5)
    with pytest.raises(DataError) as caught:
        list(train(part, settings(workers=workers)))
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_test_video_is_never_replaced(part: Part, workers: int):
    path = cut(part, 5)
    data = settings(workers=workers, on_error="skip", max_bad_fraction=1)
    with pytest.raises(DataError, match=path.name):
        list(clips.test_loader(part, data, VIEWS, 3, 0, 1))


def test_all_bad_videos_of_a_batch_are_named(part: Part):
    paths = [cut(part, i) for i in range(8)]
    with pytest.raises(DataError) as caught:
        next(iter(train(part, settings())))
    assert sum(str(path) in str(caught.value) for path in paths) == 4


def test_a_file_that_changed_since_it_was_prepared(part: Part):
    shorter, gone = part[0].path, part[1].path
    shorter.write_bytes(shorter.read_bytes()[:-1])
    gone.unlink()
    source = clips.TrainClips(part, settings(), VIEWS, 0)
    with pytest.raises(DataError, match=r"clip_0.* bytes, the index says .* prepare the data set again"):
        source.load((0, 0))
    with pytest.raises(DataError, match=r"clip_1.*No such file.*in the index"):
        source.load((0, 1))


def test_a_video_with_fewer_frames_than_its_index_says(part: Part, tmp_path: Path):
    table = part.table.set_column(part.table.column_names.index("frames"), "frames", [[90] * 8])
    source = clips.TrainClips(Part(part.root, table, part.labels), settings(), VIEWS, 0)
    epoch = next(e for e in range(50) if int(sampling.train_start(90, 4, order.generator(0, e, 3))) > 8)
    with pytest.raises(DataError, match=r"clip_3.*it has no frame"):
        source.load((epoch, 3))


# Skipping


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_videos_are_replaced_alike_and_counted(part: Part, workers: int):
    path = cut(part, 5)
    loader = train(part, settings(workers=workers, on_error="skip", max_bad_fraction=0.2))
    batches = list(loader)
    assert len(batches) == 4 and all(len(batch.clip) == 4 for batch in batches)
    assert [(bad.epoch, bad.name) for bad in loader.replaced] == [(0, "clip_5"), (1, "clip_5")]
    assert all(str(path) in bad.reason for bad in loader.replaced)
    assert not any("clip_5" in batch.clip for batch in batches)
    for bad in loader.replaced:
        used = [batch for batch in batches if bad.used in batch.clip]
        assert used  # the replacement is said by its own name and address
    again = train(part, settings(on_error="skip", max_bad_fraction=0.2))
    for one, other in zip(again, batches, strict=True):
        assert one.clip == other.clip and torch.equal(one.views["student"], other.views["student"])
        assert one.address is not None
        assert one.clip == tuple(f"clip_{i}" for i in one.address[:, 1])
    assert again.replaced == loader.replaced


def test_more_than_the_allowed_number_of_an_epoch_is_an_error():
    unreadable = loading.Unreadable()
    for bad in (Bad(0, "a", "a: no"), Bad(0, "a", "a: no"), Bad(1, "b", "b: no")):
        unreadable.add(bad, 1.6)
    with pytest.raises(DataError, match=r"2 videos of epoch 1 .*max_bad_fraction allows \(1\.6\); the last: c: no"):
        unreadable.add(Bad(1, "c", "c: no"), 1.6)
    assert unreadable.count == 4


def test_a_data_set_of_bad_videos_is_an_error_after_all(part: Part):
    for i in range(8):
        cut(part, i)
    with pytest.raises(DataError, match="10 videos tried in its place"):
        next(iter(train(part, settings(on_error="skip", max_bad_fraction=1))))


# Workers


class Troubled:
    """Clips of which number 3 gets `trouble`."""

    def __init__(self, part: Part, trouble: str) -> None:
        self.part, self.trouble = part, trouble

    def load(self, key: Key) -> Item:
        if key[1] == 3 and self.trouble == "holds the interpreter":
            ctypes.PyDLL(None).sleep(60)
        if key[1] == 3 and self.trouble == "sleeps":
            time.sleep(60)
        if key[1] == 3 and self.trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if key[1] == 3 and self.trouble == "bug":
            raise KeyError("a mistake of ours")
        time.sleep(0.02)
        return Item({"student": torch.zeros(1, 3, 1, 2, 2, dtype=torch.uint8)}, 0, f"clip_{key[1]}", key)


def troubled(part: Part, trouble: str, workers: int = 2, timeout_s: float = 1.0) -> Loader:
    keys = [[(0, i)] for i in range(8)]
    return Loader(Troubled(part, trouble), keys, workers=workers, timeout_s=timeout_s, generator=torch.Generator())


@pytest.mark.parametrize("trouble", ["sleeps", "holds the interpreter"])
def test_a_worker_that_hangs_is_an_error_that_names_the_clip(part: Part, trouble: str):
    started = time.monotonic()
    with pytest.raises(DataError, match=r"silent for 4\S* s .*it was reading: clip_3\. "):
        list(troubled(part, trouble, timeout_s=4))  # longer than a busy machine keeps a worker waiting
    assert time.monotonic() - started < 4 + 9


def test_a_worker_that_dies_is_an_error_that_names_the_clip(part: Part):
    with pytest.raises(DataError, match=r"a loader worker died .*it was reading: clip_3$"):
        list(troubled(part, "dies", timeout_s=30))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_ours_keeps_its_traceback(part: Part, workers: int):
    with pytest.raises(KeyError, match="a mistake of ours"):
        list(troubled(part, "bug", workers))


def test_workers_outlive_signals_to_the_group(part: Part):
    batches = iter(troubled(part, "none", timeout_s=30))
    seen = [next(batches).clip]
    for worker in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            assert worker.pid is not None
            os.kill(worker.pid, number)
    seen += [batch.clip for batch in batches]
    assert seen == [(f"clip_{i}",) for i in range(8)]


def started_too_late() -> None:
    os.getppid = lambda: 1  # who adopted it
    loading._start_worker(0)


def test_a_worker_whose_process_died_before_it_listened_ends():
    worker = multiprocessing.get_context("fork").Process(target=started_too_late)
    worker.start()
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL


def test_a_loader_left_halfway_ends_its_workers(part: Part):
    batches = iter(troubled(part, "none"))
    next(batches)
    del batches  # the fixture looks for what is left


def test_the_first_batch_is_prepared_before_it_is_asked_for(part: Part):
    batches = iter(troubled(part, "none"))
    assert len(multiprocessing.active_children()) == 2
    assert len(list(batches)) == 8


def test_a_loader_can_be_read_twice_and_may_be_empty(part: Part):
    loader = clips.test_loader(part, settings(workers=1), VIEWS, 3, 0, 1)
    assert [batch.clip for batch in loader] == [batch.clip for batch in loader]
    assert len(loader) == 3
    assert list(clips.test_loader(part, settings(workers=2), VIEWS, 3, 8, 9)) == []


def test_what_travels_between_processes_is_plain(part: Part):
    loaded = loading.collate([Bad(0, "clip_3", "clip_3.mp4: unreadable")])
    assert pickle.loads(pickle.dumps(loaded)) == loaded
