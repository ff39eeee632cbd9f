"""The inputs that each output of a synapse sees, as rows of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from snncompiler.graph import Array, attribute, shape, weights
from snncompiler.movement import padded

#: Places of the images at which a convolution is looked at; more change the second moments little.
_PLACES = 4096


def is_plain_synapse(node: ir.Node | None) -> bool:
    """Whether a node is a Conv without groups or a Gemm, with constant weights and a bias."""
    if node is None or node.domain or node.op_type not in ("Conv", "Gemm"):
        return False
    return attribute(node, "group", 1) == 1 and len(node.inputs) == 3 and node.inputs[2] is not None


def patches(node: ir.Node, x: Array, rows: Array) -> Array:
    """What chosen outputs of a synapse see of its input.

    Args:
        node: a Conv or Gemm; of one with groups, all groups side by side.
        x: [N, ...] its input.
        rows: [R] indices into the N * positions outputs of one channel (of all samples, in order).

    Returns:
        [R, K], K as the weights [M, K] have it when every kernel is flattened.
    """
    if node.op_type == "Gemm":
        return x[rows]
    kernel = weights(node.inputs[1]).shape[2:]
    n = len(kernel)
    pads, strides, dilations = (attribute(node, k) for k in ("pads", "strides", "dilations"))
    x = padded(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    axes: Any = tuple(range(2, 2 + n))
    windows: Array = np.lib.stride_tricks.sliding_window_view(x, spans, axis=axes)
    steps = (slice(None, None, s) for s in (*strides, *dilations))
    index = (slice(None), slice(None), *steps)
    windows = windows[index]
    places = windows.shape[2 : 2 + n]
    sample, *place = np.unravel_index(rows, (len(x), *places))
    seen: Any = (sample, slice(None), *place)
    found = windows[seen]
    return np.ascontiguousarray(found).reshape(len(rows), -1)


def outputs(y: Array, rows: Array) -> Array:
    """The chosen outputs themselves: y [N, M, ...] -> [R, M]."""
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])[rows]


def flat_weights(node: ir.Node) -> Array:
    """Weights [M, K] of a plain synapse, float64."""
    w = weights(node.inputs[1]).astype(np.float64)
    return w.reshape(len(w), -1)


def inputs_of(node: ir.Node, x: Array, seed: int = 0) -> list[Array]:
    """What each group of a Conv or Gemm sees, [R, K] float64: K in the order of its weights.

    x: [N, ...] values of its data input. A convolution is sampled at random places.
    """
    if node.op_type == "Gemm":
        return [x.astype(np.float64)]
    total = len(x) * int(np.prod(shape(node.outputs[0])[1:]))
    chosen = np.random.default_rng(seed).choice(total, min(total, _PLACES), replace=False)
    seen = patches(node, x, chosen).astype(np.float64)
    return np.split(seen, attribute(node, "group"), axis=1)
