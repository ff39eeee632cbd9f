"""What the ops that only move values do to arrays, in NumPy.

The NumPy backend runs them on spikes; passes and metrics run the same functions on scales,
spike counts and index arrays, so that no pass needs a rule of its own per op.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from snncompiler.graph import Array, attribute, data_inputs, shape, weights


def move(node: ir.Node, inputs: Sequence[Array], pad_value: float = 0) -> Array:
    """Run a data-movement node on arrays with a leading batch axis.

    inputs: the data inputs in order. pad_value: what Pad puts in.
    Any dtype goes through unchanged.
    """
    x = inputs[0]
    match node.op_type:
        case "Reshape":
            target = [int(d) for d in weights(node.inputs[1])]
            return x.reshape(len(x), *target[1:])
        case "Flatten":
            return x.reshape(len(x), -1)
        case "Transpose":
            return x.transpose(attribute(node, "perm"))
        case "Concat":
            return np.concatenate(inputs, axis=attribute(node, "axis"))
        case "Slice":
            return x[_slices(node, x.ndim)]
        case "Pad":
            return _pad(node, x, pad_value)
        case "Gather":
            return x.take(weights(node.inputs[1]), axis=attribute(node, "axis"))
    raise AssertionError(f"'{node.op_type}' does not only move values")


def _slices(node: ir.Node, ndim: int) -> tuple[slice, ...]:
    result = [slice(None)] * ndim
    starts, ends, axes, steps = (weights(v) for v in node.inputs[1:5])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # A negative step may run past the first element, which Python spells None.
        stop = None if step < 0 and end < -(2**30) else int(end)
        result[int(axis)] = slice(int(start), stop, int(step))
    return tuple(result)


def _pad(node: ir.Node, x: Array, pad_value: float) -> Array:
    pads = [int(p) for p in weights(node.inputs[1])]
    return padded(x, list(zip(pads[: x.ndim], pads[x.ndim :], strict=True)), pad_value)


def padded(x: Array, widths: Sequence[tuple[int, int]], fill: float = 0) -> Array:
    """x with (begin, end) more elements along every axis, or fewer where those are negative."""
    crop = tuple(
        slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(widths, x.shape, strict=True)
    )
    border = [(max(0, a), max(0, b)) for a, b in widths]
    return np.pad(x[crop], border, constant_values=fill)


def index_map(node: ir.Node) -> Array:
    """Where each output element of one sample comes from; -1: from nowhere (padding).

    Returns int64 of the output's per-sample shape, indices into the concatenation of the
    flattened data inputs.
    """
    arrays, start = [], 0
    for value in data_inputs(node):
        size = int(np.prod(shape(value), dtype=np.int64))
        arrays.append(np.arange(start, start + size).reshape(1, *shape(value)))
        start += size
    moved: Array = move(node, arrays, pad_value=-1)[0]
    return moved
