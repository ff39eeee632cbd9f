"""What a node of a compiled network computes, by the definitions of `numpy_ops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from backends import numpy_ops as ops
from backends.base import per_channel
from snncompiler.graph import MOVEMENT, Array, attribute, data_inputs, rank, weights
from snncompiler.movement import move
from snncompiler.ops import DOMAIN, SPIKING

#: Standard ops and what computes them from their inputs and the attributes named below.
_STANDARD: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Clip": ops.clip,
    "Conv": ops.conv,
    "ConvTranspose": ops.conv_transpose,
    "Gemm": ops.gemm,
    "MatMul": np.matmul,
    "MaxPool": ops.max_pool,
    "Mul": np.multiply,
    "Relu": ops.relu,
    "Round": np.rint,
}
_WINDOW = ("strides", "pads", "dilations")
_ATTRIBUTES = {
    "Conv": (*_WINDOW, "group"),
    "ConvTranspose": (*_WINDOW, "output_padding", "group"),
    "MaxPool": (*_WINDOW, "kernel_shape", "ceil_mode"),
    "IF": ("gamma", "gamma_neg", "delay"),
    "LeakyIF": ("gamma", "alpha", "delay"),
    "WindowedIF": ("gamma", "layer", "window"),
    "Delay": ("steps",),
    "MLIPool": (*_WINDOW, "kernel_shape", "ceil_mode"),
    "TwinSynapse": ("gamma", "allowance"),
}
_SPIKING = ("Encode", *SPIKING)

Values = dict[ir.Value | None, Array]
State = tuple[Array, ...]
States = dict[ir.Node, State]
Parameters = dict[str, Any]


def evaluate(node: ir.Node, values: Values, parameters: Parameters) -> Array:
    """What a standard op makes of its inputs."""
    if node.op_type in MOVEMENT:
        return move(node, [values[v] for v in data_inputs(node)])
    inputs = [None if v is None else values[v] for v in node.inputs]
    return _STANDARD[node.op_type](*inputs, **parameters)


def spike(
    node: ir.Node, current: Array, state: State, t: int, parameters: Parameters
) -> tuple[Array, State]:
    """What a spiking op sends at step t, in the units of its network, and its new state."""
    after: list[Array]
    match node.op_type:
        case "IF":
            sent, *after = ops.if_step(current, *state, t=t, **parameters)
        case "LeakyIF":
            sent, *after = ops.leaky_if_step(current, *state, t=t, **parameters)
        case "WindowedIF":
            sent, *after = ops.windowed_if_step(current, *state, t=t, **parameters)
        case "Delay":
            sent, *after = ops.delay_step(current, *state)
        case "MLIPool":
            sent, *after = ops.mli_pool_step(current, *state, **parameters)
        case "TwinSynapse":
            sent, *after = ops.twin_synapse_step(current, *state, t=t, **parameters)
        case _:  # Encode: the same current at every step
            sent, after = current, []
    return sent, tuple(after)


def potential(node: ir.Node, state: State, parameters: Parameters) -> Array:
    """The membrane potential of a neuron, after reset."""
    v = state[0]
    if node.op_type == "LeakyIF":
        v = ops.leaky(v, parameters["alpha"]) - parameters["theta"] * state[1]
    return v


def initial_state(node: ir.Node, current: Array) -> State:
    """The state of a spiking op before the first step, for currents of this shape."""
    zeros = np.zeros(current.shape)
    match node.op_type:
        case "IF" | "WindowedIF":  # potential and, where spikes may be taken back, count
            v = weights(node.inputs[2]).astype(np.float64)
            v = v.reshape(v.shape + (1,) * (current.ndim - 1 - v.ndim))
            potential = np.broadcast_to(v, current.shape)
            return (potential, zeros)[: 2 if node.op_type == "IF" else 1]
        case "LeakyIF":  # accumulated current and count
            return zeros, zeros
        case "Delay":  # what waits
            return (zeros,) * int(attribute(node, "steps"))
        case "MLIPool":  # accumulated input and its maximum
            return zeros, np.zeros(1)
        case "TwinSynapse":  # events, time of the last one, net count
            return zeros, zeros, zeros
    return ()


def parameters_of(node: ir.Node) -> Parameters:
    """The attributes of a node and, of a spiking one, its threshold, as its op takes them."""
    found = {name: attribute(node, name) for name in _ATTRIBUTES.get(node.op_type, ())}
    if node.domain == DOMAIN:
        for name in {"gamma", "gamma_neg", "alpha", "allowance"} & set(found):
            # A file holds them in single precision; a model not yet written must mean the same.
            number = np.asarray(found[name], np.float32).astype(np.float64)
            found[name] = (
                per_channel(number, rank(node.outputs[0])) if name == "alpha" else float(number)
            )
        if node.op_type not in ("Encode", "MLIPool", "Delay"):
            found["theta"] = per_channel(weights(node.inputs[1]), rank(node.outputs[0]))
    return found


def is_known(node: ir.Node) -> bool:
    """Whether there is a definition for the node, and its attributes are as they should be."""
    known = _SPIKING if node.domain == DOMAIN else MOVEMENT.union(_STANDARD)
    if node.domain not in ("", DOMAIN) or node.op_type not in known:
        return False
    if node.op_type == "Gemm":
        wanted = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
        return all(attribute(node, k, 0 if k == "transB" else v) == v for k, v in wanted.items())
    return all(attribute(node, k) is not None for k in _ATTRIBUTES.get(node.op_type, ()))
