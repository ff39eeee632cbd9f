"""The integers of a quantised network: what a chip would hold, and what fixed_pt models compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from backends.base import Network
from backends.lava.spiking import dynamics
from backends.lava.spiking.dynamics import Node
from snncompiler.diagnostics import refuse
from snncompiler.graph import WEIGHTED, Array, data_inputs, shape, weight_index, weights
from snncompiler.integers import Integers, NoInteger, amplitude, bias_of, measure
from snncompiler.record import timesteps_of


def integers(network: Network) -> Integers:
    """The integers of a network, with their bounds over the T it was compiled for.

    Raises:
        InputError: it was not compiled for integers.
    """
    nodes = (*network.static, *network.steps, *(o.node for o in network.outputs))
    try:
        # The notes come from a file that somebody may have changed.
        return measure(nodes, amplitude(network.image), timesteps_of(network.record))
    except NoInteger as problem:
        raise refuse(
            f"'{problem.node.name}' cannot be read as integers", problem.why, problem.do
        ) from None
    except (TypeError, ValueError) as error:
        raise refuse(
            "the integers of the network are damaged", str(error), "compile it again"
        ) from None


def to_integers(planned: dynamics.Network, network: Network) -> dynamics.Network:
    """The plan with integers in the place of floats; the static part stays."""
    found = integers(network)
    arrays = dict(planned.arrays)
    nodes = {str(n.name): n for n in (*network.steps, *(o.node for o in network.outputs))}
    steps = tuple(_convert(node, nodes[node.name], found, arrays) for node in planned.steps)
    return replace(planned, arithmetic="int32", steps=steps, arrays=arrays)


def _convert(node: Node, source: ir.Node, found: Integers, arrays: dict[str, Array]) -> Node:
    name, inputs = node.name, data_inputs(source)
    if node.op == "Readout":
        arrays[f"{name}:exponent"] = found.exponent[source].astype(np.int32)
        return node
    fraction = found.fraction[source.outputs[0]]
    if node.op == "Encode":
        arrays[f"{name}:exponent"] = fraction.astype(np.int32).reshape(-1)[:1]
        return replace(node, arguments=(*node.arguments, f"{name}:exponent"))
    if node.op in WEIGHTED:
        _weigh(node, source, found, arrays)
    elif node.op == "Add":
        shifts: list[Array] = []
        for position, argument in enumerate(node.arguments):
            if argument in arrays:
                level = arrays[argument].astype(np.float64) * np.exp2(fraction)
                arrays[argument] = level.astype(np.int32)
                shifts.append(np.zeros(1, np.int32))
            else:
                given = found.fraction[inputs[min(position, len(inputs) - 1)]]
                shifts.append(_compressed(fraction - given))
        if any(s.any() for s in shifts):
            names = tuple(f"{name}:shift{i}" for i in range(2))
            arrays.update(zip(names, shifts, strict=True))
            return replace(node, arguments=(*node.arguments, *names))
    elif node.op == "IF":
        return _neuron(node, source, found, arrays)
    return node


def _weigh(node: Node, source: ir.Node, found: Integers, arrays: dict[str, Array]) -> None:
    """weight: int8 mantissas; shift: the exponent of the layer; bias: in the unit of the output."""
    w = weights(source.inputs[weight_index(source)]).astype(np.float64)
    output = source.outputs[0]
    fraction, p = found.fraction[output], found.mantissa[source]
    one = fraction.reshape(len(fraction), -1)[:, 0]
    if len(p) == 1 or node.op in ("Mul", "MatMul", "ConvTranspose"):
        # ConvTranspose has its output channels on axis 1; its weights share one unit.
        p, one = p[:1], one[:1]
    spread = (-1, *[1] * (w.ndim - 1))
    given = int(found.fraction[data_inputs(source)[0]].flat[0])
    mantissa = np.rint(w * np.exp2(p).reshape(spread))
    arrays[f"{node.name}:weight"] = mantissa.astype(np.int8)
    shift = (one - p - given).reshape(spread)
    arrays[f"{node.name}:shift"] = np.array(shift.max()) if _same(shift) else shift
    bias = bias_of(source)
    if bias is not None:
        one = fraction.reshape(len(fraction), -1)[:, 0]
        arrays[f"{node.name}:bias"] = np.rint(bias * np.exp2(one)).astype(np.int32)


def _same(array: Array) -> bool:
    return bool((array == array.flat[0]).all())


def _neuron(node: Node, source: ir.Node, found: Integers, arrays: dict[str, Array]) -> Node:
    name, exponent = node.name, found.exponent[source]
    v = weights(source.inputs[2]).astype(np.float64)
    v = v.reshape(v.shape + (1,) * (len(shape(source.outputs[0])) - v.ndim))
    del arrays[f"{name}:theta"]
    arrays[f"{name}:exponent"] = _compressed(exponent)
    arrays[f"{name}:v_init"] = np.rint(v * np.exp2(exponent)).astype(np.int32)
    arguments: tuple[str, ...] = (node.arguments[0], f"{name}:exponent", f"{name}:v_init")
    shift = exponent - found.fraction[data_inputs(source)[0]]
    if shift.any():
        arrays[f"{name}:shift"] = _compressed(shift)
        arguments = (*arguments, f"{name}:shift")
    return replace(node, arguments=arguments)


def _compressed(bits: Array) -> Array:
    """One number if all are equal, else one per channel if that will do."""
    bits = bits.astype(np.int32)
    if _same(bits):
        return bits.reshape(-1)[:1]
    first = bits.reshape(len(bits), -1)[:, :1]
    if (bits.reshape(len(bits), -1) == first).all():
        return first.reshape(-1, *[1] * (bits.ndim - 1))
    return bits
