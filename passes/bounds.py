"""Bounds and bits of every value of a normalised network: the arithmetic behind `grid`.

bound: |value| never exceeds it. bits: the value is a multiple of 2^-bits. Both are arrays that
broadcast to the value's per-sample shape, per channel wherever that is possible.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from passes.absorb import per_group
from passes.spread import Scale, along_channels, compress, invert_movement, move_scale, spread
from snncompiler.graph import (
    MOVEMENT,
    WEIGHTED,
    Array,
    attribute,
    constant,
    data_inputs,
    rank,
    row_blocks,
    shape,
    weight_index,
    weights,
)
from snncompiler.ops import NEURONS

#: More fractional bits than this buy nothing and would strain the float64 membranes.
MOST_BITS = 30


@dataclass
class Bounds:
    """bound and bits of every value; depth: synapses between it and its spikes; base: their bits.

    size: log2 of the product of the typical weights of those synapses.

    rounded: nodes at which a constant current, computed by synapses, goes into further synapses;
    it is rounded to that many fractional bits there, for every step sees the same.
    """

    bound: dict[ir.Value, Scale] = field(default_factory=dict)
    bits: dict[ir.Value, Scale] = field(default_factory=dict)
    depth: dict[ir.Value, int] = field(default_factory=dict)
    base: dict[ir.Value, int] = field(default_factory=dict)
    size: dict[ir.Value, float] = field(default_factory=dict)
    rounded: dict[ir.Node, int] = field(default_factory=dict)


def is_integer(node: ir.Node) -> bool:
    """Whether a synapse has small integer weights: they need no bits of their own."""
    w = np.atleast_1d(weights(node.inputs[weight_index(node)]))
    parts = (w[part] for part in row_blocks(w))
    return all(bool((p == np.round(p)).all() and np.abs(p).max(initial=0) <= 256) for p in parts)


def has_bias(node: ir.Node) -> bool:
    """Whether a synapse adds a constant current."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return bias is not None and bool(bias.any())


def measure(
    model: ir.Model,
    amplitude: float,
    analog_bits: int,
    mantissa: int,
    earlier: Bounds | None = None,
    *,
    currents: int | None = None,
) -> Bounds:
    """Bound every value and give it bits.

    amplitude: bound of the image. analog_bits: bits of the magnitude of an analog value that was
    rounded. earlier: bits chosen by an earlier call for the same graph are taken over; only the
    bounds are computed anew. currents: bits of the values that are rounded between synapses in the
    dynamic part, too; None: none is.
    """
    result = Bounds()
    image = model.graph.inputs[0]
    input_bits = analog_bits - exponent(amplitude)
    result.bound[image] = along_channels(image, np.array([amplitude]))
    result.depth[image], result.base[image], result.size[image] = 0, input_bits, 0.0
    static, heights = {image}, _heights(model)
    for node in model.graph:
        constant_current = all(v in static for v in data_inputs(node))
        if constant_current and node.op_type not in NEURONS:
            static.update(node.outputs)
        if node.op_type not in NEURONS and (currents or constant_current):
            x = data_inputs(node)[0]
            again = heights[node.outputs[0]] if node.op_type == "Encode" else _takes_bits(node)
            if result.depth[x] and again:
                # The bound is that of the worst image; two bits more keep the typical one fine.
                bits = currents if currents and not constant_current else analog_bits + 2
                result.rounded[node] = bits - exponent(float(result.bound[x].max()))
        _bound(node, result)
    if earlier is not None:
        result.bits, result.rounded = earlier.bits, earlier.rounded
        return result
    limits = _limits(model, result, mantissa)
    result.bits[image] = along_channels(image, np.array([input_bits]))
    for node in model.graph:
        output, inputs = node.outputs[0], data_inputs(node)
        arriving = [result.bits[v] for v in inputs]
        if node.op_type in NEURONS:
            result.bits[output] = along_channels(output, np.zeros(1))
        elif node.op_type in MOVEMENT:
            result.bits[output] = move_scale(node, arriving, fill=0)
        elif node in result.rounded and node.op_type == "Encode":
            result.bits[output] = along_channels(output, np.array([result.rounded[node]]))
        elif node.op_type in WEIGHTED and (has_bias(node) or not is_integer(node)):
            result.bits[output] = limits[output]
        elif node.op_type == "Add" and len(inputs) == 2:
            result.bits[output] = compress(
                np.maximum(*(np.broadcast_to(b, shape(output)) for b in arriving))
            )
        elif node.op_type == "Add":
            result.bits[output] = limits[output]
        elif node.op_type in WEIGHTED:
            most = result.rounded.get(node, arriving[0].max())
            result.bits[output] = along_channels(output, np.array([most]))
        else:
            result.bits[output] = _window(output, arriving[0])
    return result


