"""Clips, addressed: how each is augmented follows from numbers in the configuration alone.

Nothing is consumed: workers, ranks, interruptions and what was seen before change nothing.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidkd.config import Data, Run, ViewSpec
from vidkd.data import features, sampling, transforms
from vidkd.data.decode import open_video
from vidkd.data.degrade import degrade
from vidkd.data.index import Clip, Index, Part
from vidkd.data.loading import Bad, Item, Key, Loader
from vidkd.data.order import generator
from vidkd.errors import ConfigError, DataError
from vidkd.tasks._base import BaseTask
from vidkd.types import Shown

MAX_BYTES_AT_ONCE = 256 << 20  # of decoded frames, in a test video with many views
REPLACEMENTS = 10  # tried for one unreadable video, before it is an error after all


class TrainClips:
    """(epoch, i) -> one augmented clip of video i, as every network sees it.

    What the views share is addressed by (data.seed, address epoch, i), where the address epoch is the epoch, modulo
    `addresses` where a teacher cache replays that many. A view's own noise is addressed by (run_seed, epoch, i), except
    the teacher's, which must be replayable too.
    """

    def __init__(
        self, part: Part, data: Data, views: dict[str, ViewSpec], run_seed: int, addresses: int | None = None
    ) -> None:
        self.part, self.data, self.views = part, data, views
        self.run_seed, self.addresses = run_seed, addresses

    def load(self, key: Key) -> Item:
        """DataError if the video is unreadable; with on_error: skip, another one in its place, and said so."""
        try:
            return self.clip(*key)
        except DataError as error:
            if self.data.on_error == "raise":
                raise
            return self._replacement(*key, str(error))

    def clip(self, epoch: int, i: int) -> Item:
        """The clip of video `i` in `epoch`."""
        data, video = self.data, self.part[i]
        address = (epoch % self.addresses if self.addresses else epoch, i)
        rng = generator(data.seed, *address)
        indices, shown = self.span(video, rng)
        wanted = {name: sampling.subsample(indices, view.frames or len(indices)) for name, view in self.views.items()}
        frames, place = read(video, {i for indices in wanted.values() for i in indices}, data)
        drawn = transforms.draw(data.augment, frames.shape[2], frames.shape[3], rng)
        cropped = transforms.crop(frames, drawn.window)
        modality, gray = self.part.modality, 0.0
        if modality == "rgb":
            gray = transforms.mean_gray(cropped[place[indices[0]]])  # of the first frame: in every view
        made = {}
        for name, view in self.views.items():
            seed = (data.seed, *address) if name == "teacher" else (self.run_seed, epoch, i)
            taken = _take(cropped, [place[j] for j in wanted[name]])
            seen = transforms.view(taken, drawn, view.size_px, gray, modality)
            seen = degrade(seen, view.degrade, generator(*seed, _number(name)))
            made[name] = seen.transpose(0, 1)[None]
        truth = said(self.part, [replace(shown, window=drawn.window, flip=drawn.flip)])
        return Item(made, video.label, video.name, address, extra=truth)

    def span(self, video: Clip, rng: torch.Generator) -> tuple[list[int], Shown]:
        """The source frames of a clip of the video: of the row's own span, or of a random one."""
        readable = sampling.at_rate(video.frames, video.fps, self.data.fps)
        start = sampling.train_start(len(readable), sampling.span(self.data.clip), rng)
        return shot(video, readable, start if video.start is None else video.start, self.data)

    def _replacement(self, epoch: int, i: int, reason: str) -> Item:
        """A clip of another video: which one is addressed too."""
        rng = generator(self.data.seed, epoch, i, _number("replacement"))
        for _ in range(REPLACEMENTS):
            j = int(torch.randint(len(self.part), (), generator=rng))
            if j == i:
                continue
            try:
                item = self.clip(epoch, j)
            except DataError:
                continue
            bad = Bad(epoch, self.part[i].name, reason, used=item.name)
            return replace(item, bad=bad)
        raise DataError(f"{reason}\nand {REPLACEMENTS} videos tried in its place could not be read either")


class TestClips:
    """(0, i) -> all V = clips x crops views of video i, clip by clip; nothing random but a view's noise."""

    __test__ = False  # not a test, whatever pytest thinks

    def __init__(self, part: Part, data: Data, views: dict[str, ViewSpec]) -> None:
        self.part, self.data, self.views = part, data, views

    def load(self, key: Key) -> Item:
        """DataError if the video is unreadable."""
        data, spec, video = self.data, self.data.clip, self.part[key[1]]
        readable = sampling.at_rate(video.frames, video.fps, data.fps)
        starts = sampling.test_starts(len(readable), sampling.span(spec), data.test_views.clips)
        shots = [shot(video, readable, start, data) for start in (starts if video.start is None else [video.start])]
        needed = [self._seen(span) for span, _ in shots]
        seen_by_all: list[Shown] = []
        made: dict[str, list[Tensor]] = {name: [] for name in self.views}
        every = set().union(*needed)
        together = len(every) * 3 * video.width * video.height <= MAX_BYTES_AT_ONCE
        frames, place = read(video, every, data) if together else (torch.empty(0), {})
        for k, (span, shown) in enumerate(shots):
            if not together:
                frames, place = read(video, needed[k], data)
            windows = transforms.test_windows(frames.shape[2], frames.shape[3], data.test_views.crops)
            for j, window in enumerate(windows):
                drawn, cropped = transforms.Drawn(window), transforms.crop(frames, window)
                seen_by_all.append(replace(shown, window=window))
                for name, view in self.views.items():
                    wanted = [place[i] for i in sampling.subsample(span, view.frames or spec.frames)]
                    seen = transforms.view(_take(cropped, wanted), drawn, view.size_px)
                    rng = generator(data.seed, key[1], k, j, _number(name))
                    made[name].append(degrade(seen, view.degrade, rng).transpose(0, 1))
        views = {name: torch.stack(v) for name, v in made.items()}
        return Item(views, video.label, video.name, key, extra=said(self.part, seen_by_all))

    def _seen(self, span: Sequence[int]) -> set[int]:
        """The frames of a span that any view takes: no other is decoded."""
        lengths = {view.frames or self.data.clip.frames for view in self.views.values()}
        return {i for length in lengths for i in sampling.subsample(span, length)}


