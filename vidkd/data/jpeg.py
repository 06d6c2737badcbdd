"""JPEG pictures in memory, by libjpeg-turbo. torchvision's functions give the same pixels, slower, and will go."""

import struct

import numpy as np
import simplejpeg


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of pixels uint8: [H, W, 3] RGB, whose colours are stored at half the size a side, or [H, W] gray."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 2:
        return simplejpeg.encode_jpeg(pixels[..., None], quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")


def decode(content: bytes | bytearray, into: np.ndarray) -> None:
    """Fill `into`, contiguous uint8 of the picture's size: [H, W, 3] RGB or [H, W] gray.

    ValueError if it is damaged, also where much of it could be shown.
    """
    simplejpeg.decode_jpeg(content, "RGB" if into.ndim == 3 else "GRAY", buffer=into)


def size_px(content: bytes | bytearray) -> tuple[int, int]:
    """(width, height) of a JPEG, from its first frame header; (0, 0) where it has none."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        if 0xC0 <= content[at + 1] <= 0xC3:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]
    return 0, 0
