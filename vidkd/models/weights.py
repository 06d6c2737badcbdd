"""Weights from a file into a network: all that is asked for, or nothing at all and the reason."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vidkd.errors import ConfigError, DataError, one_of
from vidkd.models import attention
from vidkd.models._weights_file import WeightsFile, read, without_prefix
from vidkd.taps import Tapped

Adapt = Literal["none", "inflate", "collapse", "flow", "flow_collapse"]
ADAPTS = ["none", "inflate", "collapse", "flow", "flow_collapse"]
KEPT = "methods.safetensors"  # in a run directory
SHOWN = 3  # tensors named in one sentence


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that the file and the network both have, each in a shape of its own."""

    name: str
    in_file: tuple[int, ...]
    in_network: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {list(self.in_file)} in the file, {list(self.in_network)} in the network"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of every tensor. After a load that succeeded only those of the head can be outside `loaded`."""

    path: Path
    loaded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # in the file, not in the network
    missing: tuple[str, ...] = ()  # in the network, not in the file
    mismatched: tuple[Mismatch, ...] = ()
    inflated: tuple[str, ...] = ()  # of those loaded
    collapsed: tuple[str, ...] = ()  # of those loaded
    averaged: tuple[str, ...] = ()  # of those loaded: over colours, for flow
    new_head: bool = False
    new_attention: bool = False
    classes: tuple[str, ...] | None = None  # the names of the file's classes, where it says

    def __str__(self) -> str:
        said = [f"{len(self.loaded)} tensors from {self.path}"]
        if self.inflated:
            said.append(f"{len(self.inflated)} kernels inflated over time")
        if self.collapsed:
            said.append(f"{len(self.collapsed)} kernels collapsed over time")
        if self.averaged:
            said.append(f"{len(self.averaged)} kernels averaged over colours")
        if self.new_head:
            said.append("a new head")
        if self.new_attention:
            said.append("a new attention")
        for what, entries in (("missing", self.missing), ("left over", self.skipped), ("misfits", self.mismatched)):
            if entries:
                said.append(f"{len(entries)} {what} ({_some(entries)})")
        return ", ".join(said)


def load(
    tapped: Tapped,
    path: Path | str,
    adapt: Adapt = "none",
    reset_head: bool = False,
    reset_attention: bool = False,
) -> Account:
    """Fill `tapped` from a .safetensors, a weights-only .pt, or student.safetensors in a run directory.

    `collapse` sums a kernel over time where the network's is one frame deep: on a clip of one repeated picture the
    activations stay what they were. `inflate` spreads a kernel that is one frame deep, or has no time, evenly over
    the network's frames, to the same end. `flow` gives both channels of flow the mean of a kernel's three colours
    (Wang et al., Temporal Segment Networks, ECCV 2016, section 3.2), and `flow_collapse` is that and `collapse`.
    `reset_head` leaves the head as it was made, whatever the file has for it, and so the network's attention, where the
    file has none. `reset_attention` leaves the attention as it was made, whatever the file has for it.

    Everything is checked first. DataError, with the network untouched, for a file that cannot be read, and for any
    tensor outside these that is missing, left over, of another shape, not finite or not of the network's kind.
    A missing num_batches_tracked is no fault: nothing is computed from it.
    """
    if adapt not in ADAPTS:
        raise ConfigError(one_of(adapt, ADAPTS, "adapt"))
    file = read(Path(path))
    state = tapped.net.state_dict()
    found, heads = _by_own_name(tapped, file, set(state))
    account, ready = _compare(tapped, state, found, adapt, reset_head, reset_attention)
    account = replace(account, path=file.path, classes=_classes(tapped, file, found))
    _refuse_misfits(tapped, replace(account, skipped=account.skipped + (() if reset_head else heads)))
    bad = [n for n, t in ready.items() if t.dtype.is_floating_point != state[n].dtype.is_floating_point]
    bad += [n for n, t in ready.items() if t.dtype.is_floating_point and not torch.isfinite(t).all()]
    if bad:
        raise DataError(f"{file.path}: {len(bad)} tensors hold NaN, infinity or numbers of another kind: {_some(bad)}")
    with torch.no_grad():
        for name, tensor in ready.items():
            state[name].copy_(tensor)
    tapped.classes = None if reset_head else account.classes
    return replace(account, skipped=account.skipped + heads)


def read_kept(path: Path) -> dict[str, Tensor]:
    """What the methods of the run in the directory `path` kept for its students; {} if there is none."""
    file = path / KEPT
    return read(file).tensors if file.is_file() else {}


def checksum(path: Path | None) -> str | None:
    """sha256 of a weights file, or of student.safetensors in a run directory; None of none. DataError if unreadable."""
    if path is None:
        return None
    file = path / "student.safetensors" if path.is_dir() else path
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None


@cache
def k400_classes() -> tuple[str, ...]:
    """The 400 classes of Kinetics-400 in the order of the logits of I3D, torchvision and pytorchvideo."""
    return tuple(Path(__file__).with_name("k400_classes.txt").read_text(encoding="utf-8").splitlines())


