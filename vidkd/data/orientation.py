"""Which way up a picture is meant to be seen: phones store what their sensor sees, and a matrix beside it."""

import struct
from typing import Any

import numpy as np

MATRIX = struct.Struct("=9i")  # rows (a b u) (c d v) (x y w): a pixel (x, y) is shown at (ax + cy, bx + dy)
Matrix = tuple[int, int, int, int]  # a, b, c, d
STRAIGHT = 0.02  # of the larger share of a row: a degree


def matrix_of(frame: Any) -> Matrix | None:
    """That of a frame that PyAV decoded; None of one that is shown as it is stored."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return None
    a, b, _, c, d, *_ = MATRIX.unpack(bytes(found))
    return None if (b, c) == (0, 0) and a > 0 < d else (a, b, c, d)


def is_mirrored(matrix: Matrix | None) -> bool:
    """Whether no turning brings it to what it is meant to look like."""
    a, b, c, d = matrix or (1, 0, 0, 1)
    return a * d < b * c


def is_straight(matrix: Matrix | None) -> bool:
    """Whether its edges stay upright or level."""
    a, b, c, d = map(abs, matrix or (1, 0, 0, 1))
    return max(b, c) <= STRAIGHT * min(a, d) or max(a, d) <= STRAIGHT * min(b, c)


def upright(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """[H, W, 3] as it is meant to be seen, the same memory; the matrix must be straight."""
    a, b, c, d = matrix
    lies = abs(a) < abs(b)
    shown = pixels.transpose(1, 0, 2) if lies else pixels
    across, down = (c, b) if lies else (a, d)
    return shown[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
