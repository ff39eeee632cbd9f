"""The NumPy backend: the network as its definition reads, one step after the other.

    the static part once; then at each step t = 1..T, node after node in the order of the graph:
    Encode hands its constant on, a standard op is computed afresh, a spiking op updates its state;
    at the end of the step every output accumulates its current

It is the reference that every other backend has to match, spike by spike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike

from backends.base import (
    READOUT,
    Network,
    Progress,
    Recorder,
    batches,
    size,
    take_apart,
    unsupported,
)
from backends.definitions import (
    States,
    Values,
    evaluate,
    initial_state,
    is_known,
    parameters_of,
    potential,
    spike,
)
from snncompiler.graph import Array, constant
from snncompiler.ops import NEURONS
from snncompiler.trace import Observe, Trace, join

#: Bytes of values and states in one batch of samples; small batches stay in the caches.
_BATCH = 64 << 20


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
            if not is_known(node):
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
        recorder = Recorder(timesteps, len(x), observe, self.dtype)
        for t, values, states in self.steps(x, timesteps):
            for output in self.network.outputs:
                recorder.read(output, values[output.current], t)
            for layer in self.network.layers:
                recorder.spikes(layer, values[layer.node.outputs[0]], t)
                if observe.membranes and layer.node.op_type in NEURONS:
                    v = potential(layer.node, states[layer.node], self.parameters[layer.node])
                    recorder.membrane(layer, v, t)
        return recorder.trace()

    def still(self, x: Array) -> Values:
        """The constants and all that sees no time, for the samples x, float32 [N, ...]."""
        values: Values = {**self.constants, self.network.image: x.astype(self.dtype)}
        for node in self.network.static:
            values[node.outputs[0]] = evaluate(node, values, self.parameters[node])
        return values

    def steps(self, x: Array, timesteps: int) -> Iterator[tuple[int, Values, States]]:
        """After every step t: t, every value of the network, the states of its spiking ops.

        The two dictionaries are the same ones at every step.
        """
        values, states = self.still(x), States()
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
            yield t, values, states
