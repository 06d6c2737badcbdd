"""A trained student as files that stand alone: save_student writes them, load_student brings the network back.

student.safetensors   the weights in float32; its metadata says all it takes to use them (`Card`)
config.yaml           the whole configuration of the run
classes.txt           one class a line
MODEL_CARD.md         what it is, what it scored and under which protocol
"""

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vidkd import checkpoint, config_file, models
from vidkd.card import Card, model_card
from vidkd.config import Run
from vidkd.errors import ConfigError, DataError
from vidkd.models import attention
from vidkd.taps import Tapped

FORMAT = "vidkd student 1"
WEIGHTS = "student.safetensors"
TEXT = ("network", "short")  # written as they are; the rest of the card as JSON
MAX_HEADER_BYTES = 16 << 20  # a thousand tensors take a tenth of one


class Student(nn.Module):
    """A trained student in eval mode: video [B, 3, T, H, W], uint8 or float in 0..1 -> logits [B, K]."""

    def __init__(self, tapped: Tapped, card: Card) -> None:
        super().__init__()
        self.tapped = tapped
        self.network, self.classes = card.network, card.classes
        self.clip, self.view = card.clip, card.view
        self.short: Literal["loop", "hold"] = card.short
        self.fps, self.task = card.fps, card.task
        self.eval()

    def forward(self, video: Tensor) -> Tensor:
        channels = len(self.tapped.input.mean)
        if video.ndim != 5 or video.shape[1] != channels:
            raise ValueError(f"video must be [B, {channels}, T, H, W], got {tuple(video.shape)}")
        return self.tapped(video).logits


def save_student(
    directory: Path, tapped: Tapped, run: Run, classes: tuple[str, ...], results: dict[str, Any] | None
) -> None:
    """Write the four files into `directory`, each whole or not at all, the weights last.

    `results` is what vidkd.results.evaluate returned. DataError, and nothing written, for weights that are not finite.
    """
    clip = run.data.clip
    view = run.student.view.model_copy(update={"frames": run.student.view.frames or clip.frames})
    card = Card(
        network=run.student.name,
        options=run.student.options,
        attention=run.student.attention,
        classes=classes,
        input=asdict(tapped.input),
        clip=clip,
        view=view,
        short=run.data.short,
        fps=run.data.fps,
        task=run.task.model_dump(mode="json"),
    )
    content = _in_order(safetensors.torch.save(_plain(tapped.net), _metadata(card)))
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(directory / "config.yaml", config_file.dump(run).encode())
    checkpoint.write_atomic(directory / "classes.txt", "".join(f"{name}\n" for name in classes).encode())
    checkpoint.write_atomic(directory / "MODEL_CARD.md", model_card(tapped, run, card, results).encode())
    checkpoint.write_atomic(directory / WEIGHTS, content)


def load_student(path: str | Path) -> Student:
    """The student that a run left in the directory `path`, or in its student.safetensors.

    DataError if something is missing, damaged or of another network: then nothing is loaded.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; it should be a run directory or the {WEIGHTS} in one")
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.exists():
        raise DataError(f"{path}: holds no {WEIGHTS}; is it a run directory, and has the run finished?")
    header = _header(weights)
    card = _card(weights, header)
    if card is None:
        raise DataError(f"{weights}: weights, but not a student that vidkd saved: it says nothing about its network")
    if path.is_dir():
        _agrees(path, card)
    try:
        tapped = models.build(card.network, len(card.classes), **card.options)
        attention.attach(tapped, card.attention, card.view.frames or card.clip.frames, card.view.size_px)
    except (ConfigError, TypeError) as error:
        raise DataError(f"{weights}: its network cannot be built here: {error}") from None
    if (made := json.loads(json.dumps(asdict(tapped.input)))) != card.input:
        raise DataError(f"{weights}: it was trained for input {card.input}, {card.network} now takes {made}")
    _fits(weights, header, tapped)
    try:
        tensors = safetensors.torch.load_file(weights)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{weights}: cannot be read ({error}); it may be cut short: copy or train it again") from None
    tapped.net.load_state_dict(tensors)
    return Student(tapped, card)


def read_card(path: Path) -> dict[str, Any]:
    """What the weights file or run directory `path` says about itself; {} where it is not a student that we saved.

    The keys of `Card`, and `frames`, the clip length that the network is given.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    if weights.suffix != ".safetensors" or not weights.is_file():
        return {}
    card = _card(weights, _header(weights))
    return {} if card is None else card.model_dump(mode="json") | {"frames": card.view.frames}


def _plain(net: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the network in memory of its own (weights that are shared are written twice)."""
    plain = {}
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise DataError(f"the student's {name} is not finite; nothing was written")
            tensor = tensor.float()
        plain[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return plain


def _metadata(card: Card) -> dict[str, str]:
    """The card as a safetensors file can hold it: text by name."""
    said = card.model_dump(mode="json").items()
    return {"format": FORMAT} | {key: v if key in TEXT else json.dumps(v) for key, v in said}


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: it comes in any order, and equal students are equal files."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's size; no tensor is read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
            if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                raise DataError(f"{path}: not a safetensors file (or its beginning is lost)")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a safetensors file (its header is no JSON of tensors)") from None
    if size != expected:
        raise DataError(f"{path}: has {size} bytes where {expected} belong: it was cut short; copy or train it again")
    return header


def _card(path: Path, header: dict[str, Any]) -> Card | None:
    said = header.get("__metadata__")
    if not isinstance(said, dict) or not str(said.get("format")).startswith("vidkd student"):
        return None
    if said["format"] != FORMAT:
        raise DataError(
            f"{path}: written as {said['format']!r}; this vidkd reads {FORMAT!r}: use the vidkd that wrote it"
        )
    fields = {key: value for key, value in said.items() if key != "format"}
    try:
        return Card.model_validate({key: v if key in TEXT else json.loads(v) for key, v in fields.items()})
    except (json.JSONDecodeError, TypeError, ValidationError) as error:
        raise DataError(f"{path}: its metadata is damaged ({str(error).splitlines()[0]})") from None


def _agrees(directory: Path, card: Card) -> None:
    """DataError if what lies beside the weights speaks of another network or of other classes."""
    config, classes = directory / "config.yaml", directory / "classes.txt"
    if config.exists():
        raw = config_file.read_yaml(config)  # not `load`: a method of another package need not be installed here
        student = raw.get("student") if isinstance(raw, dict) else None
        name = student.get("name") if isinstance(student, dict) else None
        if name != card.network:
            raise DataError(f"{directory}: config.yaml speaks of {name}, the weights are of {card.network}")
    if classes.exists() and (names := tuple(classes.read_text(encoding="utf-8").splitlines())) != card.classes:
        raise DataError(
            f"{directory}: classes.txt has {len(names)} classes, the weights were trained on {len(card.classes)}"
            + (", and not the same ones in the same order" if len(names) == len(card.classes) else "")
        )


def _fits(path: Path, header: dict[str, Any], tapped: Tapped) -> None:
    """DataError if the file does not hold exactly the tensors of the network, in their shapes."""
    there = {name: tuple(entry.get("shape", ())) for name, entry in header.items() if name != "__metadata__"}
    here = {name: tuple(tensor.shape) for name, tensor in tapped.net.state_dict().items()}
    wrong = [f"lacks {name}" for name in here if name not in there]
    wrong += [f"has {name}, which the network does not" for name in there if name not in here]
    wrong += [f"{n} is {list(there[n])}, not {list(s)}" for n, s in here.items() if n in there and there[n] != s]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"{path}: not the weights of {tapped.name}: {'; '.join(wrong[:3])}{more}")
