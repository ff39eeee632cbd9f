"""The integers inside a network whose weights are dyadic, with bounds that no input can exceed.

Every value x of the dynamic part is an integer n times 2^-fraction, the fraction fixed per element.
So one network can be read in two ways: as floats, thresholds 1, and as integers, where the weights
of an output channel are mantissas m = w 2^p and its threshold is 2^exponent. Both compute the same
spikes. Bounds are intervals [low, high] per element, from what neurons can send at most:

    synapse   high = sum of max(w low, w high) + b, and so on down the graph
    membrane  U <= max(1, v) + high + (T - 1) max(0, high - gamma),  U >= min(0, v) + T low

for a neuron with threshold 1 that ends below 1, or has sent gamma, at every step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from snncompiler.graph import (
    MOVEMENT,
    WEIGHTED,
    Array,
    attribute,
    constant,
    data_inputs,
    is_op,
    shape,
    weight_index,
    weights,
)
from snncompiler.movement import move

#: Node metadata: JSON list, the fractional bits p of a synapse's weights per output channel.
FRACTION = "snn.fraction"
#: No value of a network on the grid needs more fractional bits, none less: 2^16 is a unit, too.
MOST_BITS, LEAST_BITS = 40, -16


class NoInteger(Exception):
    """A node that integers cannot compute; says why, and what to do."""

    def __init__(self, node: ir.Node, why: str, do: str) -> None:
        super().__init__(why)
        self.node, self.why, self.do = node, why, do


@dataclass
class Integers:
    """Of every value of the dynamic part, per element of one sample: fraction, low, high.

    exponent, membrane: per neuron population and readout: its threshold is 2^exponent, and its
    potential never exceeds membrane, in the units of 2^-exponent. mantissa: per synapse, the
    fractional bits p of its weights, one per output channel (or one in all).
    """

    fraction: dict[ir.Value, Array] = field(default_factory=dict)
    low: dict[ir.Value, Array] = field(default_factory=dict)
    high: dict[ir.Value, Array] = field(default_factory=dict)
    exponent: dict[ir.Node, Array] = field(default_factory=dict)
    membrane: dict[ir.Node, Array] = field(default_factory=dict)
    mantissa: dict[ir.Node, Array] = field(default_factory=dict)

    def largest(self, value: ir.Value) -> Array:
        """The bound of |n| of every element."""
        size = np.maximum(np.abs(self.low[value]), np.abs(self.high[value]))
        bound: Array = size * np.exp2(self.fraction[value])
        return bound


def fraction_bits(array: Array) -> Array:
    """[M, K] -> [M]: the least k for which all numbers of a row are multiples of 2^-k."""
    rows = array.astype(np.float64)
    bits = np.full(len(rows), MOST_BITS)
    for k in range(MOST_BITS, LEAST_BITS - 1, -1):
        scaled = rows * 2.0**k
        bits[(scaled == np.rint(scaled)).all(1)] = k
    return bits


def by_output(node: ir.Node, w: Array) -> Array:
    """Weights as [output channels, inputs each sums over]; MatMul and Mul: one row of all."""
    if node.op_type in ("Conv", "Gemm"):
        return w.reshape(len(w), -1)
    if node.op_type == "ConvTranspose":
        groups = attribute(node, "group", 1)
        parts = w.reshape(groups, len(w) // groups, w.shape[1], -1)
        return parts.swapaxes(1, 2).reshape(groups * w.shape[1], -1)
    return w.reshape(1, -1)


def bias_of(node: ir.Node) -> Array | None:
    """The bias of a synapse, float64, or None."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return None if bias is None else bias.astype(np.float64)


def amplitude(image: ir.Value) -> float:
    """The bound of |image| that the network itself enforces by a Clip; infinite without one."""
    clips = [use.node for use in image.uses() if is_op(use.node, "Clip")]
    return float(weights(clips[0].inputs[2])) if clips else float("inf")


def payload_bits(found: Integers, value: ir.Value) -> int:
    """Bits of the largest integer that a value may be, with a sign if it may be negative."""
    unit = np.exp2(found.fraction[value])
    low, high = float((found.low[value] * unit).min()), float((found.high[value] * unit).max())
    return int(max(high, -low)).bit_length() + (low < 0)


