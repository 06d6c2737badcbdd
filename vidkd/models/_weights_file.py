"""Read tensors out of a file that somebody else made. Nothing in it is ever executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidkd.errors import DataError

STUDENT = "student.safetensors"  # what a run directory holds
PYTORCH = (".pt", ".pth", ".pyth")
WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model", "module", "net", "student")
PREFIXES = ("module.", "student.", "net.", "model.")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Tensors by name, and what a safetensors file says about itself."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read(path: Path) -> WeightsFile:
    """The tensors of a .safetensors, of a .pt, .pth or .pyth, or of a run directory; DataError if it is none of these.

    A wrapper such as {"state_dict": ...} is taken off.
    """
    if path.is_dir():
        path = path / STUDENT
        if not path.exists():
            raise DataError(f"{path.parent} holds no {STUDENT}: it is not the directory of a run that has been trained")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in PYTORCH:
        return WeightsFile(path, _pytorch(path), {})
    raise DataError(f"{path}: weights are .safetensors, {', '.join(PYTORCH)} or a run directory, not {path.suffix!r}")


def without_prefix(tensors: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """The tensors without the prefix that every name has (`module.`), unless some name is among `own` as it is."""
    for _ in range(3):  # module.student.net.
        shared = [p for p in PREFIXES if all(name.startswith(p) for name in tensors)]
        if not shared or not tensors or own & tensors.keys():
            break
        tensors = {name.removeprefix(shared[0]): tensor for name, tensor in tensors.items()}
    return tensors


def _safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return WeightsFile(path, tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({_first_line(error)})") from error


def _pytorch(path: Path) -> dict[str, Tensor]:
    try:
        # The one torch.load: weights_only builds tensors and plain containers alone, and refuses to call anything else.
        content: object = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # its unpickler raises nearly anything for a file that is not one of its own
        raise DataError(
            f"{path}: not a file of weights alone ({_first_line(error)}). If you trust it, "
            "load it where it was made and save its state_dict with safetensors.torch.save_file"
        ) from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: holds {type(content).__name__} where tensors by name are expected")
    if other := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise DataError(f"{path}: tensors by name are expected, but {', '.join(other[:4])} is none")
    return {str(name): tensor for name, tensor in content.items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
