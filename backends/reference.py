"""The NumPy backend: the network as its definition reads, one step after the other.

    the static part once; then at each step t = 1..T, node after node in the order of the graph:
    Encode hands its constant on, a standard op is computed afresh, a spiking op updates its state;
    at the end of the step every output accumulates its current

It is the reference that every other backend has to match, spike by spike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike

from backends import numpy_ops as ops
from backends.base import (
    READOUT,
    Network,
    Progress,
    Recorder,
    batches,
    per_channel,
    size,
    take_apart,
    unsupported,
)
from snncompiler.graph import MOVEMENT, Array, attribute, constant, data_inputs, rank, weights
from snncompiler.movement import move
from snncompiler.ops import DOMAIN, NEURONS, SPIKING
from snncompiler.trace import Observe, Trace, join

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
#: Bytes of values and states in one batch of samples; small batches stay in the caches.
_BATCH = 64 << 20

Values = dict[ir.Value | None, Array]
State = tuple[Array, ...]
Parameters = dict[str, Any]


class NumpyBackend:
    """Builds programs that compute currents in `dtype`.

    None: float32 on a network whose currents are exact in float32, else float64. Membranes,
    counts and accumulations are float64 always.
    """

    name = "numpy"

    def __init__(self, dtype: DTypeLike = None) -> None:
        self.dtype = None if dtype is None else np.dtype(dtype)

    def build(self, model: ir.Model) -> NumpyProgram:
        """Take the network apart; refuse, by name, what has no rule here."""
        network = take_apart(model)
        for node in (*network.static, *network.steps):
            known = _SPIKING if node.domain == DOMAIN else MOVEMENT.union(_STANDARD)
            if node.domain not in ("", DOMAIN) or node.op_type not in known or not _is_plain(node):
                raise unsupported(node, self.name)
        return NumpyProgram(network, self.dtype or (np.float32 if network.gridded else np.float64))


class NumpyProgram:
    """A network, its constants in the working type, the parameters of its nodes at hand."""

    def __init__(self, network: Network, dtype: DTypeLike) -> None:
        self.network, self.dtype = network, np.dtype(dtype)
        self.parameters = {n: parameters_of(n) for n in (*network.static, *network.steps)}
        self.constants: Values = {}
        for node in self.parameters:
            for value in node.inputs:
                array = constant(value)
                if array is not None:
                    self.constants[value] = array.astype(self.dtype)

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = READOUT,
        progress: Progress | None = None,
    ) -> Trace:
        """Show the samples x, float32 [N, ...], for `timesteps` steps, from the initial state."""
        self.network.check(x, timesteps)
        # A standard op leaves one value; a spiking op two states, and as much again in passing.
        per_sample = sum(size(n.outputs[0]) * (32 if n.domain else 8) for n in self.network.steps)
        traces = []
        for part in batches(len(x), per_sample, _BATCH):
            traces.append(self._run(x[part], timesteps, observe))
            if progress is not None:
                progress(part.stop * timesteps, len(x) * timesteps)
        return join(traces)

    def _run(self, x: Array, timesteps: int, observe: Observe) -> Trace:
        values: Values = {**self.constants, self.network.image: x.astype(self.dtype)}
        for node in self.network.static:
            values[node.outputs[0]] = evaluate(node, values, self.parameters[node])
        states: dict[ir.Node, State] = {}
        recorder = Recorder(timesteps, len(x), observe, self.dtype)
        for t in range(1, timesteps + 1):
            for node in self.network.steps:
                parameters = self.parameters[node]
                if node.domain == "":
                    values[node.outputs[0]] = evaluate(node, values, parameters)
                    continue
                current = values[node.inputs[0]]
                state = states.get(node) or initial_state(node, current)
                sent, states[node] = spike(node, current, state, t, parameters)
                values[node.outputs[0]] = sent.astype(self.dtype, copy=False)
            for output in self.network.outputs:
                recorder.read(output, values[output.current], t)
            for layer in self.network.layers:
                recorder.spikes(layer, values[layer.node.outputs[0]], t)
                if observe.membranes and layer.node.op_type in NEURONS:
                    v = potential(layer.node, states[layer.node], self.parameters[layer.node])
                    recorder.membrane(layer, v, t)
        return recorder.trace()


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


def _is_plain(node: ir.Node) -> bool:
    """Whether every attribute is as a compiled network has it."""
    if node.op_type == "Gemm":
        wanted = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
        return all(attribute(node, k, 0 if k == "transB" else v) == v for k, v in wanted.items())
    return all(attribute(node, k) is not None for k in _ATTRIBUTES.get(node.op_type, ()))