def measure(
    nodes: Iterable[ir.Node], amplitude: float, timesteps: int, *, bounds_only: bool = False
) -> Integers:
    """Read a network as integers.

    nodes: all of them, static ones too, in order. amplitude: |image| never exceeds it.
    bounds_only: every fraction is 0, so bounds are in units of thresholds.

    Raises:
        NoInteger: a node is nothing for integers.
    """
    found, static = Integers(), set[ir.Value]()
    for node in nodes:
        output, inputs = node.outputs[0], data_inputs(node)
        for value in inputs:
            if value not in found.low:  # the image
                static.add(value)
                full = np.full(shape(value), float(amplitude))
                found.low[value], found.high[value] = -full, full
                found.fraction[value] = np.zeros(shape(value), np.int64)
        if all(value in static for value in inputs) and not is_op(node, "Encode"):
            static.add(output)
        _bound(node, found)
        if node.op_type != "Readout":
            whole = output in static or bounds_only
            zeros = np.zeros(shape(output), np.int64)
            found.fraction[output] = zeros if whole else _fraction(node, found)
        if node.op_type in ("IF", "Readout"):
            _membrane(node, found, timesteps, bounds_only)
    return found


def _fraction(node: ir.Node, found: Integers) -> Array:
    output, inputs = node.outputs[0], data_inputs(node)
    arriving = [found.fraction[v] for v in inputs]
    more: Array | int
    if node.op_type == "Encode":
        more = rounded_bits(node)
    elif node.op_type == "IF":
        more = 0
    elif node.op_type in MOVEMENT:
        more = move(node, [a[None] for a in arriving])[0]
    elif node.op_type in WEIGHTED:
        more = _synapse(node, found)
    elif node.op_type == "Add" and len(inputs) == 2:
        more = np.maximum(*arriving)
    elif node.op_type == "Add":
        level = weights(node.inputs[weight_index(node)])
        more = np.maximum(arriving[0], max(int(fraction_bits(level.reshape(1, -1))[0]), 0))
    elif node.op_type in ("MLIPool", "TwinSynapse") and not arriving[0].any():
        more = 0
    else:
        raise without_rule(node)
    full: Array = np.zeros(shape(output), np.int64) + more
    return full


def without_rule(node: ir.Node) -> NoInteger:
    """The refusal of a node that computes no integers."""
    return NoInteger(
        node,
        "the integer target has no rule for it: a slope, a layer that takes turns, or a pool of "
        "what is no spike count",
        "compile for --target ideal, with another recipe, or retrain with Relu",
    )


def rounded_bits(node: ir.Node) -> int:
    """How many fractional bits a constant current was rounded to in the graph itself."""
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    inner = producer.inputs[0].producer() if producer and producer.inputs[0] else None
    if producer is None or not is_op(producer, "Mul") or not is_op(inner, "Round"):
        raise NoInteger(node, "its current is not rounded", "compile it with --target loihi2")
    return int(-np.log2(float(weights(producer.inputs[1]))))


def _synapse(node: ir.Node, found: Integers) -> Array:
    """The fraction of a synapse's output, [C, 1, ...] or [1]; notes that of its weights."""
    w = weights(node.inputs[weight_index(node)]).astype(np.float64)
    arriving = found.fraction[data_inputs(node)[0]]
    if (arriving != arriving.flat[0]).any():
        raise NoInteger(
            node,
            "it reads a current whose channels have different units",
            "put a Relu between the two synapses, or compile for --target ideal",
        )
    p = mantissa_bits(node, w)
    found.mantissa[node] = p
    bits = p + arriving.flat[0]
    bias = bias_of(node)
    finer = 0 if bias is None else (fraction_bits(bias.reshape(-1, 1)) - bits).max()
    bits = np.maximum(bits + max(finer, 0), 0)
    if len(p) > 1:
        bits = bits.reshape(-1, *[1] * (len(shape(node.outputs[0])) - 1))
    result: Array = bits
    return result


def mantissa_bits(node: ir.Node, w: Array) -> Array:
    """The p for which the weights of an output channel are integers times 2^-p: as noted, or least.

    Raises:
        NoInteger: the note is wrong.
    """
    rows = by_output(node, w)
    least = fraction_bits(rows)
    noted = json.loads(node.metadata_props.get(FRACTION, "null"))
    if noted is None:
        return np.maximum(least, 0)
    if len(noted) != len(rows) or (np.array(noted) < least).any():
        raise NoInteger(node, "its weights are no integers of the unit noted", "compile it again")
    return np.array(noted, np.int64)


