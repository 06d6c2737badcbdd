"""What every method shares: almost nothing."""

from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from vidkd.methods._maps import SingleForm
from vidkd.section import Weighted
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, View


class MethodSection(Weighted):
    """The keys every entry of `methods:` has; each method's own Config adds to them."""

    needs_teacher: ClassVar[bool] = True  # False: a run without a teacher may name it; it is then given None for one

    kind: str

    def wants_whole_maps(self) -> bool:
        """Whether it would not be what it says it is on maps of the teacher that a cache has pooled."""
        return False


C = TypeVar("C", bound=MethodSection)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a method compares: a tap of either network, "logits" or "input", and how the two are made to fit."""

    student: str
    teacher: str
    by: str


@dataclass(frozen=True, slots=True)
class Direction:
    """A tap whose maps are compared by direction, and the key of the configuration that names it."""

    who: Literal["student", "teacher"]
    tap: str
    key: str
    form: SingleForm  # a map is of one frame, or of the whole clip


class BaseMethod(nn.Module, Generic[C]):
    """Subclass; build your adaptors in `__init__`; return your named, unweighted terms from `forward`."""

    stochastic = False  # True if forward draws random numbers: the exact-equality tests then skip it
    needs_input = False  # True if forward reads the teacher's `video`: a cached teacher then makes that view

    def __init__(self, config: C, student: Tapped, teacher: Tapped | None, num_classes: int) -> None:
        """`student.taps` and `teacher.taps` say how many channels each tap has, to size the adaptors.

        Keep no reference to either network: what this module holds, the optimiser trains.
        """
        super().__init__()
        del student, teacher
        self.config = config
        self.num_classes = num_classes

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        """Named scalars, unweighted. Fully in the graph of the student, never in the teacher's."""
        raise NotImplementedError

    def teacher_taps(self) -> list[str]:
        """The teacher's taps that forward reads; they are what a teacher cache must hold."""
        return []

    def terms(self) -> list[str] | None:
        """The names of the terms that forward returns, so that a weight for another one is a mistake before the run
        begins; None if they are only known then."""
        return None

    def compares(self) -> list[Pair]:
        """What it compares, for a person to read (`vidkd.plan`)."""
        return [Pair("logits", "logits", "nothing: the same classes")]

    def directions(self) -> list[Direction]:
        """The maps that it compares by direction, which a map of zeros does not have (`vidkd.plan` counts them)."""
        return []

    def keeps(self) -> dict[str, Tensor]:
        """What a run that has this one's network as its teacher needs besides the network; saved at the end."""
        return {}

    def take_kept(self, tensors: dict[str, Tensor]) -> None:
        """What this method kept in the teacher's run, {} if nothing; not called where the teacher has no weights."""
        del tensors

    def learns(self, name: str, step: int) -> bool:
        """Whether the parameter `name` ("student...." or "methods.0....") is trained at `step`. A function of the
        step, so a method that trains its parts in turn needs no state, no second loop and no second pass."""
        del name, step
        return True
