"""Arrays that begin where a cache line does.

A vector is as long as a line (512 bits): of rows of weights that begin in the middle of one, every
vector is read from two. That took a fifth of the time of wide layers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from snncompiler.graph import Array

_LINE = 64


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Like `np.empty`."""
    kind = np.dtype(dtype)
    return _placed(np.empty(kind.itemsize * prod(shape) + _LINE, np.uint8), shape, kind)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Like `np.zeros`."""
    kind = np.dtype(dtype)
    return _placed(np.zeros(kind.itemsize * prod(shape) + _LINE, np.uint8), shape, kind)


def copy(array: Array, dtype: Any) -> Array:
    """The elements in their order, in this type."""
    made = empty(array.shape, dtype)
    made[...] = array
    return made


def _placed(room: Array, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    first = -room.ctypes.data % _LINE
    array: Array = room[first : len(room) - _LINE + first].view(kind).reshape(shape)
    return array
