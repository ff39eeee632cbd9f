"""Arrays whose memory is used again.

A run makes the same large arrays part after part of its samples. An allocator that gives them back
to the system in between has every page of them mapped and cleared anew, and threads wait for each
other while that is done: up to a third of the time of a network with few events. So memory that no
array needs any more is kept here, and given to the next one that fits.
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
    """Memory as long as it is used: by an array, which is given here, or by views of it."""

    def __init__(self, size: int) -> None:
        self.free = _free.setdefault(size, deque())
        try:
            self.block = self.free.pop()
        except IndexError:  # also if another thread was quicker
            self.block = aligned.zeros((size,), np.uint8)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """How NumPy takes it for an array, and holds on to it."""
        return self.block.__array_interface__

    def __del__(self) -> None:
        self.free.append(self.block)


def empty(shape: tuple[int, ...], kind: Any) -> Array:
    """Like `np.empty`."""
    size = int(prod(shape)) * np.dtype(kind).itemsize
    if size < _LEAST:
        return np.empty(shape, kind)
    room: Array = np.asarray(_Loan(_rounded(size)))
    array: Array = room[:size].view(kind).reshape(shape)
    return array


def zeros(shape: tuple[int, ...], kind: Any) -> Array:
    """Like `np.zeros`."""
    array = empty(shape, kind)
    array.fill(0)
    return array


def copies(array: Array, shape: tuple[int, ...], kind: Any) -> Array:
    """An array that is broadcast to a shape, and converted."""
    whole = empty(shape, kind)
    whole[...] = array
    return whole


def release() -> None:
    """Give back to the system what no array needs."""
    _free.clear()


def _rounded(size: int) -> int:
    """The next number with three significant bits: at most a quarter more."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step
