"""Stages without event kernels: nodes computed as their definition reads, at every step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from backends import definitions
from backends.event import kernels, memory
from backends.event.layers import arrange, bias, layout, summed
from backends.event.plan import Current, Dense
from backends.event.stages import Synapses
from backends.event.stretch import Stretch
from snncompiler.graph import Array, data_inputs, shape
from snncompiler.ops import DOMAIN


class Definition:
    """A standard op on all steps at once, or a spiking op on currents, step by step."""

    def __init__(self, dense: Dense, constants: definitions.Values) -> None:
        self.node, self.constants = dense.node, constants
        self.parameters = definitions.parameters_of(dense.node)

    def run(self, now: Stretch) -> None:
        """Compute the value as [B T, C, ...]."""
        values = dict(self.constants)
        values.update({v: now.values(v) for v in data_inputs(self.node)})
        if self.node.domain == DOMAIN:
            result = self._step_by_step(now, values[self.node.inputs[0]])
        else:
            result = definitions.evaluate(self.node, values, self.parameters)
        now.dense[self.node.outputs[0]] = np.asarray(result, now.dtype)

    def _step_by_step(self, now: Stretch, current: Array) -> Array:
        over = current.reshape(now.samples, now.steps, *current.shape[1:])
        state = now.states.get(self.node) or definitions.initial_state(self.node, over[:, 0])
        sent = []
        for i in range(now.steps):
            t = now.before + i + 1
            out, state = definitions.spike(self.node, over[:, i], state, t, self.parameters)
            sent.append(out)
        now.states[self.node] = state
        return np.stack(sent, 1).reshape(-1, *sent[0].shape[1:])


class Summed:
    """A linear op on spikes that somebody other than one neuron reads: its currents, by events."""

    def __init__(self, node: ir.Node, current: Current, most: dict[ir.Value, float]) -> None:
        self.value = node.outputs[0]
        self.bias = bias(current, self.value)
        self.sums = [Synapses(summed(full, single, [], most)) for full, single in arrange(current)]

    def run(self, now: Stretch) -> None:
        """Compute the value as [B T, C, ...]."""
        channels, positions = layout(self.value)
        dims = (now.samples, now.steps, positions, channels)
        out = memory.full(dims, self.bias, np.float64)
        for synapses in self.sums:
            synapses.call(
                kernels.sum_currents, now, (out,), synapses.unit, scratch=synapses.sum_scratch
            )
        folded = out.transpose(0, 1, 3, 2).reshape(-1, *shape(self.value))
        now.dense[self.value] = folded.astype(now.dtype)
