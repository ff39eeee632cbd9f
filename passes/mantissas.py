"""How many fractional bits the weights of a network of integers get, before they are rounded.

Every potential has room for so many as its bound leaves of 24 bits; a synapse wants so many that
its largest weight fills eight. Two synapses in a row share the room; two that meet in an Add have
one difference of exponents per layer; where a synapse sums over channels, they have one unit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.bounds import has_bias
from snncompiler.graph import (
    KIND,
    MOVEMENT,
    WEIGHTED,
    Array,
    data_inputs,
    is_op,
    read_by_synapses,
    shape,
    timed_nodes,
    weight_index,
    weights,
)
from snncompiler.integers import (
    LEAST_BITS,
    Integers,
    by_output,
    rounded_bits,
    without_rule,
)
from snncompiler.ops import NEURONS
from snncompiler.targets import Target

#: A largest weight of fewer bits than these is nothing: the network would be lost.
LEAST = 3


def rooms(model: ir.Model, found: Integers, target: Target) -> dict[ir.Value, Array]:
    """How many fractional bits a value may have for the potentials it feeds to fit."""
    most = 2.0 ** (target.membrane - 1) / 1.05
    room: dict[ir.Value, Array] = {}
    for node in reversed(timed_nodes(model.graph)):
        inputs, output = data_inputs(node), node.outputs[0]
        if node in found.membrane:
            limit = np.floor(np.log2(most / found.membrane[node]))
            limit = np.broadcast_to(limit, shape(inputs[0]))
        elif node.op_type == "Add" and output in room:
            limit = room[output]
        elif node.op_type in MOVEMENT and output in room:
            limit = np.full((1,) * len(shape(inputs[0])), room[output].min())
        elif node.op_type in WEIGHTED and output in room:
            # The later of two synapses in a row takes what it needs, but half of the mantissa bits
            # at most; both have (room + l + l') / 2 then, l the log of the largest weight.
            rows = rows_of(node)
            least, later = float(room[output].min()), _log(rows)
            source = inputs[0].producer()
            earlier = _log(rows_of(source)) if is_op(source, *WEIGHTED) and source else 0.0
            natural = float(_natural(node, 2.0 ** (target.weight - 1) - 1).max())
            share = max(least - natural, np.floor((least - earlier + later) / 2))
            limit = np.full((1,) * len(shape(inputs[0])), share)
        elif node.op_type in ("MLIPool", "TwinSynapse"):
            if any(_is_current(v) for v in inputs):
                raise without_rule(node)
            continue
        elif node.op_type in (*NEURONS, "Delay"):
            raise without_rule(node)
        else:
            continue
        for value in inputs:
            have = room.get(value)
            room[value] = limit if have is None else np.minimum(have, limit)
    return room


def _is_current(value: ir.Value) -> bool:
    return value.metadata_props.get(KIND) == "current"


def all_bits(model: ir.Model, most: int, room: dict[ir.Value, Array]) -> dict[ir.Node, Array]:
    """Fractional bits of the weights of every synapse, aligned where branches meet."""
    bits: dict[ir.Node, Array] = {}
    fraction: dict[ir.Value, float] = {}
    summed = read_by_synapses(timed_nodes(model.graph))
    for node in timed_nodes(model.graph):
        arriving = max((fraction.get(v, 0.0) for v in data_inputs(node)), default=0.0)
        if node.op_type in WEIGHTED:
            bits[node] = _bits(node, most, room[node.outputs[0]], arriving)
            if node.outputs[0] in summed:  # over channels, so they need one unit
                bits[node] = np.full_like(bits[node], bits[node].min())
            arriving += float(bits[node].max())
        elif node.op_type == "Add":
            _align(node, bits)
        elif node.op_type == "Encode":
            arriving = float(rounded_bits(node))
        elif node.op_type not in MOVEMENT:
            arriving = 0.0
        fraction[node.outputs[0]] = arriving
    return bits


def _bits(node: ir.Node, most: int, room: Array, arriving: float) -> Array:
    """Fractional bits of the weights, one number per output channel (or one in all).

    arriving: those of the input; room: those that the output may have.
    """
    natural = _natural(node, most)
    limit = room.reshape(len(room), -1).min(1)
    limit = np.full(1, limit.min()) if len(natural) == 1 else limit
    return np.minimum(natural, limit - arriving)


def rows_of(node: ir.Node) -> Array:
    """The weights of a synapse, one row per output channel (or one in all)."""
    return by_output(node, weights(node.inputs[weight_index(node)]).astype(np.float64))


def _log(rows: Array) -> float:
    return float(np.log2(max(float(np.abs(rows).max(initial=0)), 2.0**-30)))


def _natural(node: ir.Node, most: float) -> Array:
    """The fractional bits at which the largest weight of a channel fills its mantissa."""
    rows = rows_of(node)
    whole = (rows == np.rint(rows)).all() and np.abs(rows).max(initial=0) <= most
    if whole and not has_bias(node):
        return np.zeros(len(rows))  # they need no fraction
    top = np.maximum(np.abs(rows).max(1), 2.0**-30)
    natural: Array = np.clip(np.floor(np.log2(most / top)), LEAST_BITS, 20)
    return natural


def least_bits(node: ir.Node) -> Array:
    """The fewest fractional bits that leave the largest weight of a channel LEAST bits."""
    w = rows_of(node)
    if (w == np.rint(w)).all():
        return np.full(len(w), LEAST_BITS)
    top = np.abs(w).max(1)
    least: Array = np.where(top > 0, LEAST - np.log2(np.maximum(top, 2.0**-30)) - 1, LEAST_BITS)
    return np.minimum(least, 20)


def _align(node: ir.Node, bits: dict[ir.Node, Array]) -> None:
    """Let two synapses that meet in an Add differ by one exponent per layer, not per channel."""
    producers = [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
    if len(producers) != 2 or any(p not in bits for p in producers):
        return
    one, other = (bits[p] for p in producers)
    if len(one) != len(other):
        return
    apart = np.floor(np.median(one - other))
    bits[producers[1]] = np.minimum(other, one - apart)
    bits[producers[0]] = bits[producers[1]] + apart
