"""Arrays that begin where a cache line does.

A vector is as long as a line (512 bits): of rows of weights that begin in the middle of one, every
vector is read from two lines, which took a fifth of the time of wide layers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from snncompiler.graph import Array

_LINE = 64


def zeros(shape: tuple[int, ...], kind: Any) -> Array:
    """Like `np.zeros`."""
    each, size = np.dtype(kind).itemsize, prod(shape)
    room = np.zeros(size + _LINE // each, kind)
    first = -room.__array_interface__["data"][0] % _LINE // each
    array: Array = room[first : first + size].reshape(shape)
    return array
