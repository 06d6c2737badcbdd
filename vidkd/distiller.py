"""Student, teacher and methods, joined; the one place where loss terms are weighed."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from vidkd import methods, models, tasks
from vidkd.config import Network, Run
from vidkd.errors import ConfigError, Mistakes, one_of
from vidkd.methods._base import BaseMethod
from vidkd.models import attention, weights
from vidkd.section import Weighted
from vidkd.taps import Frozen, Tap, Tapped
from vidkd.tasks._base import BaseTask
from vidkd.types import ALTERED, ClipBatch, View

Terms = dict[str, Tensor]


class Trainee(nn.Module):
    """All that learns, behind the one `forward` that DDP can see. The teacher stays outside."""

    def __init__(self, student: Tapped, methods: Sequence[BaseMethod]) -> None:
        super().__init__()
        self.student = student
        self.methods = nn.ModuleList(methods)
        self.keys = method_keys([method.config.kind for method in methods])
        self.watch: Callable[[str], AbstractContextManager[None]] = lambda part: nullcontext()  # who times the parts

    def forward(self, batch: ClipBatch, teacher: View | None) -> tuple[View, Terms]:
        """The student's view, and every method's terms, unweighted, as `<method>/<term>`."""
        with self.watch("student"):
            student = self.student(batch.seen_by("student"))
            if ALTERED in batch.views:
                student = replace(student, altered=self.student(batch.seen_by(ALTERED)))
        terms: Terms = {}
        with self.watch("methods"):
            for key, method in zip(self.keys, self.methods, strict=True):
                terms |= {f"{key}/{name}": term for name, term in method(batch, student, teacher).items()}
        return student, terms

    def kept(self) -> dict[str, Tensor]:
        """What every method keeps for a run that has this student as its teacher, as `<method>/<name>`."""
        methods = zip(self.keys, self.each_method(), strict=True)
        return {f"{key}/{name}": tensor for key, method in methods for name, tensor in method.keeps().items()}

    def learns(self, name: str, step: int) -> bool:
        """Whether every method lets the parameter `name` learn at `step`."""
        return all(method.learns(name, step) for method in self.each_method())

    def takes_turns(self) -> bool:
        """Whether any method trains its parts in turn."""
        return any(type(method).learns is not BaseMethod.learns for method in self.each_method())

    def each_method(self) -> list[BaseMethod]:
        return [method for method in self.methods if isinstance(method, BaseMethod)]


def method_keys(kinds: Sequence[str]) -> list[str]:
    """What prefixes each method's terms: the last part of its kind, numbered from the second one of a kind on."""
    seen: Counter[str] = Counter()
    keys = []
    for kind in (k.rsplit(".", 1)[-1] for k in kinds):
        seen[kind] += 1
        keys.append(kind if seen[kind] == 1 else f"{kind}_{seen[kind]}")
    return keys


def build_network(
    section: Network, num_classes: int, frames: int, who: str = "student"
) -> tuple[Tapped, weights.Account | None]:
    """The network that `section` describes with its weights, and the account of how they were loaded.

    `frames` is data.clip.frames, the clip length where the view does not say its own; `who` is the section's name.
    """
    network = models.build(section.name, num_classes, **section.options)
    network.clip = (section.view.frames or frames, section.view.size_px)
    try:
        network.input.check(section.name, *network.clip)
    except ConfigError as error:
        raise ConfigError(f"{who}: {error}; set {_remedy(who, section, network)}") from None
    for name, tap in section.taps.items():
        network.add_tap(name, Tap(tap.path, None, listen=tap.listen))
    attention.attach(network, section.attention, *network.clip)
    if section.weights is None:
        return network, None
    loaded = weights.load(network, section.weights, section.adapt, section.reset_head, section.reset_attention)
    return network, loaded


def _remedy(who: str, section: Network, network: Tapped) -> str:
    """The overrides that show `network` a clip it can take, or build it for the one it is shown."""
    assert network.clip is not None
    keys = zip(("frames", "size_px"), network.clip, network.input.nearest(*network.clip), strict=True)
    overrides = " ".join(f"{who}.view.{key}={right}" for key, shown, right in keys if shown != right)
    built_for_one = {"frames", "size_px"} <= models.options_of(section.name).keys()
    return overrides + f", or {who}.options={{frames: ..., size_px: ...}} to build it for other clips" * built_for_one


def build_task(run: Run, classes: tuple[str, ...]) -> BaseTask:
    return tasks.load(run.task.kind).Task(run.task, classes, run.data.root)