def _bound(node: ir.Node, found: Integers) -> None:
    output, inputs = node.outputs[0], data_inputs(node)
    lows, highs = [found.low[v] for v in inputs], [found.high[v] for v in inputs]
    if node.op_type == "Readout":
        return
    low, high = lows[0].min(), highs[0].max()
    match node.op_type:
        case "IF":
            low, high = -attribute(node, "gamma_neg"), attribute(node, "gamma")
        case "TwinSynapse":
            low = -max(attribute(node, "gamma"), -low)
        case "Clip":
            least, most = (float(weights(v)) for v in node.inputs[1:3])
            low, high = np.maximum(lows[0], least), np.minimum(highs[0], most)
        case "Add" if len(inputs) == 2:
            low, high = lows[0] + lows[1], highs[0] + highs[1]
        case "Add":
            level = weights(node.inputs[weight_index(node)]).astype(np.float64)
            level = level.reshape((1,) * (lows[0].ndim + 1 - level.ndim) + level.shape)[0]
            low, high = lows[0] + level, highs[0] + level
        case "Round":
            low, high = np.floor(lows[0]), np.ceil(highs[0])
        case "Encode":
            low, high = lows[0], highs[0]
        case op if op in MOVEMENT:
            low, high = (move(node, [a[None] for a in side])[0] for side in (lows, highs))
        case op if op in WEIGHTED:
            low, high = _weighted(node, lows[0], highs[0])
    found.low[output] = np.broadcast_to(low, shape(output)).astype(np.float64)
    found.high[output] = np.broadcast_to(high, shape(output)).astype(np.float64)


def _weighted(node: ir.Node, low: Array, high: Array) -> tuple[Array, Array]:
    """The interval of a synapse's output; inputs of a channel share the widest of theirs."""
    w = weights(node.inputs[weight_index(node)]).astype(np.float64)
    if node.op_type == "Mul":
        w = w.reshape((1,) * (low.ndim + 1 - w.ndim) + w.shape)[0]
        return np.minimum(w * low, w * high), np.maximum(w * low, w * high)
    ends = []
    plus, minus = np.maximum(w, 0), np.minimum(w, 0)
    if node.op_type == "MatMul":
        for one, other in ((low, high), (high, low)):
            left = constant(node.inputs[0]) is not None
            ends.append(plus @ one + minus @ other if left else one @ plus + other @ minus)
        return ends[0], ends[1]
    # A kernel meets zeros outside the image, so zero is always within the interval.
    least = np.minimum(low.reshape(len(low), -1).min(1), 0)
    most = np.maximum(high.reshape(len(high), -1).max(1), 0)
    bias = bias_of(node)
    groups = attribute(node, "group", 1)
    for one, other in ((least, most), (most, least)):
        if node.op_type == "ConvTranspose":
            parts = (
                p.reshape(groups, len(w) // groups, w.shape[1], -1).sum(3) for p in (plus, minus)
            )
            up, down = parts
            total = np.einsum("gcm,gc->gm", up, one.reshape(groups, -1))
            total = total + np.einsum("gcm,gc->gm", down, other.reshape(groups, -1))
        else:
            size = (groups, -1, w.shape[1], w[0, 0].size)
            up, down = (p.reshape(size).sum(3) for p in (plus, minus))
            total = np.einsum("gmc,gc->gm", up, one.reshape(groups, -1))
            total = total + np.einsum("gmc,gc->gm", down, other.reshape(groups, -1))
        total = total.reshape(-1) + (0 if bias is None else bias)
        ends.append(total.reshape(-1, *[1] * (len(shape(node.outputs[0])) - 1)))
    return ends[0], ends[1]


def _membrane(node: ir.Node, found: Integers, timesteps: int, bounds_only: bool) -> None:
    x = data_inputs(node)[0]
    low, high, fraction = found.low[x], found.high[x], found.fraction[x]
    if node.op_type == "Readout":
        found.exponent[node] = fraction
        size = timesteps * np.maximum(np.abs(low), np.abs(high))
    else:
        v = weights(node.inputs[2]).astype(np.float64)
        v = v.reshape(v.shape + (1,) * (low.ndim - v.ndim))
        bits = 0 if bounds_only else max(int(fraction_bits(v.reshape(1, -1))[0]), 0)
        spread = (slice(None), *[None] * (low.ndim - 1))
        widest = np.maximum(fraction.reshape(len(fraction), -1).max(1), bits)
        found.exponent[node] = widest[spread]
        kept = np.maximum(0, high - attribute(node, "gamma")) * (timesteps - 1)
        top = np.maximum(1, v) + np.maximum(high, 0) + kept
        size = np.maximum(top, -(np.minimum(0, v) + timesteps * np.minimum(low, 0)))
    found.membrane[node] = size * np.exp2(found.exponent[node])