def _takes_bits(node: ir.Node) -> bool:
    """Whether a synapse leaves its input fewer bits: by fractions of its own, or by long sums."""
    if node.op_type not in WEIGHTED:
        return False
    w = weights(node.inputs[weight_index(node)])
    return not is_integer(node) or bool(np.abs(w).reshape(len(w), -1).sum(1).max() >= 8)


def _is_analog(node: ir.Node) -> bool:
    return node.op_type in WEIGHTED and not is_integer(node)


def _typical(node: ir.Node) -> float:
    """log2 of the root mean square of a synapse's weights."""
    w = np.atleast_1d(weights(node.inputs[weight_index(node)]))
    squares = sum(float(np.square(w[part].astype(np.float64)).sum()) for part in row_blocks(w))
    return float(np.log2(max(np.sqrt(squares / w.size), 2.0**-20)))


def _heights(model: ir.Model) -> dict[ir.Value, int]:
    """How many analog synapses follow each value before the next neuron or readout, at most."""
    heights: dict[ir.Value, int] = {}
    for node in reversed(list(model.graph)):
        users = [u.node for v in node.outputs for u in v.uses()]
        heights[node.outputs[0]] = max(
            (
                heights[u.outputs[0]] + _is_analog(u)
                for u in users
                if u.op_type not in (*NEURONS, "Readout")
            ),
            default=0,
        )
    return heights


def exponent(bound: float) -> int:
    """The least e with bound <= 2^e."""
    return int(np.ceil(np.log2(max(bound, 2.0**-20))))


def _window(output: ir.Value, scale: Scale) -> Scale:
    """A quantity through a pool, per channel; for Encode and TwinSynapse unchanged."""
    if any(d != 1 for d in scale.shape[1:]):
        scale = scale.max(axis=tuple(range(1, scale.ndim)), keepdims=True)
    return spread(output, scale)


def _bound(node: ir.Node, result: Bounds) -> None:
    output, inputs = node.outputs[0], data_inputs(node)
    arriving = [result.bound[v] for v in inputs]
    result.depth[output] = max((result.depth[v] for v in inputs), default=0)
    result.base[output] = max((result.base[v] for v in inputs), default=0)
    deepest = [v for v in inputs if result.depth[v] == result.depth[output]]
    result.size[output] = min((result.size[v] for v in deepest), default=0.0)
    if node in result.rounded:
        bits = result.rounded[node]
        arriving = [arriving[0] + 2.0 ** -(bits + 1)]
        result.depth[output], result.base[output], result.size[output] = 0, bits, 0.0
    if node.op_type in NEURONS:
        most = max(attribute(node, "gamma"), attribute(node, "gamma_neg", 0.0))
        result.bound[output] = along_channels(output, np.array([most]))
        result.depth[output] = result.base[output] = 0
        result.size[output] = 0.0
    elif node.op_type == "TwinSynapse":
        result.bound[output] = along_channels(output, np.array([attribute(node, "gamma")]))
    elif node.op_type in MOVEMENT:
        result.bound[output] = move_scale(node, arriving, fill=0)
    elif node.op_type in WEIGHTED:
        result.bound[output] = weighted_bound(node, arriving[0])
        if not is_integer(node):
            result.depth[output] += 1
            result.size[output] += _typical(node)
        elif has_bias(node):
            _shift(output, result)
    elif node.op_type == "Add" and len(inputs) == 2:
        both = (np.broadcast_to(a, shape(output)) for a in arriving)
        result.bound[output] = compress(sum(both))  # type: ignore[arg-type]
    elif node.op_type == "Add":
        level = np.abs(weights(node.inputs[weight_index(node)]).astype(np.float64))
        total = arriving[0] + level.reshape((1,) * (rank(output) - level.ndim) + level.shape)[0]
        result.bound[output] = compress(np.broadcast_to(total, shape(output)))
        _shift(output, result)
    else:
        result.bound[output] = _window(output, arriving[0])


def _shift(output: ir.Value, result: Bounds) -> None:
    """A constant added to mere spikes brings fractional bits of its own, as a synapse does."""
    if not result.base[output]:
        result.depth[output] = max(result.depth[output], 1)