def build_methods(run: Run, student: Tapped, teacher: Tapped | None, num_classes: int) -> list[BaseMethod]:
    """The run's methods; each is given what its namesake kept in the teacher's run.

    ConfigError for all that do not fit.
    """
    made, mistakes = [], Mistakes()
    for i in range(len(run.methods)):
        with mistakes.noted(), _of_method(run, i):
            section = run.methods[i]
            made.append(methods.load(section.kind).Method(section, student, teacher, num_classes))
    mistakes.raise_any()
    if run.teacher is not None and run.teacher.weights is not None:
        kept = weights.read_kept(run.teacher.weights)
        for i, key in enumerate(method_keys([m.kind for m in run.methods])):
            prefix = f"{key}/"
            with mistakes.noted(), _of_method(run, i):
                made[i].take_kept({n.removeprefix(prefix): t for n, t in kept.items() if n.startswith(prefix)})
    mistakes.raise_any()
    return made


@contextmanager
def _of_method(run: Run, i: int) -> Iterator[None]:
    """A ConfigError inside says which entry of `methods` it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"methods.{i} ({run.methods[i].kind}): {error}") from None


def build(run: Run, num_classes: int) -> tuple[Trainee, Frozen | None, list[str]]:
    """Trainee, teacher (None in a run without one) and what there is to say about the weights that were loaded.

    ConfigError or DataError for every network that cannot be built, else for every method that does not fit the two.
    """
    accounts, networks, mistakes = [], {}, Mistakes()
    for who, section in (("student", run.student), ("teacher", run.teacher)):
        if section is None:
            continue
        with mistakes.noted():
            networks[who], account = build_network(section, num_classes, run.data.clip.frames, who)
            if account is not None:
                accounts.append(f"{who} {section.name}: {account}")
    mistakes.raise_any()
    student, teacher = networks["student"], networks.get("teacher")
    trainee = Trainee(student, build_methods(run, student, teacher, num_classes))
    return trainee, Frozen(teacher, run.teacher_precision) if teacher else None, accounts


def check_weights(run: Run, trainee: Trainee, task: BaseTask) -> None:
    """ConfigError for all weights of terms that the task, or a method, says it does not have; it lists the terms."""
    sections: list[tuple[str, Weighted, list[str] | None]] = [("task", run.task, task.terms())]
    for i, (section, method) in enumerate(zip(run.methods, trainee.each_method(), strict=True)):
        sections.append((f"methods.{i}", section, method.terms()))
    mistakes = Mistakes()
    for where, section, terms in sections:
        with mistakes.noted():
            if terms is not None:
                _known(where, section, terms)
    mistakes.raise_any()


def losses(run: Run, step: int, supervised: Terms, distilled: Terms) -> Terms:
    """Every term, unweighted, and `total`, their sum by the weights of `step`.

    ConfigError for a weight that names no term; it lists the terms.
    """
    total = torch.stack([*weighted(run, step, supervised, distilled).values()]).sum()
    return {**supervised, **distilled, "total": total}


def weighted(run: Run, step: int, supervised: Terms, distilled: Terms) -> Terms:
    """Every term that weighs something at `step`, times its weight. ConfigErrors as `losses`."""
    terms = {**supervised, **distilled}
    owned = owners(run, supervised, distilled).items()
    found = {name: w * terms[name] for name, (_, section, own) in owned if (w := section.weight(own, step))}
    if not found:
        raise ConfigError("every loss term has weight 0 at this step: nothing would be learned")
    return found


def owners(run: Run, supervised: Terms, distilled: Terms) -> dict[str, tuple[str, Weighted, str]]:
    """For every term where its section stands ("task", "methods.0"), that section, and the term's name in it.

    ConfigError for a weight that names no term; it lists the terms.
    """
    found: dict[str, tuple[str, Weighted, str]] = {}
    sections: list[tuple[str, Weighted, Terms, str]] = [("task", run.task, supervised, "")]
    keys = method_keys([m.kind for m in run.methods])
    for i, (key, section) in enumerate(zip(keys, run.methods, strict=True)):
        sections.append((f"methods.{i}", section, distilled, f"{key}/"))
    for where, section, terms, prefix in sections:
        own = {name: name.removeprefix(prefix) for name in terms if name.startswith(prefix)}
        _known(where, section, list(own.values()))
        found |= {name: (where, section, term) for name, term in own.items()}
    return found


def _known(where: str, section: Weighted, terms: list[str]) -> None:
    for name in section.weights:
        if name not in terms:
            raise ConfigError(f"{where}.weights: {one_of(name, terms, 'loss term')}")


def gradients(terms: Terms, module: nn.Module) -> Terms:
    """The gradient [P] of each term with respect to the P parameters of `module`, in float32; the graph is kept.

    Zeros where a term does not reach a parameter.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    found: Terms = {}
    for name, term in terms.items():
        found[name] = torch.zeros(size, device=term.device)
        if not parameters or not term.requires_grad:  # where parts learn in turn, it may be another's
            continue
        pieces = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        for place, piece in zip(found[name].split([p.numel() for p in parameters]), pieces, strict=True):
            if piece is not None:
                place.copy_(piece.reshape(-1))
    return found
