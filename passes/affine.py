"""Fold every constant scale and shift into synapses.

    BatchNormalization   y = g x + h     g = gamma / sqrt(var + eps),  h = beta - mean g
    Mul, Div, Add, Sub by a constant     the same with g or h

1. Behind a Conv, ConvTranspose or Gemm that feeds nothing else:  W' = g W,  b' = g b + h.
2. In front of a Conv whose zero padding does not see h (no padding, or h = 0), or of a Gemm,
   and feeding nothing else:  W' = W g,  b' = b + W h.
3. Elsewhere: a depthwise 1x1 convolution; on features without space, Mul and Add.
4. A constant that differs from pixel to pixel stays a Mul or an Add with that map.
5. Chains of 3 and 4 are merged first, so that a BatchNormalization after a scale costs nothing.

Computed in float64, stored in float32. Weights shared by two nodes are copied, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context, Refusal, infer_shapes, rewrite
from snncompiler.graph import (
    Array,
    add_constant,
    attribute,
    constant,
    graph_of,
    is_op,
    make_node,
    rank,
    replace,
    shape,
    sole_user,
    weights,
)

_FOLDS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Affine:
    """Fold BatchNormalization and constants into synapses."""

    name: ClassVar[str] = "affine"

    def run(self, model: ir.Model, context: Context) -> str:
        """Fold backwards, then forwards, then turn what is left into synapses of its own."""
        folded = rewrite(model, context, dict.fromkeys(_OPS, _fold_backward))
        folded += rewrite(model, context, dict.fromkeys(_OPS, _fold_forward))
        kept = rewrite(model, context, dict.fromkeys(_OPS, _materialise))
        infer_shapes(model)
        return f"{folded} folded, {kept} kept as synapses of their own"


def affine_of(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """(x, g, h) of y = g x + h with g, h of shape [1, C, ...] (float64), or None."""
    x = node.inputs[0]
    if node.op_type == "BatchNormalization":
        if attribute(node, "training_mode", 0) or any(constant(v) is None for v in node.inputs[1:]):
            raise Refusal("its statistics change with the data", "export in inference mode")
        assert x is not None
        gamma, beta, mean, var = (weights(v).astype(np.float64) for v in node.inputs[1:5])
        var += attribute(node, "epsilon", 1e-5)
        if not (var > 0).all():
            raise Refusal("its variance is zero or negative", "look at the training run")
        g = gamma / np.sqrt(var)
        per_channel = (1, -1, *[1] * (rank(x) - 2))
        return x, g.reshape(per_channel), (beta - mean * g).reshape(per_channel)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first, second = node.inputs
    left, right = constant(first), constant(second)
    if (left is None) == (right is None):
        return None
    value = second if right is None else first
    assert value is not None
    given = right if right is not None else left
    assert given is not None
    n = rank(value)
    if given.ndim > n or (given.ndim == n and given.shape[0] != 1):
        raise Refusal("its constant differs from sample to sample", "use one for all samples")
    c = given.reshape((1,) * (n - given.ndim) + given.shape).astype(np.float64)
    one, zero = np.ones_like(c), np.zeros_like(c)
    if node.op_type == "Mul":
        return value, c, zero
    if node.op_type == "Div":
        if left is not None:
            return None
        if (c == 0).any():
            raise Refusal("it divides by zero", "look at the constant")
        return value, 1 / c, zero
    if node.op_type == "Add":
        return value, one, c
    return (value, one, -c) if right is not None else (value, -one, c)


def _channelwise(g: Array, h: Array, channels: int) -> tuple[Array, Array] | None:
    """g and h as [C] vectors if they differ only from channel to channel."""
    if any(d != 1 for a in (g, h) for i, d in enumerate(a.shape) if i != 1):
        return None
    if max(g.size, h.size) > channels:  # it makes many channels of one
        return None
    return tuple(np.broadcast_to(a.reshape(-1), (channels,)) for a in (g, h))  # type: ignore[return-value]


def _fold_backward(node: ir.Node, _context: Context) -> bool:
    found = affine_of(node)
    if found is None:
        return False
    x, g, h = found
    producer = x.producer()
    if shape(x) != shape(node.outputs[0]) or not is_op(producer, *_FOLDS, *_OPS):
        return False
    assert producer is not None
    if sole_user(x) is not node or producer.graph is None:
        return False
    if producer.op_type in _OPS:
        return _merge(producer, node, g, h)
    vectors = _channelwise(g, h, shape(x)[0])
    if vectors is None:
        return False
    gain, shift = vectors
    w = weights(producer.inputs[1]).astype(np.float64)
    bias = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    b = np.zeros(len(gain)) if bias is None else bias.astype(np.float64)
    if producer.op_type == "ConvTranspose":
        groups = attribute(producer, "group", 1)
        per = gain.reshape(groups, -1)  # [group, out / group]
        block = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        w = (block * per.reshape(groups, 1, -1, *[1] * (w.ndim - 2))).reshape(w.shape)
    else:
        w = w * gain.reshape(-1, *[1] * (w.ndim - 1))
    _replace_weighted([producer, node], producer, producer.inputs[0], w, b * gain + shift)
    return True


def _merge(producer: ir.Node, node: ir.Node, g: Array, h: Array) -> bool:
    """Two affine steps in a row become one Mul-like step, kept as a BatchNormalization would be."""
    found = affine_of(producer)
    if found is None or shape(found[0]) != shape(producer.outputs[0]):
        return False
    x, g0, h0 = found
    gain, shift = g * g0, g * h0 + h
    vectors = _channelwise(gain, shift, shape(x)[0])
    if vectors is None:
        return False
    channels = len(vectors[0])
    graph, name = graph_of(node), str(producer.name)
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    arrays = {"scale": vectors[0], "shift": vectors[1], "mean": zeros, "var": ones}
    inputs = [add_constant(graph, f"{name}_{k}", np.asarray(a)) for k, a in arrays.items()]
    new = make_node("BatchNormalization", [x, *inputs], {"epsilon": 0.0}, name=name)
    replace([producer, node], [new])
    return True


def _fold_forward(node: ir.Node, _context: Context) -> bool:
    found = affine_of(node)
    if found is None:
        return False
    x, g, h = found
    user = sole_user(node.outputs[0])
    vectors = _channelwise(g, h, shape(x)[0])
    if vectors is None or user is None or shape(x) != shape(node.outputs[0]):
        return False
    gain, shift = vectors
    old = [node]
    if is_op(user, "Flatten"):
        spread = int(np.prod(shape(x)[1:]))
        flat, user = user, sole_user(user.outputs[0])
        gain, shift = np.repeat(gain, spread), np.repeat(shift, spread)
        if not is_op(user, "Gemm"):
            return False
        old.append(flat)
    if user is None or not is_op(user, "Conv", "Gemm") or constant(user.inputs[1]) is None:
        return False
    padded = user.op_type == "Conv" and any(attribute(user, "pads"))
    if padded and shift.any():
        return False
    w = weights(user.inputs[1]).astype(np.float64)
    bias = constant(user.inputs[2]) if len(user.inputs) > 2 else None
    b = np.zeros(len(w)) if bias is None else bias.astype(np.float64)
    groups = attribute(user, "group", 1)
    gain_in = np.repeat(gain.reshape(groups, -1), len(w) // groups, axis=0)
    shift_in = np.repeat(shift.reshape(groups, -1), len(w) // groups, axis=0)
    tail = [1] * (w.ndim - 2)
    b = b + (w * shift_in.reshape(*w.shape[:2], *tail)).reshape(len(w), -1).sum(1)
    w = w * gain_in.reshape(*w.shape[:2], *tail)
    if len(old) == 2:  # affine -> Flatten -> Gemm: only the Gemm and the affine change
        flat = make_node("Flatten", [x], {"axis": 1}, name=str(old[1].name))
        flat.metadata_props.update(old[1].metadata_props)
        flat.outputs[0].type = x.type
        _replace_weighted([*old, user], user, flat.outputs[0], w, b, before=[flat])
    else:
        _replace_weighted([node, user], user, x, w, b)
    return True


def _replace_weighted(
    old: list[ir.Node],
    model: ir.Node,
    x: ir.Value | None,
    w: Array,
    b: Array,
    before: list[ir.Node] | None = None,
) -> None:
    graph, name = graph_of(model), str(model.name)
    inputs = [x, add_constant(graph, f"{name}_weight", w), add_constant(graph, f"{name}_bias", b)]
    new = make_node(model.op_type, inputs, name=name)
    new.attributes.update({a.name: a for a in model.attributes.values()})
    replace(old, [*(before or []), new])


def _materialise(node: ir.Node, _context: Context) -> bool:
    found = affine_of(node)
    if found is None:
        return False
    x, g, h = found
    graph, name, n = graph_of(node), str(node.name), rank(x)
    channels = shape(x)[0]
    vectors = _channelwise(g, h, channels)
    if vectors is not None and n > 2 and shape(x) == shape(node.outputs[0]):
        ones = [1] * (n - 2)
        w = add_constant(graph, f"{name}_weight", vectors[0].reshape(channels, 1, *ones))
        b = add_constant(graph, f"{name}_bias", np.ascontiguousarray(vectors[1]))
        settings = {
            "kernel_shape": ones,
            "strides": ones,
            "dilations": ones,
            "pads": [0] * (2 * len(ones)),
            "group": channels,
        }
        replace([node], [make_node("Conv", [x, w, b], settings, name=name)])
        return True
    new: list[ir.Node] = []
    value = x
    if (g != 1).any() or shape(x) != shape(node.outputs[0]):
        if (h == 0).all() and node.op_type == "Mul" and node.inputs[0] is x:
            return False  # it is a Mul by a map already
        new.append(make_node("Mul", [value, add_constant(graph, f"{name}_gain", g)], name=name))
        value = new[-1].outputs[0]
        value.shape, value.type = node.outputs[0].shape, x.type
    if (h != 0).any():
        if not new and node.op_type == "Add" and node.inputs[0] is x:
            return False
        label = f"{name}_shift" if new else name
        new.append(make_node("Add", [value, add_constant(graph, f"{name}_shift", h)], name=label))
    if new:
        replace([node], new)
    return bool(new)


_OPS = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
