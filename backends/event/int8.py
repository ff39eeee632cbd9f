"""A network with 8-bit weights: the same network on a coarser grid.

Every connection behind the encoder gets weights q 2^-k with |q| <= 127 and one k per output
channel: of all k, the one with the least squared error, which may cut off the largest weights. So
the result is again a network on a dyadic grid that every backend computes exactly, in any order;
this one adds the rows in 16 bits. The first layer, whose current is computed once, stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from backends.base import Network, take_apart
from snncompiler.graph import Array, add_constant, constant, data_inputs, weights

_LARGEST = 127


def to_int8(model: ir.Model) -> ir.Model:
    """A copy of a compiled network with 8-bit weights, biases on the same grid."""
    copy = model.clone()
    network = take_apart(copy)
    for node in _synapses(network):
        axis, groups = (
            (1, node.attributes["group"].as_int()) if node.op_type == "ConvTranspose" else (0, 1)
        )
        w = weights(node.inputs[1]).astype(np.float64)
        rounded, k = round_weights(_rows(w, axis, groups))
        graph = copy.graph
        node.replace_input_with(
            1, add_constant(graph, f"{node.name}_int8", _back(rounded, w, axis, groups))
        )
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            b = np.ldexp(np.rint(np.ldexp(bias.astype(np.float64), k)), -k)
            node.replace_input_with(2, add_constant(graph, f"{node.name}_int8_bias", b))
    return copy


def round_weights(rows: Array) -> tuple[Array, Array]:
    """Rows [M, ...] of weights to 8 bits: the rounded rows and k [M], the bits after the point."""
    flat: Array = rows.reshape(len(rows), -1)
    largest = np.maximum(np.abs(flat).max(1, initial=0), 2.0**-20)
    finest = np.floor(np.log2(_LARGEST / largest)).astype(np.int64)
    best: Array = flat
    least: Array = np.full(len(flat), np.inf)
    chosen: Array = finest
    for more in range(3):  # each bit more cuts off what is larger than half as much
        k = np.maximum(finest + more, 1)  # theta = 1 and V = theta / 2 are on the grid
        q = np.clip(np.rint(np.ldexp(flat, k[:, None])), -_LARGEST, _LARGEST)
        found = np.ldexp(q, -k[:, None])
        error = ((found - flat) ** 2).sum(1)
        better = error < least
        best = np.where(better[:, None], found, best)
        least, chosen = np.minimum(error, least), np.where(better, k, chosen)
    return best.reshape(rows.shape), chosen


def _synapses(network: Network) -> list[ir.Node]:
    """The connections that spikes or other currents of a step flow through."""
    kinds = ("Conv", "ConvTranspose", "Gemm")
    return [n for n in network.steps if n.op_type in kinds and not _is_constant(n)]


def _is_constant(node: ir.Node) -> bool:
    """Whether nothing but the image flows in."""
    inputs = data_inputs(node)
    producers = [v.producer() for v in inputs]
    return all(p is None or p.op_type == "Encode" for p in producers)


def _rows(w: Array, axis: int, groups: int) -> Array:
    """Weights by output channel, [M, ...]."""
    if axis == 0:
        return w
    parts = w.reshape(groups, -1, *w.shape[1:])  # [G, C / G, M / G, ...]
    return np.moveaxis(parts, 2, 1).reshape(groups * w.shape[1], -1)


def _back(rows: Array, like: Array, axis: int, groups: int) -> Array:
    if axis == 0:
        return rows.reshape(like.shape)
    parts = rows.reshape(groups, like.shape[1], -1, *like.shape[2:])
    return np.moveaxis(parts, 1, 2).reshape(like.shape)
