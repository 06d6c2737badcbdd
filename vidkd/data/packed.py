"""Packed videos: all frames of one video in one file, so that a clip is read without decoding what comes before it.

    64 bytes   what it is: container.PACKED
    raw        [T, H, W, 3] uint8, RGB: mapped into memory, so all workers share the same pages
    jpeg       T + 1 offsets of 8 bytes, then T JPEG pictures: about a tenth of raw, and each frame has to be decoded
    flow       as jpeg, and each picture is gray, [2H, W]: optical flow along x, and below it along y

One file a video, not one for many: it is then made, checked, replaced and counted as any other prepared video.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from vidkd.data import jpeg
from vidkd.data.container import PACKED, PACKED_BYTES, PACKED_MAGIC, Header
from vidkd.data.decoders import NOTHING
from vidkd.errors import DataError

Form = Literal["raw", "jpeg", "flow"]
JPEG_QUALITY = 90
AGAIN = "prepare the data set again"


class Packed:
    """Reads a packed file. What it returns of raw frames shares memory with the file, and is copied when written to."""

    errors: tuple[type[Exception], ...] = (RuntimeError, OSError, struct.error)

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.mapped = self._map() if header.codec == "raw" else NOTHING

    @property
    def frames(self) -> int:
        return self.header.frames

    @property
    def fps(self) -> float:
        return self.header.fps

    @property
    def size_px(self) -> tuple[int, int]:
        return self.header.width, self.header.height

    def read(self, indices: list[int]) -> Tensor:
        within = [i for i in indices if i < self.frames]
        if not within:
            return NOTHING
        if self.header.codec != "raw":
            return self._pictures(within)
        even = range(within[0], within[-1] + 1, within[1] - within[0] if len(within) > 1 else 1)
        # Evenly spaced frames are returned where they lie: what is cropped away is then never read.
        return self.mapped[even.start : even.stop : even.step] if list(even) == within else self.mapped[within]

    def walk(self, indices: list[int]) -> Iterator[Tensor]:
        within = (i for i in indices if i < self.frames)
        if self.header.codec == "raw":
            yield from (self.mapped[i] for i in within)
            return
        for i in within:
            yield self._pictures([i])[0]

    def close(self) -> None:
        self.mapped = NOTHING

    def _map(self) -> Tensor:
        """[T, 3, H, W]. Cutting the file while it is mapped would end the process: data_prep only ever replaces it."""
        shape = (self.frames, self.header.height, self.header.width, 3)
        count = PACKED_BYTES + shape[0] * shape[1] * shape[2] * shape[3]
        try:
            whole = torch.from_file(str(self.path), shared=False, size=count, dtype=torch.uint8)  # keeps no file open
        except RuntimeError as error:
            raise DataError(f"{self.path}: cannot be mapped into memory ({str(error).splitlines()[0]})") from None
        return whole[PACKED_BYTES:].view(shape).permute(0, 3, 1, 2)

    def _pictures(self, indices: list[int]) -> Tensor:
        """[T, C, H, W], the channels of a pixel side by side as raw frames have them."""
        (width, height), flow = self.size_px, self.header.codec == "flow"
        pixels = np.empty((len(indices), height, width, 2 if flow else 3), np.uint8)
        gray = np.empty((2 * height, width), np.uint8)
        with self.path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            for k, i in enumerate(indices):
                content = self._content(file, i, file_bytes)
                try:
                    jpeg.decode(content, gray if flow else pixels[k])
                except ValueError as error:
                    raise DataError(f"{self.path}: its frame {i} is damaged ({error}); {AGAIN}") from None
                if flow:
                    pixels[k] = gray.reshape(2, height, width).transpose(1, 2, 0)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _content(self, file: BinaryIO, i: int, file_bytes: int) -> bytes:
        file.seek(PACKED_BYTES + 8 * i)
        start, end = struct.unpack("<QQ", file.read(16))
        content = b""
        if start < end <= file_bytes:  # nor does what follows read or decode more than there is
            file.seek(start)
            content = file.read(end - start)
        width, height = self.size_px
        if jpeg.size_px(content) != (width, 2 * height if self.header.codec == "flow" else height):
            raise DataError(f"{self.path}: its frame {i} is damaged; {AGAIN}")
        return content


def write(path: Path, form: Form, frames: Iterable[Tensor], count: int, fps: float) -> tuple[int, int]:
    """Pack `count` frames [3, H, W] uint8 of one size, or [2, H, W] of flow, as `form`; their (width, height)."""
    size: tuple[int, int] | None = None
    written, offsets = 0, []
    with path.open("wb") as file:
        file.write(bytes(PACKED_BYTES + (0 if form == "raw" else 8 * (count + 1))))
        for frame in frames:
            height, width = frame.shape[1:]
            if size not in (None, (width, height)):
                raise DataError(f"{path}: its picture changes size along the way")
            size, written = (width, height), written + 1
            offsets.append(file.tell())
            pixels = frame.reshape(2 * height, width) if form == "flow" else frame.permute(1, 2, 0)
            content = pixels.numpy()
            file.write(np.ascontiguousarray(content).data if form == "raw" else jpeg.encode(content, JPEG_QUALITY))
        if size is None or written != count:
            raise DataError(f"{path}: {written} frames instead of {count}")
        if form != "raw":
            offsets.append(file.tell())
            file.seek(PACKED_BYTES)
            file.write(struct.pack(f"<{len(offsets)}Q", *offsets))
        file.seek(0)
        file.write(PACKED.pack(PACKED_MAGIC, form.encode(), count, size[1], size[0], fps))
    return size
