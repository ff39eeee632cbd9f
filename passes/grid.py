"""Put weights on a dyadic grid, so that every backend computes the same spikes, provably.

A float32 sum of multiples of 2^-k is exact in any order as long as no partial sum exceeds 2^(24-k)
in absolute value. So: bound every value from what the neurons can send at most,

    |y_o| <= sum_i |W_oi| |x_i| + |b_o|  =: B_o          spikes: |x| <= gamma;  image: |x| <= A,

give output channel o the k_o = floor(24 - log2 B_o) fractional bits that the bound leaves, and
round its weights and bias to them (weights to k_o minus the bits that its inputs carry). The
image is clipped to [-A, A] (A: a power of two above the calibration data) and rounded, too. Then
currents are exact in float32 whatever the order of summation, membranes accumulate exactly in
float64, and thresholds are 1: no backend, thread count or batch size can flip a spike. Weights that
spikes meet at every step get no more than a dozen bits: simulators may then add them in 16 bits.

1. Backward, every value learns how many bits at most all that follows it can bear (`limit`).
   Synapses in a row without a neuron between them share their bits evenly; in the static part,
   where the current is the same at every step, it is rounded between them instead. Only if the
   bits do not suffice otherwise are the currents of the dynamic part rounded like that.
2. Forward, every synapse is rounded to its share; the bounds are computed again with the rounded
   weights and checked: that is the proof. A layer left with too few bits for its weights is
   named, and the network stays off the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context, infer_shapes, tidy
from passes.bounds import Bounds, exponent, has_bias, is_integer, measure, synapse_bits
from passes.rounding import insert_rounding
from snncompiler.graph import (
    WEIGHTED,
    Array,
    add_constant,
    attribute,
    data_inputs,
    row_blocks,
    sources,
    timed_nodes,
    weight_index,
    weights,
)
from snncompiler.ops import WITH_POTENTIAL

#: Every integer up to 2^24 is a float32.
MANTISSA = 24
#: Fractional bits of initial potentials, in thresholds: no more than weights have, which would
#: otherwise need more of them to be integers in the same unit.
_POTENTIAL = 10
#: Bits of the currents that are rounded between two synapses (None: only constant ones are), and
#: of the image, fewer where long sums leave none for the weights; the bits that bounds may fill:
#: rounding coarse weights can move a bound past a power of two, then one bit less is given away.
_ATTEMPTS = tuple(
    (currents, image, mantissa)
    for currents in (None, 13, 12, 11, 10, 9, 8)
    for image in (None, 8)
    for mantissa in (MANTISSA, MANTISSA - 1)
)
#: Synapses whose weights many neurons of a channel share.
_SHARED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Grid:
    """Dyadic rounding with a proof.

    enabled: False keeps full float32 weights; backends may then differ in single spikes.
    analog_bits: bits of the magnitude of the image, before and after the point together; and of
        other constant currents that are rounded between two synapses. No more than 8 where a sum
        over many inputs, as in a layer that sees the whole image, leaves too few for the weights.
    weight_bits: at most so many, the sign included, for the weights between neurons, with one
        exponent per output channel.
    least_bits: no weight tensor may change by more than 2^-least_bits, relative to its norm.
    """

    name: ClassVar[str] = "grid"
    enabled: bool = True
    analog_bits: int = 11
    weight_bits: int = 12
    least_bits: int = 5

    def run(self, model: ir.Model, context: Context) -> str:
        """Round, prove, and say what the rounding cost; sets model.meta['gridded']."""
        model.meta["gridded"] = False
        if not self.enabled:
            return "off: float32 weights, spikes may differ between backends"
        peak = float(np.abs(context.calibration).max(initial=1e-3))
        amplitude = 2.0 ** exponent(1.25 * peak)
        for currents, image_bits, mantissa in _ATTEMPTS:
            analog = min(self.analog_bits, image_bits or self.analog_bits)
            bounds = measure(model, amplitude, analog, mantissa, currents=currents)
            rounded = _round_weights(model, bounds, self.weight_bits)
            short = [
                f"'{'+'.join(sources(node))}'"
                for node, (_new, _bits, change) in rounded.items()
                if change > 2.0**-self.least_bits
            ]
            if short:
                continue
            _put(model, rounded, bounds)
            _round_potentials(model)
            proof = measure(model, amplitude, analog, mantissa, earlier=bounds, currents=currents)
            short = [f"'{v.name}'" for v, b in proof.bound.items() if not _fits(b, proof.bits[v])]
            if not short:
                break
        if short:
            context.warnings.append(
                f"no exact arithmetic: {', '.join(short)} would lose more than "
                f"{2.0**-self.least_bits:.1%} of its weights to rounding (too many synapses in a "
                "row without a neuron, or spikes too large); backends may differ in single spikes"
            )
            return f"not proven: {', '.join(short)}"
        image = model.graph.inputs[0]
        for node, fraction in bounds.rounded.items():
            value = data_inputs(node)[0]
            insert_rounding(model.graph, value, [(node, list(node.inputs).index(value))], fraction)
        input_bits = analog - exponent(amplitude)
        uses = [(use.node, use.idx) for use in image.uses()]
        insert_rounding(model.graph, image, uses, input_bits, amplitude)
        tidy(model)
        infer_shapes(model)
        model.meta["gridded"] = True
        bits = [int(b.min()) for _new, b, _change in rounded.values()]
        worst = max((change for _new, _bits, change in rounded.values()), default=0.0)
        spread = f"{min(bits)} to {max(bits)} fractional bits" if bits else "no synapses"
        rows = f", currents rounded to {currents} bits between synapses" if currents else ""
        return (
            f"proven exact{rows}: {spread}, input clipped to +-{amplitude:g} with {input_bits} "
            f"bits, largest relative change of a weight tensor {worst:.1e}"
        )


def _fits(bound: Array, bits: Array) -> bool:
    """Whether all multiples of 2^-bits up to the bound are float32 numbers."""
    return bool((np.log2(np.maximum(bound, 1e-30)) + bits <= MANTISSA).all())


def _to_grid(array: Array, bits: Array) -> Array:
    step = np.exp2(-np.asarray(bits, np.float64))
    rounded: Array = np.floor(array / step + 0.5) * step
    return rounded


def _bits_that_fit(node: ir.Node, w: Array, most: int) -> Array:
    """Fractional bits for which the weights of an output channel are integers of `most` bits."""
    axes = tuple(range(1, w.ndim))
    largest = np.maximum(w.max(axes, keepdims=True), -w.min(axes, keepdims=True)).astype(np.float64)
    if node.op_type == "ConvTranspose":
        groups = attribute(node, "group", 1)
        block = np.abs(w).reshape(groups, len(w) // groups, w.shape[1], -1).max((1, 3))
        largest = np.repeat(block, len(w) // groups, 0).reshape(*w.shape[:2], *[1] * (w.ndim - 2))
    bits: Array = np.floor(np.log2((2.0 ** (most - 1) - 1) / np.maximum(largest, 1e-30)))
    return bits


_Rounded = dict[ir.Node, tuple[Array, Array, float]]


def _round_weights(model: ir.Model, bounds: Bounds, most: int) -> _Rounded:
    """For every synapse: weights on the grid, their bits, the relative change of the tensor."""
    result: _Rounded = {}
    timed = set(timed_nodes(model.graph))
    for node in model.graph:
        if node.op_type in WEIGHTED and not is_integer(node):
            w, bits = synapse_bits(node, bounds)
            if node.op_type in _SHARED and node in timed:
                bits = np.minimum(bits, _bits_that_fit(node, w, most))
            result[node] = _rounded(w, bits)
    return result


def _rounded(w: Array, bits: Array) -> tuple[Array, Array, float]:
    """Weights on the grid (they fit float32), their bits, the relative change of the tensor."""
    every = np.broadcast_to(bits, w.shape)
    new, moved, size = np.empty(w.shape, np.float32), 0.0, 0.0
    for part in row_blocks(w):
        old = w[part].astype(np.float64)
        rounded = _to_grid(old, every[part])
        new[part] = rounded
        moved += float(np.square(rounded - old).sum())
        size += float(np.square(old).sum())
    return new, bits, float(np.sqrt(moved / max(size, 1e-60)))


def _put(model: ir.Model, rounded: _Rounded, bounds: Bounds) -> None:
    graph = model.graph
    for node in graph:
        index = weight_index(node)
        if node.op_type == "Add" and len(data_inputs(node)) == 1:
            c = weights(node.inputs[index]).astype(np.float64)
            new = _to_grid(c, bounds.bits[node.outputs[0]][None])
            node.replace_input_with(index, add_constant(graph, f"{node.name}_grid", new))
        if node in rounded:
            new = rounded[node][0]
            node.replace_input_with(index, add_constant(graph, f"{node.name}_weight_grid", new))
        if node.op_type in WEIGHTED and has_bias(node):
            b = weights(node.inputs[2]).astype(np.float64)
            bits: Array = bounds.bits[node.outputs[0]].reshape(-1)
            if node in rounded:  # no finer than what the weights add up to
                bits = np.minimum(bits, _product_bits(node, rounded[node][1], bounds))
            new = _to_grid(b, bits)
            node.replace_input_with(2, add_constant(graph, f"{node.name}_bias_grid", new))


def _product_bits(node: ir.Node, bits: Array, bounds: Bounds) -> Array:
    """Fractional bits of weights times what arrives, per output channel."""
    arriving = bounds.bits[data_inputs(node)[0]].max()
    if node in bounds.rounded:
        arriving = np.array(bounds.rounded[node])
    per_channel = bits
    if node.op_type == "ConvTranspose":
        groups = attribute(node, "group", 1)
        per_channel = bits[:: len(bits) // groups].reshape(-1)
    total: Array = per_channel.reshape(-1) + arriving
    return total


def _round_potentials(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type in WITH_POTENTIAL:
            v = _to_grid(weights(node.inputs[2]).astype(np.float64), np.array(_POTENTIAL))
            name = f"{node.name}_v_init_grid"
            node.replace_input_with(2, add_constant(model.graph, name, v))
