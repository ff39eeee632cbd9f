"""Per-sample quantities (scales, bounds, bits) as arrays, and their way through movement ops.

A quantity of a value is an array that broadcasts to the value's per-sample shape: [C, 1, ...]
where it differs from channel to channel only, the full shape where it must.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from snncompiler.graph import Array, data_inputs, shape
from snncompiler.movement import index_map

Scale = NDArray[np.float64]


def along_channels(value: ir.Value, vector: Array) -> Scale:
    """A [C] or [1] vector as [C, 1, ...] of the value's rank."""
    dims = shape(value)
    full = np.broadcast_to(np.asarray(vector, np.float64).reshape(-1), dims[:1])
    return np.ascontiguousarray(full).reshape(-1, *[1] * (len(dims) - 1))


def ones(value: ir.Value) -> Scale:
    """1 for every channel."""
    return along_channels(value, np.ones(1))


def compress(full: Array) -> Scale:
    """[C, 1, ...] if the array is constant over all axes but the first; else the array itself."""
    flat = np.asarray(full, np.float64).reshape(len(full), -1)
    if (flat == flat[:, :1]).all():
        return np.ascontiguousarray(flat[:, 0]).reshape(-1, *[1] * (full.ndim - 1))
    return np.ascontiguousarray(full, dtype=np.float64)


def spread(value: ir.Value, scale: Scale) -> Scale:
    """The same quantity on a value of the same number of channels (after a pool, say)."""
    dims = shape(value)
    if all(d == 1 for d in scale.shape[1:]):
        return along_channels(value, scale)
    return compress(np.broadcast_to(scale, dims))


def move_scale(node: ir.Node, scales: Sequence[Scale], fill: float | None = None) -> Scale:
    """What a movement op does to the quantities of its inputs.

    fill: the quantity of padding; None: whatever its channel has elsewhere.
    """
    flat = np.concatenate(
        [
            np.broadcast_to(s, shape(v)).reshape(-1)
            for s, v in zip(scales, data_inputs(node), strict=True)
        ]
    )
    index = index_map(node)
    moved = np.where(index < 0, np.nan if fill is None else fill, flat[index])
    rows: Array = moved.reshape(len(moved), -1)
    if np.isnan(rows).any():
        # A channel that is padding throughout has no quantity of its own: 1 is as good as any.
        empty = np.asarray(np.isnan(rows).all(axis=1))
        own = np.where(empty, 1.0, np.nanmax(np.where(empty[:, None], 1.0, rows), axis=1))
        rows = np.where(np.isnan(rows), own[:, None], rows)
    return compress(rows.reshape(moved.shape))


def invert_movement(node: ir.Node, wanted: Scale) -> list[Scale | None]:
    """What the inputs must be for the output to be `wanted`; None where that is undetermined.

    All are None if one input element would have to be two things at once.
    """
    inputs = data_inputs(node)
    sizes = [int(np.prod(shape(v), dtype=np.int64)) for v in inputs]
    index = index_map(node)
    full = np.broadcast_to(wanted, index.shape)
    flat = np.full(sum(sizes), np.nan)
    used = index >= 0
    flat[index[used]] = full[used]
    if not np.array_equal(flat[index[used]], full[used]):
        return [None] * len(inputs)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    result: list[Scale | None] = []
    for part, value in zip(parts, inputs, strict=True):
        rows: Array = part.reshape(shape(value)[0], -1)
        known = ~np.isnan(rows).all(1)
        if not known.all():
            result.append(None)
            continue
        rows = np.where(np.isnan(rows), np.nanmax(rows, axis=1, keepdims=True), rows)
        result.append(compress(rows.reshape(shape(value))))
    return result
