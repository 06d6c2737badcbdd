"""What every task shares."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from vidkd.section import Weighted
from vidkd.types import ClipBatch, View


class TaskSection(Weighted):
    """The keys every `task:` section has; each task's own Config adds to them."""

    kind: str


C = TypeVar("C", bound=TaskSection)


@dataclass(frozen=True, slots=True)
class Scored:
    """What evaluation hands back to the task: for each video of the split, once, what `keep` kept of its views."""

    ids: list[str]  # N names, in the order of the split
    label: Tensor  # [N] int64
    kept: dict[str, Tensor]  # name -> [N, V, ...]


class BaseTask(Generic[C]):
    """Subclass; nothing here learns. The trainer and the evaluation call these and know nothing else of the task."""

    primary = "loss"  # the figure that picks the best checkpoint and heads a table; higher is better

    def __init__(self, config: C, classes: tuple[str, ...]) -> None:
        self.config = config
        self.classes = classes

    def num_outputs(self) -> int:
        """How many outputs the network's head has."""
        return len(self.classes)

    def losses(self, batch: ClipBatch, student: View) -> dict[str, Tensor]:
        """Named scalars, unweighted: what the labels themselves teach."""
        raise NotImplementedError

    def keep(self, view: View) -> dict[str, Tensor]:
        """What evaluation keeps of one batch of views: name -> [B, ...]."""
        raise NotImplementedError

    def results(self, scored: Scored) -> dict[str, Any]:
        """Every figure of the task as plain numbers, strings, lists and dicts."""
        raise NotImplementedError

    def headline(self, figures: dict[str, Any]) -> str:
        """The figure that counts, in words."""
        return f"{self.primary} {figures[self.primary]:.4g}"

    def predictions(self, scored: Scored) -> dict[str, list[Any]]:
        """Columns of the predictions table, one row a video; the first column is `video`."""
        raise NotImplementedError

    def agreement(self, before: Scored, after: Scored) -> dict[str, Any]:
        """How the answers of one network (the teacher) relate to those of another (the student), video by video."""
        raise NotImplementedError
