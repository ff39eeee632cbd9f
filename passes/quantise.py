"""From the fine grid to the integers of a chip: int8 weights, 24-bit membranes, proven.

A network on the dyadic grid computes with integers already, only that they are wide. Here every
output channel c of a synapse gets weights m 2^-p_c with |m| <= 127, its threshold, 1, becoming the
integer 2^p_c; biases get e more bits, e of the whole layer, and a mantissa of 13. So the network
stays what it was, floats with threshold 1 that every backend runs exactly, and is one of integers
at the same time (`snncompiler/integers.py`).

    p_c = floor(log2(127 / max |w_c|)), or fewer bits where the potential would leave 24

1. Bounds of all values tell how many fractional bits every potential has room for in T steps.
2. Weights are rounded for the least error of the layer's output on the calibration data, and
   biases make up for its mean; branches that meet in an Add agree on one difference of exponents.
3. Bounds are computed again from what came out: that is the proof. A layer that misses it, and
   spikes wider than the target carries, are refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.base import Context, infer_shapes, tidy
from passes.mantissas import LEAST, all_bits, least_bits, rooms, rows_of
from passes.patches import inputs_of
from passes.rounding import for_output, insert_rounding
from snncompiler.ann import run
from snncompiler.diagnostics import InputError
from snncompiler.graph import (
    WEIGHTED,
    Array,
    add_constant,
    data_inputs,
    is_op,
    read_by_synapses,
    timed_nodes,
    weight_index,
    weights,
)
from snncompiler.integers import (
    FRACTION,
    Integers,
    NoInteger,
    amplitude,
    bias_of,
    by_output,
    measure,
    payload_bits,
)
from snncompiler.rate import rate_model
from snncompiler.targets import TARGETS, Target

#: Bits that biases may be finer than weights, and constant currents than 1.
_FINER, _CURRENT = 6, 16
_SAMPLES = 64


@dataclass(frozen=True)
class Quantise:
    """Integers for a target.

    target: a name of `snncompiler.targets.TARGETS`; 'ideal' leaves the network as it is.
    calibrated: round weights for the error of outputs instead of to the nearest.
    """

    name: ClassVar[str] = "quantise"
    target: Literal["ideal", "loihi2", "graded"] = "ideal"
    calibrated: bool = True

    def run(self, model: ir.Model, context: Context) -> str:
        """Round, prove, and say how wide everything is; sets model.meta['target']."""
        target = TARGETS[self.target]
        if target is None:
            return "ideal target: weights stay as they are"
        if not model.meta.get("gridded"):
            raise _refusal(
                context, model.graph[0], "its arithmetic is not exact", "leave the pass 'grid' on"
            )
        try:
            _round_currents(model, context, target)
            _choose(model, context, target, self.calibrated)
            found = _measured(model, context)
            return _prove(model, found, target, context)
        except NoInteger as problem:
            raise _refusal(context, problem.node, problem.why, problem.do) from None


def _refusal(context: Context, node: ir.Node, why: str, do: str) -> InputError:
    context.refuse(node, why, do)
    return InputError(*context.refusals)


def _measured(model: ir.Model, context: Context, *, bounds_only: bool = False) -> Integers:
    bound = amplitude(model.graph.inputs[0])  # what the grid clips the image to
    return measure(model.graph, bound, context.timesteps, bounds_only=bounds_only)


def _round_currents(model: ir.Model, context: Context, target: Target) -> None:
    """Give constant currents the fractional bits that all they reach has room for."""
    room = rooms(model, _measured(model, context, bounds_only=True), target)
    for node in list(model.graph):
        if is_op(node, "Encode"):
            source = node.inputs[0]
            assert source is not None
            bits = min(int(room[node.outputs[0]].min()), _CURRENT)
            if bits < LEAST:
                why = f"its current leaves {target.membrane} bits"
                raise NoInteger(node, why, "compile for fewer --timesteps")
            insert_rounding(model.graph, source, [(node, 0)], bits)
    tidy(model)
    infer_shapes(model)


def _choose(model: ir.Model, context: Context, target: Target, calibrated: bool) -> None:
    """Replace weights, biases and initial potentials."""
    room = rooms(model, _measured(model, context, bounds_only=True), target)
    bits = all_bits(model, 2 ** (target.weight - 1) - 1, room)
    nodes = list(bits)
    short = next((n for n in nodes if (bits[n] < least_bits(n)).any()), None)
    if short is not None:
        raise NoInteger(
            short,
            f"its weights would keep less than {LEAST} bits for {context.timesteps} steps to fit "
            f"{target.membrane}-bit membranes",
            "compile for fewer --timesteps, or with fewer spikes per step (neurons.gamma)",
        )
    seen = _seen(model, context) if calibrated else {}
    summed = read_by_synapses(timed_nodes(model.graph))
    for done, node in enumerate(nodes):
        context.progress("rounding weights", done, len(nodes))
        output = node.outputs[0]
        # Bits of a bias between two synapses would cost the second one its own.
        least = room[output].reshape(len(room[output]), -1).min(1)
        finer = 0.0 if output in summed else float((least - bits[node]).min())
        _round(model.graph, node, bits[node], finer, target, seen.get(node))
    _round_potentials(model, context)


def _round_potentials(model: ir.Model, context: Context) -> None:
    """Initial potentials in the unit of their currents, in halves at least."""
    found = _measured(model, context)
    for node in model.graph:
        if node.op_type == "IF":
            v = weights(node.inputs[2]).astype(np.float64)
            fraction = found.fraction[data_inputs(node)[0]]
            bits = np.maximum(fraction.reshape(len(fraction), -1).min(1), 1)
            bits = bits[: len(v)].reshape(-1, *[1] * (v.ndim - 1)) if len(v) > 1 else bits.min()
            v = np.floor(v * np.exp2(bits) + 0.5) * np.exp2(-bits)
            node.replace_input_with(2, add_constant(model.graph, f"{node.name}_v_init_int", v))


def _seen(model: ir.Model, context: Context) -> dict[ir.Node, Array]:
    """What the trained network sends into each synapse, in the units of the spiking one."""
    twin = rate_model(model)
    names = {
        str(n.name): str(data_inputs(n)[0].name)
        for n in twin.graph
        if n.op_type in ("Conv", "Gemm")
    }
    values = run(twin, context.calibration[:_SAMPLES], list(dict.fromkeys(names.values())))
    image = str(twin.graph.inputs[0].name)
    values[image] = context.calibration[:_SAMPLES]
    return {n: values[names[str(n.name)]] for n in timed_nodes(model.graph) if str(n.name) in names}


def _round(
    graph: ir.Graph, node: ir.Node, bits: Array, finer: float, target: Target, x: Array | None
) -> None:
    index, most = weight_index(node), 2 ** (target.weight - 1) - 1
    w = weights(node.inputs[index]).astype(np.float64)
    rows = by_output(node, w)
    step = np.exp2(-bits)
    node.metadata_props[FRACTION] = json.dumps([int(b) for b in bits])
    mean_error = np.zeros(len(rows))
    if x is None or node.op_type not in ("Conv", "Gemm"):
        size = float(step.max()) if node.op_type == "ConvTranspose" else step[:, None]
        flat = w if node.op_type == "ConvTranspose" else rows
        new = np.clip(np.floor(flat / size + 0.5), -most, most) * size
    else:
        groups = inputs_of(node, x)
        new, count = np.empty_like(rows), len(rows) // len(groups)
        for g, seen in enumerate(groups):
            part = slice(g * count, (g + 1) * count)
            second = seen.T @ seen / len(seen)
            new[part] = for_output(rows[part], step[part], most, second)
            mean_error[part] = (rows[part] - new[part]) @ seen.mean(0)
    new = new.reshape(w.shape)
    node.replace_input_with(index, add_constant(graph, f"{node.name}_weight_int", new))
    bias = bias_of(node)
    if bias is not None:
        rounded = _bias(bias + mean_error, bits, finer, target)
        node.replace_input_with(2, add_constant(graph, f"{node.name}_bias_int", rounded))


def _bias(bias: Array, bits: Array, free: float, target: Target) -> Array:
    """A bias with up to `free` more bits than the weights, as many as its mantissa holds."""
    per_channel = np.broadcast_to(bits, bias.shape)
    mantissa = 2 ** (target.bias - 1) - 1
    for finer in range(int(np.clip(free, 0, _FINER)), -_FINER, -1):
        step = np.exp2(-(per_channel + finer))
        rounded: Array = np.floor(bias / step + 0.5)
        if np.abs(rounded).max(initial=0) <= mantissa:
            break
    result: Array = rounded * step
    return result


def _prove(model: ir.Model, found: Integers, target: Target, context: Context) -> str:
    """Check every width from the bounds; say the largest."""
    limit = 2.0 ** (target.membrane - 1) - 1
    widest = payload = 0.0
    for node in timed_nodes(model.graph):
        output = node.outputs[0]
        if node.op_type in WEIGHTED:
            mantissas = np.abs(rows_of(node) * np.exp2(found.mantissa[node])[:, None])
            if mantissas.max(initial=0) > 2 ** (target.weight - 1) - 1:
                raise NoInteger(
                    node, f"its weights exceed {target.weight} bits", "report this defect"
                )
        if node.op_type != "Readout" and float(found.largest(output).max()) > limit:
            raise NoInteger(node, _leaves(target, context), _SHORTER)
        if node in found.membrane:
            widest = max(widest, float(found.membrane[node].max()))
            if float(found.membrane[node].max()) > limit:
                raise NoInteger(node, _leaves(target, context), _SHORTER)
            if int(found.exponent[node].max()) > target.threshold - 2 + target.threshold_shift:
                raise NoInteger(node, "its threshold is too large", _SHORTER)
        if _sent(node):
            width = payload_bits(found, output)
            payload = max(payload, width)
            if width > target.payload:
                raise NoInteger(
                    node,
                    f"what it sends takes {width} bits, and the target carries {target.payload}",
                    "choose --target graded, or fewer spikes per step (neurons.gamma)",
                )
    model.meta["target"] = next(name for name, t in TARGETS.items() if t is target)
    return (
        f"proven for T = {context.timesteps}: potentials up to {np.log2(max(widest, 1)) + 1:.1f} "
        f"of {target.membrane} bits, spikes of {payload:g} bits, weights of {target.weight}"
    )


_SHORTER = "compile for fewer --timesteps, or with fewer spikes per step (neurons.gamma)"


def _leaves(target: Target, context: Context) -> str:
    return f"its potential may leave {target.membrane} bits within {context.timesteps} steps"


def _sent(node: ir.Node) -> bool:
    """Whether a synapse reads the value: only that travels between cores."""
    return any(use.node.op_type in WEIGHTED for use in node.outputs[0].uses())
