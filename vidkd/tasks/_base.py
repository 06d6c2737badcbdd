"""What every task shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidkd.errors import DataError
from vidkd.section import Weighted
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, Shown, View


class TaskSection(Weighted):
    """The keys every `task:` section has; each task's own Config adds to them."""

    only_teaches: ClassVar[tuple[str, ...]] = ("weights",)  # keys that change what is learned, not how it is scored

    kind: str


C = TypeVar("C", bound=TaskSection)


@dataclass(frozen=True, slots=True)
class Scored:
    """What evaluation hands back to the task: for each video of the split, once, what `keep` kept of its views."""

    ids: list[str]  # N names, in the order of the split
    label: Tensor  # [N] int64
    kept: dict[str, Sequence[Tensor]]  # name -> N times [V, ...]; V differs where windows slide over whole videos


def same_videos(streams: Sequence[Scored]) -> Scored:
    """The first of several networks' answers. DataError unless all are to the same videos, in the same order."""
    first = streams[0]
    if any(stream.ids != first.ids for stream in streams):
        every = [set(stream.ids) for stream in streams]
        alone = sorted(set.union(*every) - set.intersection(*every))
        raise DataError(
            f"streams of other videos cannot be joined; {(alone or first.ids)[0]!r} is not in all, or elsewhere"
        )
    return first


@dataclass(frozen=True, slots=True)
class Answers:
    """A network's answers to N videos, as a figure that can be computed again of any of them: what intervals of a mean
    over seeds, and of a gain, are made of."""

    videos: list[str]  # N names
    figure: Callable[[NDArray[np.int64]], float]  # positions of videos, some more than once -> `primary` over them


class BaseTask(Generic[C]):
    """Subclass; nothing here learns. The trainer and the evaluation call these and know nothing else of the task."""

    primary = "loss"  # the figure that picks the best checkpoint and heads a table; higher is better
    title = "loss"  # what people call it
    not_fused = "this task does not join several networks"  # "" where `undecided` and `fused` do
    text: tuple[str, ...] = ("video",)  # the columns of its predictions that hold no numbers, even where they look so

    def __init__(self, config: C, classes: tuple[str, ...], root: Path | None = None) -> None:
        """`root` is the prepared data set, for a task whose truth is more than a label a video."""
        del root
        self.config = config
        self.classes = classes

    def check(self, names: list[str], labels: list[int]) -> None:
        """DataError if the task cannot do with these videos; label -1 is a video without one."""
        if -1 in labels:
            raise DataError(f"{names[labels.index(-1)]!r} has no label, which the task {self.config.kind} needs")

    def truth(self, shown: Shown) -> dict[str, Tensor]:
        """What the task has to say of a clip beside its label, of one shape for all clips: ClipBatch.extra."""
        del shown
        return {}

    def wants(self, shown: Shown) -> bool:
        """Whether to train on this window, where windows slide over whole videos."""
        del shown
        return True

    def protocol(self) -> dict[str, Any]:
        """What else the figures depend on: checksums of the files that the truth was read from."""
        return {}

    def num_outputs(self) -> int:
        """How many outputs the network's head has."""
        return len(self.classes)

    def terms(self) -> list[str] | None:
        """The names of the terms that `losses` returns, so that a weight for another one is a mistake before the run
        begins; None if they are only known then."""
        return None

    def asks(self, student: Tapped) -> None:
        """Have the network that learns say what the losses need besides its answer. ConfigError if it cannot."""
        del student

    def altered(self, batch: ClipBatch) -> ClipBatch:
        """A training batch, perhaps with a second view of the student's clips, `ALTERED`: what it makes of that is the
        `altered` of the view that `losses` gets."""
        return batch

    def losses(self, batch: ClipBatch, student: View) -> dict[str, Tensor]:
        """Named scalars, unweighted: what the labels themselves teach."""
        raise NotImplementedError

    def right(self, batch: ClipBatch, view: View) -> Tensor:
        """[M] bool: which of the labelled things in a batch the network gets right, where guessing gets 1 of K."""
        raise NotImplementedError

    def keep(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        """What evaluation keeps of one batch of views, whose `truth` is `extra`: name -> [B, ...]."""
        raise NotImplementedError

    def undecided(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        """What evaluation keeps instead where several networks are to answer as one: what `fused` needs, name ->
        [B, ...]."""
        raise NotImplementedError

    def fused(self, streams: Sequence[Scored]) -> Scored:
        """What `keep` would have kept of the joint answers of several networks, each given as what `undecided` kept of
        the same videos; of a single one, of its own."""
        raise NotImplementedError

    def results(self, scored: Scored) -> dict[str, Any]:
        """Every figure of the task as plain numbers, strings, lists and dicts."""
        raise NotImplementedError

    def headline(self, figures: dict[str, Any]) -> str:
        """The figure that counts, in words."""
        return f"{self.primary} {figures[self.primary]:.4g}"

    def predictions(self, scored: Scored) -> dict[str, list[Any]]:
        """Columns of the predictions table; the first column is `video`."""
        raise NotImplementedError

    def answers(self, columns: dict[str, list[Any]], videos: list[str]) -> Answers:
        """The answers to `videos`, the part that was scored, from the columns that `predictions` wrote."""
        raise NotImplementedError

    def agreement(self, before: Scored, after: Scored) -> dict[str, Any]:
        """How the answers of one network (the teacher) relate to those of another (the student), video by video."""
        raise NotImplementedError