def weighted_bound(node: ir.Node, arriving: Scale) -> Scale:
    """B_o = sum_i |W_oi| B_i + |b_o|."""
    output, x = node.outputs[0], data_inputs(node)[0]
    if node.op_type == "Mul":
        c = np.abs(weights(node.inputs[weight_index(node)]).astype(np.float64))
        c = c.reshape((1,) * (rank(output) - c.ndim) + c.shape)[0]
        return compress(np.broadcast_to(c * arriving, shape(output)))
    if node.op_type == "MatMul":
        full = np.broadcast_to(arriving, shape(x))
        left = constant(node.inputs[0])
        if left is not None:
            return compress(np.abs(left.astype(np.float64)) @ full)
        return compress(full @ np.abs(weights(node.inputs[1]).astype(np.float64)))
    w, groups = weights(node.inputs[1]), attribute(node, "group", 1)
    per_channel = arriving.reshape(len(arriving), -1).max(1)
    gain_in = np.broadcast_to(per_channel, shape(x)[:1])
    channels = shape(output)[0]
    if node.op_type == "ConvTranspose":  # [in, out / group, ...]
        taps = np.abs(w.astype(np.float64)).reshape(*w.shape[:2], -1).sum(2)
        total = (taps * gain_in[:, None]).reshape(groups, -1, channels // groups).sum(1).reshape(-1)
    else:
        columns = per_group(gain_in, groups, channels)
        parts = []
        for part in row_blocks(w):
            taps = np.abs(w[part].astype(np.float64)).reshape(*w[part].shape[:2], -1).sum(2)
            parts.append((taps * columns[part]).sum(1))
        total = np.concatenate(parts)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        total = total + np.abs(bias.astype(np.float64))
    return along_channels(output, total)


def _limits(model: ir.Model, result: Bounds, mantissa: int) -> dict[ir.Value, Scale]:
    """How many bits each value may have for all that follows it to stay exact."""
    limits: dict[ir.Value, Scale] = {}

    def tighten(value: ir.Value, limit: Scale) -> None:
        have = limits.get(value)
        full = limit if have is None else np.minimum(have, limit)
        limits[value] = compress(np.broadcast_to(full, shape(value)))

    for value, bound in result.bound.items():
        # Rounding may add half a unit per weight to the bound; a sixty-fourth of a bit covers it.
        free = np.floor(
            mantissa - np.log2(np.maximum(bound, 2.0 ** (mantissa - MOST_BITS))) - 1 / 64
        )
        limits[value] = np.minimum(free, MOST_BITS)
    for node in reversed(list(model.graph)):
        output, inputs = node.outputs[0], data_inputs(node)
        if node.op_type in NEURONS or node.op_type == "Readout":
            continue
        limit = limits[output]
        if node.op_type in MOVEMENT:
            for value, part in zip(inputs, invert_movement(node, limit), strict=True):
                tighten(
                    value, np.full((1,) * len(shape(value)), limit.min()) if part is None else part
                )
        elif node in result.rounded:
            continue
        elif node.op_type in WEIGHTED:
            least = float(limit.min())
            if not is_integer(node):
                # Every synapse of the chain shall keep the same number of bits in its weights.
                x = inputs[0]
                d, base, size = result.depth[x], result.base[x], result.size[x]
                significant = (least - base + _typical(node) + size) / (d + 1)
                least = np.floor(base + d * significant - size)
            tighten(inputs[0], np.full((1,) * len(shape(inputs[0])), least))
        else:
            for value in inputs:
                if any(d != 1 for d in limit.shape[1:]) and shape(value) != shape(output):
                    limit = limit.min(axis=tuple(range(1, limit.ndim)), keepdims=True)
                tighten(value, limit)
    for node in model.graph:
        output = node.outputs[0]
        if node.op_type in WEIGHTED and node.op_type not in ("Mul", "Gemm"):
            # Weights are shared over space, so a channel has the bits of its poorest place.
            limit = limits[output]
            limits[output] = limit.min(axis=tuple(range(1, limit.ndim)), keepdims=True)
    return limits


def synapse_bits(node: ir.Node, bounds: Bounds) -> tuple[Array, Array]:
    """(weights, fractional bits of the weights) of a synapse.

    The bits broadcast to the weights: per output channel for Conv, ConvTranspose and Gemm, per
    element for Mul, one number for MatMul.
    """
    w = weights(node.inputs[weight_index(node)])
    out, arriving = bounds.bits[node.outputs[0]], bounds.bits[data_inputs(node)[0]]
    if node in bounds.rounded:
        arriving = np.full_like(arriving, bounds.rounded[node])
    if node.op_type == "Mul":
        # Broadcasting to more places than the constant has: the poorest place decides.
        bits = np.broadcast_to(out, shape(node.outputs[0])) - arriving.max()
        w = w.reshape((1,) * (rank(node.outputs[0]) - w.ndim) + w.shape)
        axes = tuple(i for i in range(1, w.ndim) if w.shape[i] == 1)
        return w, bits[None].min(axis=axes, keepdims=True)
    if node.op_type == "MatMul":
        return w, np.array(out.min() - arriving.max())
    per_channel = out.reshape(-1) - arriving.max()
    per_channel = np.broadcast_to(per_channel, shape(node.outputs[0])[:1])
    if node.op_type == "ConvTranspose":
        groups = attribute(node, "group", 1)
        per = np.repeat(per_channel.reshape(groups, -1), len(w) // groups, axis=0)
        return w, per.reshape(*per.shape, *[1] * (w.ndim - 2))
    return w, per_channel.reshape(-1, *[1] * (w.ndim - 1))
