"""Where a teacher's answers lie on disk: shards of safetensors, each whole or not there, each with its checksum.

`<folder>/<name>/a0003_c00012.safetensors` holds what the teacher said as `name` ("logits" or a tap) of the clips of
chunk 12 in address 3, row by row; the .json beside it has its sha256 and is written last. Rows are read through a
memory map, so a cache may be larger than memory.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidkd import checkpoint
from vidkd.errors import DataError

CHUNK = 256  # clips a shard: what a build holds in memory, and what is lost when one is interrupted
OPEN_SHARDS = 128
Dtype = Literal["fp16", "fp32", "int8"]


class Store:
    """The shards of one teacher, for `size` clips in `addresses` addressed augmentations each."""

    def __init__(self, folder: Path, dtype: Dtype, size: int, addresses: int) -> None:
        self.folder, self.size, self.addresses = folder, size, addresses
        self.dtype: Dtype = dtype
        self._reader: Callable[[str, int, int], tuple[Tensor, Tensor | None]] = lru_cache(OPEN_SHARDS)(self._mapped)

    def units(self) -> list[tuple[int, int]]:
        """Every (address, chunk): what is built, written and lost as one."""
        return [(a, c) for a in range(self.addresses) for c in range(-(-self.size // CHUNK))]

    def positions(self, chunk: int) -> range:
        """The clips of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.size))

    def has(self, name: str, address: int, chunk: int) -> bool:
        return self.path(name, address, chunk).with_suffix(".json").exists()

    def write(self, name: str, address: int, chunk: int, rows: Tensor) -> None:
        """Publish rows [n, ...] of float32: as they are, halved, or (taps alone) in 8 bits a channel of each clip."""
        path = self.path(name, address, chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = name == "logits" and self.dtype == "int8"
        content = safetensors.torch.save(encoded(rows, "fp16" if whole else self.dtype))
        checkpoint.write_atomic(path, content)
        proof = json.dumps({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        checkpoint.write_atomic(path.with_suffix(".json"), proof.encode())

    def verify(self, name: str) -> None:
        """DataError unless every shard of `name` is whole, byte for byte, and has the rows it should have."""
        for address, chunk in self.units():
            path = self.path(name, address, chunk)
            try:
                proof = json.loads(path.with_suffix(".json").read_bytes())
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except (OSError, json.JSONDecodeError) as error:
                raise DataError(f"{path}: cannot be read ({error}); {_again(path)}") from None
            if proof.get("sha256") != found:
                raise DataError(f"{path}: its checksum is wrong; {_again(path)}")
            if len(self._reader(name, address, chunk)[0]) != len(self.positions(chunk)):
                raise DataError(f"{path}: not the clips of this data set; delete {self.folder} to build it again")

    def rows(self, name: str, where: Iterable[tuple[int, int]]) -> Tensor:
        """What was stored as `name` for each (address, position): [B, ...] float32."""
        found = []
        for address, position in where:
            chunk, row = divmod(position, CHUNK)
            values, scale = self._reader(name, address, chunk)
            found.append(decoded(values[row], None if scale is None else scale[row]))
        return torch.stack(found)

    def path(self, name: str, address: int, chunk: int) -> Path:
        return self.folder / name / f"a{address:04d}_c{chunk:05d}.safetensors"

    def _mapped(self, name: str, address: int, chunk: int) -> tuple[Tensor, Tensor | None]:
        path = self.path(name, address, chunk)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor("rows"), file.get_tensor("scale") if "scale" in file.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {_again(path)}") from None


def _again(path: Path) -> str:
    return f"delete {path.with_suffix('.*')}, and the same command builds it again"


def encoded(rows: Tensor, dtype: Dtype) -> dict[str, Tensor]:
    """rows [n, C, ...] -> what is stored. int8: each channel of each clip in steps of a 127th of its largest value."""
    if dtype != "int8":
        return {"rows": rows.to(torch.float16 if dtype == "fp16" else torch.float32).contiguous()}
    flat = rows.flatten(2)
    scale = flat.abs().amax(2) / 127
    steps = (flat / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]).round().to(torch.int8)
    return {"rows": steps.view(rows.shape).contiguous(), "scale": scale}


def decoded(row: Tensor, scale: Tensor | None) -> Tensor:
    """One stored row [C, ...] -> float32."""
    return row.float() if scale is None else (row.flatten(1).float() * scale[:, None]).view(row.shape)
