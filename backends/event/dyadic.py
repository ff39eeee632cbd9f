"""Numbers on a dyadic grid as integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from snncompiler.graph import Array


def bits(array: Array) -> Array:
    """The least k for which array[..., c] are all multiples of 2^-k, per channel c; at least 0."""
    mantissa, exponent = np.frexp(array.astype(np.float64).reshape(-1, array.shape[-1]))
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2(np.maximum(whole & -whole, 1)).astype(np.int64)
    needed = np.where(whole == 0, 0, 53 - exponent - lowest)
    least: Array = np.maximum(needed.max(0, initial=0), 0)
    return least


def scaled(array: Array, k: Array) -> Array:
    """array 2^k, as int64; exact if k are `bits` of it."""
    whole: Array = np.rint(np.ldexp(array.astype(np.float64), k)).astype(np.int64)
    return whole


def narrowest(array: Array) -> np.dtype[Any]:
    """int8, int16 or int32: the smallest type that holds the integers and their negatives."""
    largest = int(np.abs(array).max(initial=0))
    for kind in (np.int8, np.int16, np.int32):
        if largest <= np.iinfo(kind).max:
            return np.dtype(kind)
    raise OverflowError("beyond 32 bits")