def shot(video: Clip, readable: Sequence[int], start: int, data: Data) -> tuple[list[int], Shown]:
    """The source frames of the span that begins at frame `start` of the `readable` ones, and what it shows."""
    spec, fps = data.clip, data.fps or video.fps
    indices = [readable[i] for i in sampling.indices(start, spec, len(readable), data.short)]
    end_s = (start + spec.frames * spec.stride) / fps
    return indices, Shown(video.name, start / fps, end_s, video.frames / video.fps, tuple(indices))


def said(part: Part, shown: list[Shown]) -> dict[str, Tensor]:
    """The task's truth of the views of one video, stacked: name -> [V, ...]."""
    truth = [part.truth(view) for view in shown] if part.truth else [{}]
    return {name: torch.stack([t[name] for t in truth]) for name in truth[0]}


def part_of(index: Index, run: Run, task: BaseTask, name: str, *, training: bool = False) -> Part:
    """The part `name` of the run's split as its task needs it: with the task's truth, one row a span where the run has
    windows. DataError if the task cannot learn from its videos, or wants no span of any."""
    part = index.part(run.data.split, name)
    task.check(part.names(), part.labels.to_pylist())
    part.truth = task.truth
    if run.data.windows is None:
        return part
    spec, step = run.data.clip, run.data.windows.train_step if training else run.data.windows.test_step
    wanted: list[list[int]] = []
    for i in range(len(part)):
        video = part[i]
        readable = sampling.at_rate(video.frames, video.fps, run.data.fps)
        starts = sampling.window_starts(len(readable), spec.frames * spec.stride, step)
        wanted.append([s for s in starts if not training or task.wants(shot(video, readable, s, run.data)[1])])
    if not any(wanted):
        raise DataError(f"{index.root}: the task {run.task.kind} finds nothing to learn from in any span of {name!r}")
    return part.spread(wanted)


def read(video: Clip, indices: Iterable[int], data: Data) -> tuple[Tensor, dict[int, int]]:
    """The frames [n, 3, H, W] of the video, and where in them each index is. DataError if it is not what it was."""
    try:
        size = video.path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{video.path}: cannot be read ({error.strerror}); it is in the index of the data set"
        ) from None
    if size != video.bytes:
        raise DataError(
            f"{video.path}: has {size} bytes, the index says {video.bytes}: it was cut short or changed since it was "
            "prepared; prepare the data set again"
        )
    wanted = sorted(indices)
    with open_video(video.path, data.decoder) as opened:
        return opened.get(wanted), {index: place for place, index in enumerate(wanted)}


def train_loader(
    part: Part,
    data: Data,
    views: dict[str, ViewSpec],
    sampler: Iterable[list[Key]],
    run_seed: int,
    addresses: int | None = None,
) -> Loader:
    """Batches of augmented clips, one for each list of (epoch, position) that `sampler` yields."""
    return Loader(
        TrainClips(part, data, views, run_seed, addresses),
        sampler,
        workers=data.workers,
        timeout_s=data.timeout_s,
        generator=generator(run_seed),
    )


def test_loader(
    part: Part, data: Data, views: dict[str, ViewSpec], videos_per_batch: int, rank: int, world: int
) -> Loader:
    """All test views of this rank's videos (position % world == rank), each exactly once and whole in one batch."""
    mine = [(0, i) for i in range(rank, len(part), world)]
    batches = [mine[i : i + videos_per_batch] for i in range(0, len(mine), videos_per_batch)]
    return Loader(
        TestClips(part, data, views),
        batches,
        workers=min(data.workers, len(batches)),
        timeout_s=data.timeout_s,
        generator=generator(data.seed),
    )


def check(index: Index, run: Run) -> None:
    """ConfigError if `run` would show `index` in a way that changes its labels, or more frames than it reads."""
    if index.flip_changes_labels and run.data.augment.flip > 0:
        raise ConfigError(
            f"data.augment.flip is {run.data.augment.flip}, but a mirrored {index.name} clip may belong to another "
            "class (dataset.json: horizontal_flip: changes_labels): set data.augment.flip=0"
        )
    if index.modality == "flow":
        _check_flow(index, run)
    if index.modality == "features":
        features.check(index.name, run)
    for name, view in run.views().items():
        if view.frames is not None and view.frames > run.data.clip.frames:
            raise ConfigError(
                f"{name}.view.frames is {view.frames}, more than the {run.data.clip.frames} of data.clip.frames"
            )


def _check_flow(index: Index, run: Run) -> None:
    """ConfigError for what would change colours: flow has none."""
    changes = {"color_jitter": run.data.augment.color_jitter, "randaugment": run.data.augment.randaugment}
    wrong = [f"data.augment.{name}" for name, value in changes.items() if value]
    wrong += [f"{name}.view.degrade.jpeg_quality" for name, v in run.views().items() if v.degrade.jpeg_quality]
    if wrong:
        raise ConfigError(f"{index.root} holds optical flow, which has no colours: leave out {', '.join(wrong)}")


def _take(frames: Tensor, positions: list[int]) -> Tensor:
    """frames[positions], without a copy where those are all of them."""
    return frames if positions == list(range(len(frames))) else frames[positions]


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
