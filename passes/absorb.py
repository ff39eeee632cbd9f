"""How synapses absorb scales: W' = W lambda_in / lambda_out for every weighted op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.spread import Scale, along_channels, ones, spread
from snncompiler.graph import (
    Array,
    add_constant,
    attribute,
    constant,
    data_inputs,
    row_blocks,
    shape,
    weight_index,
    weights,
)


def _contracted(node: ir.Node) -> int:
    """The per-sample axis that a MatMul sums over, counted from the end."""
    return -2 if constant(node.inputs[0]) is not None else -1


def representable(
    node: ir.Node, arriving: Scale, wanted: Scale | None
) -> tuple[Scale | None, Scale]:
    """(scale required of the input or None, scale of the output) of a weighted op.

    The output gets what is wanted if weights shared over space can make it; without a wish a
    one-to-one synapse keeps weights of 1 (an average makes sums; its output scale takes the
    factor), everything else makes physical units.
    """
    output = node.outputs[0]
    if node.op_type == "Mul":
        factor = one_to_one(node)
        if wanted is None and factor is not None and all(d == 1 for d in arriving.shape[1:]):
            return None, arriving * along_channels(output, factor)
        return None, ones(output) if wanted is None else spread(output, wanted)
    if node.op_type == "MatMul":
        return _matmul(node, arriving)
    required = None
    if node.op_type != "Gemm" and any(d != 1 for d in arriving.shape[1:]):
        # Weights are shared over space, so the input must have one scale per channel.
        required = arriving.max(axis=tuple(range(1, arriving.ndim)), keepdims=True)
        arriving = required
    if wanted is not None and (node.op_type == "Gemm" or all(d == 1 for d in wanted.shape[1:])):
        return required, spread(output, wanted)
    factor = one_to_one(node)
    if factor is not None:
        return required, spread(output, arriving) * along_channels(output, factor)
    return required, ones(output)


def one_to_one(node: ir.Node) -> Array | None:
    """|w| per channel of a synapse that treats each channel by itself and all its taps alike.

    Such are averages, gains and BatchNormalizations of their own: with input and output scale in
    this ratio their weights are 1 or -1 (small integers in a map) and the factor lives in a
    neighbour's weights. 1 where the weight is 0. None for all other synapses.
    """
    if node.op_type == "Mul":
        w = _constant_operand(node)
        w = np.broadcast_to(w, (1, shape(node.outputs[0])[0], *w.shape[2:]))[0]
        step = common_step(w)
        if step is not None:
            return np.full(len(w), step)
    elif node.op_type == "Conv" and attribute(node, "group") == shape(node.outputs[0])[0]:
        w = weights(node.inputs[1]).astype(np.float64)
        if w.shape[1] != 1 or shape(data_inputs(node)[0])[0] != len(w):
            return None
    else:
        return None
    flat = w.reshape(len(w), -1)
    if (flat != flat[:, :1]).any():
        return None
    first: Array = np.abs(flat[:, 0])
    return np.where(first > 0, first, 1.0)


def common_step(w: Array) -> float | None:
    """The largest s of which all values of a map are small integer multiples, or None.

    Maps of divisors are such (1/4, 1/6 and 1/9 are 9/36, 6/36 and 4/36): times s they need no
    fractional bits.
    """
    top = float(np.abs(w).max())
    for k in range(1, 65):
        multiples = w * (k / top) if top else w
        if np.abs(multiples - np.round(multiples)).max() < 1e-5:
            return top / k if top else None
    return None


def _matmul(node: ir.Node, arriving: Scale) -> tuple[Scale | None, Scale]:
    axis, output = _contracted(node), node.outputs[0]
    if arriving.shape[axis] == 1:  # the sum runs over values of one scale: it keeps it
        return None, spread(output, arriving)
    others = tuple(i for i in range(arriving.ndim) if i != arriving.ndim + axis)
    level = arriving.max(axis=others, keepdims=True)
    required = None if (arriving == level).all() else level
    return required, ones(output)


def _constant_operand(node: ir.Node) -> Array:
    c = weights(node.inputs[weight_index(node)]).astype(np.float64)
    n = len(shape(node.outputs[0])) + 1
    return c.reshape((1,) * (n - c.ndim) + c.shape)


def absorb(node: ir.Node, arriving: Scale, leaving: Scale) -> None:
    """Rewrite the constants of a weighted op for the scales of its input and output."""
    graph = node.graph
    assert graph is not None

    def put(index: int, array: Array, what: str) -> None:
        new = add_constant(graph, f"{node.name}_{what}_1", np.ascontiguousarray(array))
        node.replace_input_with(index, new)

    if node.op_type == "Mul":
        index = weight_index(node)
        gain = _constant_operand(node) * arriving[None] / leaving[None]
        whole = np.round(gain)
        # What `common_step` found integer but for the float32 rounding of the constants, is.
        close = np.abs(gain - whole).max() < 1e-5 * np.abs(gain).max()
        put(index, whole if close else gain, "gain")
        return
    if node.op_type == "MatMul":
        axis = _contracted(node)
        if arriving.shape[axis] != 1:
            vector = arriving.reshape(-1)
            index = 1 if axis == -1 else 0
            w = weights(node.inputs[index]).astype(np.float64)
            put(index, w * (vector[:, None] if index else vector[None, :]), "weight")
        return
    gain_in, gain_out = _vector(arriving, node.inputs[0]), 1 / _vector(leaving, node.outputs[0])
    put(1, scaled_weights(node, gain_in, gain_out), "weight")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        put(2, weights(node.inputs[2]).astype(np.float64) * gain_out, "bias")


def _vector(scale: Scale, value: ir.Value | None) -> Array:
    assert value is not None
    return np.broadcast_to(scale.reshape(-1), shape(value)[:1])


def scaled_weights(node: ir.Node, gain_in: Array, gain_out: Array) -> Array:
    """W[o, i] gain_in[i] gain_out[o] of a Conv, ConvTranspose or Gemm, groups included; float32."""
    w, groups = weights(node.inputs[1]), attribute(node, "group", 1)
    tail = [1] * (w.ndim - 2)
    if node.op_type == "ConvTranspose":  # [in, out / group, ...]
        rows, columns = gain_in, per_group(gain_out, groups, len(w))
    else:  # [out, in / group, ...]
        rows, columns = gain_out, per_group(gain_in, groups, len(w))
    result = np.empty(w.shape, np.float32)
    with np.errstate(over="ignore"):  # `verify` tells of what is not finite
        for part in row_blocks(w):
            scaled = w[part].astype(np.float64) * rows[part].reshape(-1, 1, *tail)
            result[part] = scaled * columns[part].reshape(*columns[part].shape, *tail)
    return result


def per_group(vector: Array, groups: int, rows: int) -> Array:
    """What each of so many rows of a weight has along its second axis: [rows, len / groups]."""
    if groups == 1:
        return np.broadcast_to(vector, (rows, len(vector)))
    return np.repeat(vector.reshape(groups, -1), rows // groups, axis=0)
