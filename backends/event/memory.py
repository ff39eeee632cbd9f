"""Arrays whose memory is used again.

A run makes the same large arrays part after part of its samples. An allocator that gives them back
to the system in between has every page of them mapped and cleared anew, and threads wait for each
other while that is done: up to a quarter of the time. So memory that no array needs any more is
kept here, and given to the next one that fits.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import numpy as np

from backends.event import aligned
from snncompiler.graph import Array

#: Bytes below which an array comes from the allocator.
_LEAST = 1 << 18
#: Memory that is free, by its size: what was freed last is given first, it may still be cached.
_free: dict[int, deque[Array]] = {}


class _Loan:
    """Memory while arrays use it, which hold on to this; after the last one it is free again."""

    def __init__(self, block: Array, free: deque[Array]) -> None:
        self.block, self.free = block, free

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """How NumPy takes it for an array."""
        return self.block.__array_interface__

    def __del__(self) -> None:
        self.free.append(self.block)


def empty(shape: tuple[int, ...], kind: Any) -> Array:
    """Like `np.empty`."""
    size = int(prod(shape)) * np.dtype(kind).itemsize
    if size < _LEAST:
        return np.empty(shape, kind)
    room: Array = np.asarray(_borrowed(_rounded(size)))
    array: Array = room[:size].view(kind).reshape(shape)
    return array


def zeros(shape: tuple[int, ...], kind: Any) -> Array:
    """Like `np.zeros`."""
    return full(shape, 0, kind)


def full(shape: tuple[int, ...], value: Array | float, kind: Any) -> Array:
    """Like `np.full`: the value is broadcast."""
    array = empty(shape, kind)
    array[...] = value
    return array


def release() -> None:
    """Give back to the system what no array needs."""
    _free.clear()


def _borrowed(size: int) -> _Loan:
    """So many bytes: what is free, or else new."""
    free = _free.setdefault(size, deque())
    try:
        block = free.pop()
    except IndexError:
        block = aligned.zeros((size,), np.uint8)
    return _Loan(block, free)


def _rounded(size: int) -> int:
    """The next number with three significant bits: at most a quarter more."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step