def _by_own_name(tapped: Tapped, file: WeightsFile, own: set[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The file's tensors under the network's names, and the names of what belongs to a head that it does not have."""
    tensors = without_prefix(file.tensors, own)
    rename = getattr(tapped.net, "own_names", None)
    names: dict[str, str | None] = rename(tensors) if rename else {name: name for name in tensors}
    found = {new: tensors[old] for old, new in names.items() if new is not None}
    return found, tuple(old for old, new in names.items() if new is None)


def _in_head(tapped: Tapped, name: str) -> bool:
    return name.startswith(f"{tapped.head}.")


def _compare(
    tapped: Tapped,
    state: dict[str, Tensor],
    found: dict[str, Tensor],
    adapt: Adapt,
    reset_head: bool,
    reset_attention: bool,
) -> tuple[Account, dict[str, Tensor]]:
    """What fits, what does not, and the tensors that would be loaded."""
    not_in_file = reset_head and not any(map(attention.owns, found))
    new_attention = any(map(attention.owns, state)) and (reset_attention or not_in_file)
    started = [n for n in state if (reset_head and _in_head(tapped, n)) or (new_attention and attention.owns(n))]
    wanted = [name for name in state if name not in started]
    ready: dict[str, Tensor] = {}
    adapted: list[str] = []
    averaged: list[str] = []
    mismatched = []
    for name in wanted:
        if name not in found:
            continue
        tensor = _adapt(found[name], state[name].shape, adapt)
        if tensor.shape != state[name].shape:
            mismatched.append(Mismatch(name, tuple(found[name].shape), tuple(state[name].shape)))
            continue
        ready[name] = tensor
        if tensor.shape[1:2] != found[name].shape[1:2]:  # colours for flow
            averaged.append(name)
        if tensor.shape[2:] != found[name].shape[2:]:
            adapted.append(name)
    account = Account(
        path=Path(),
        loaded=tuple(ready),
        skipped=tuple(name for name in found if name not in state),
        missing=tuple(n for n in wanted if n not in found and not n.endswith("num_batches_tracked")),
        mismatched=tuple(mismatched),
        inflated=tuple(adapted) if adapt == "inflate" else (),
        collapsed=tuple(adapted) if adapt in ("collapse", "flow_collapse") else (),
        averaged=tuple(averaged),
        new_head=reset_head,
        new_attention=new_attention,
    )
    return account, ready


def _adapt(tensor: Tensor, shape: torch.Size, adapt: Adapt) -> Tensor:
    """`tensor` for a kernel of `shape` [o, i, t, h, w]; as it is where the adaptation does not apply."""
    if len(shape) != 5 or tensor.shape == shape:
        return tensor
    if adapt.startswith("flow") and tensor.ndim == 5 and tensor.shape[1] == 3 and shape[1] == 2:
        tensor = tensor.mean(1, keepdim=True).repeat(1, 2, 1, 1, 1)
    if adapt == "inflate" and tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)
    if tensor.ndim != 5 or tensor.shape[:2] != shape[:2] or tensor.shape[3:] != shape[3:]:
        return tensor
    if adapt in ("collapse", "flow_collapse") and shape[2] == 1:
        return tensor.sum(2, keepdim=True)
    if adapt == "inflate" and tensor.shape[2] == 1:
        return tensor.repeat(1, 1, shape[2], 1, 1) / shape[2]
    return tensor


def _refuse_misfits(tapped: Tapped, account: Account) -> None:
    """DataError that names the first few misfits and says what may help; nothing if there are none."""
    faults = []
    if account.missing:
        faults.append(f"{len(account.missing)} tensors are missing ({_some(account.missing)})")
    if account.skipped:
        faults.append(f"{len(account.skipped)} are not in the network ({_some(account.skipped)})")
    if account.mismatched:
        faults.append(f"{len(account.mismatched)} have another shape ({_some(account.mismatched)})")
    if not faults:
        return
    raise DataError(f"{account.path} does not fit {tapped.name}: {'; '.join(faults)}. {_remedy(tapped, account)}")


def _remedy(tapped: Tapped, account: Account) -> str:
    """What may help, in the words of a configuration."""
    head = [m for m in account.mismatched if _in_head(tapped, m.name)]
    body = [m for m in account.mismatched if not _in_head(tapped, m.name)]
    if len(account.loaded) < len(account.missing):
        return "They look like the weights of another network"
    said = []
    if body and all(len(m.in_file) == len(m.in_network) == 5 for m in body):
        longer = all(m.in_file[2] > m.in_network[2] == 1 for m in body)
        said.append(f"kernels of another length in time can be adapted (adapt: {'collapse' if longer else 'inflate'})")
    elif body and all((len(m.in_file), len(m.in_network)) == (4, 5) for m in body):
        said.append("kernels without time can be spread over it (adapt: inflate)")
    elif body or any(not _in_head(tapped, n) and not attention.owns(n) for n in account.missing) or account.new_head:
        said.append("the network's name and options must be those that the weights were made with")
    if any(map(attention.owns, account.missing)):
        said.append("name a run that was trained with an attention, or begin a new one (reset_attention: true)")
    if head:
        counts = f"the file's head has {head[0].in_file[0]} classes, the network's {head[0].in_network[0]}"
        said.append(f"{counts}, and a new one can be started (reset_head: true)")
    advice = "; ".join(said) or "if they are the head of another data set, start a new one (reset_head: true)"
    return advice[0].upper() + advice[1:]


def _classes(tapped: Tapped, file: WeightsFile, found: dict[str, Tensor]) -> tuple[str, ...] | None:
    """The names of the file's classes from its metadata: a JSON list `classes`, or a `source` of Kinetics-400."""
    head = found.get(f"{tapped.head}.weight")
    count = None if head is None else head.shape[0]
    if "classes" not in file.metadata:
        return k400_classes() if count == 400 and "Kinetics-400" in file.metadata.get("source", "") else None
    try:
        classes: object = json.loads(file.metadata["classes"])
    except json.JSONDecodeError:
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DataError(f"{file.path}: its metadata `classes` must be a JSON list of names")
    if count is not None and count != len(classes):
        raise DataError(f"{file.path}: its metadata names {len(classes)} classes, its head has {count}")
    return tuple(classes)


def _some(entries: tuple[object, ...] | list[str]) -> str:
    rest = len(entries) - SHOWN
    return ", ".join(str(entry) for entry in entries[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
