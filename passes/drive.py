"""What drives one population: its synapses, with what they receive at every step, in rows.

A population's current may be the sum of several synapses (residual joins) and of what is fixed
(identity shortcuts, branches that others read too). Rows are a sample at a place; a batch holds
all steps of some rows, as matrices, so that every kind of synapse is a product of matrices:

    I[t, r] = sum over synapses of W x[t, r] + b, plus the rest
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.patches import patches
from snncompiler.graph import Array, attribute, constant, data_inputs, shape, sole_user, weights


@dataclass
class Synapse:
    """A Conv or Gemm whose weights learn; weights as [groups, M / groups, K]."""

    node: ir.Node
    w: Array

    @property
    def shaped(self) -> Array:
        """The weights as the node has them."""
        return self.w.reshape(weights(self.node.inputs[1]).shape)


@dataclass
class Batch:
    """Some rows over all steps; what stands still has one step.

    inputs: per synapse [groups, T R, K]. rest: [T, R, M] or [M], what is added to their sum.
    """

    inputs: list[Array]
    rest: Array
    rows: int


@dataclass
class Drive:
    """The way from trainable synapses to a population.

    synapses: those that learn. between: the nodes behind them (Add, Encode), in order.
    whole: nothing else contributes to the current.
    """

    node: ir.Node
    sweep: Any
    synapses: list[Synapse] = field(default_factory=list)
    between: list[ir.Node] = field(default_factory=list)
    whole: bool = True

    def batch(self, samples: Array, places: Array) -> Batch:
        """Rows for samples [B] at places [B, P] of a channel; row b P + p."""
        inputs = []
        for synapse in self.synapses:
            x = self._of(synapse.node.inputs[0], samples)  # [T B, ...]
            times = len(x) // len(samples)
            count = int(np.prod(shape(synapse.node.outputs[0])[1:]))
            offsets = np.arange(times * len(samples)).reshape(times, len(samples), 1) * count
            seen = patches(synapse.node, x, (offsets + places).reshape(-1))
            groups = len(synapse.w)
            inputs.append(seen.reshape(len(seen), groups, -1).swapaxes(0, 1))
        biases = [weights(s.node.inputs[2]) for s in self.synapses]
        batch = Batch(inputs, np.sum(biases, 0) if self.whole else np.zeros(1), places.size)
        if not self.whole:
            y = self._of(self.node.inputs[0], samples)
            y = y.reshape(-1, len(samples), y.shape[1], int(np.prod(y.shape[2:])))
            picked = y[:, np.arange(len(samples))[:, None], :, places]  # [B, P, T, M]
            picked = picked.transpose(2, 0, 1, 3).reshape(len(y), places.size, -1)
            batch.rest = picked - self.current(batch, [s.w for s in self.synapses])
        return batch

    def current(self, batch: Batch, w: list[Array]) -> Array:
        """I of a batch under weights w, [T, R, M]; [1, R, M] if nothing of it changes in time."""
        total: Array = batch.rest.astype(np.float32)
        for x, matrix in zip(batch.inputs, w, strict=True):
            y = x @ matrix.swapaxes(1, 2)  # [groups, T R, M / groups]
            total = total + y.swapaxes(0, 1).reshape(-1, batch.rows, matrix.shape[0] * y.shape[2])
        return total

    def gradients(self, batch: Batch, by_current: Array, w: list[Array]) -> list[Array]:
        """dLoss/dW of every synapse from dLoss/dI [T, R, M]."""
        result = []
        for x, matrix in zip(batch.inputs, w, strict=True):
            still = x.shape[1] == batch.rows  # the same input at every step
            g = by_current.sum(0) if still else by_current
            g = g.reshape(-1, len(matrix), matrix.shape[1]).swapaxes(0, 1)
            result.append(g.swapaxes(1, 2) @ x)
        return result

    def refresh(self) -> None:
        """Compute the current again, after the synapses' constants have changed."""
        for synapse in self.synapses:
            self.sweep.values[synapse.node.outputs[0]] = self.sweep.respond(synapse.node)
        for node in self.between:
            self.sweep.values[node.outputs[0]] = self.sweep.respond(node)

    def _of(self, value: ir.Value | None, samples: Array) -> Array:
        """A value for some samples, rows t B + b (without time: b; predicted: its mean)."""
        a: Array = self.sweep.values[value]
        if value in self.sweep.untimed:
            return a[samples]
        if self.sweep.predicted:
            mean: Array = a[samples] / self.sweep.timesteps
            return mean
        a = a.reshape(self.sweep.timesteps, -1, *a.shape[1:])[:, samples]
        return a.reshape(-1, *a.shape[2:])


def drive_of(sweep: Any, node: ir.Node) -> Drive:
    """Find the trainable synapses behind a population, or readout."""
    drive = Drive(node, sweep)
    _follow(drive, node.inputs[0])
    drive.between.reverse()
    return drive


def _follow(drive: Drive, value: ir.Value | None) -> None:
    producer = None if value is None or sole_user(value) is None else value.producer()
    if producer is None:
        drive.whole = False
    elif producer.op_type in ("Add", "Encode"):
        drive.between.append(producer)
        drive.whole &= len(data_inputs(producer)) == len(producer.inputs) or producer.domain != ""
        for v in data_inputs(producer):
            _follow(drive, v)
    elif producer.op_type in ("Conv", "Gemm") and _learns(drive, producer):
        w = weights(producer.inputs[1]).astype(np.float32)
        groups = attribute(producer, "group", 1)
        drive.synapses.append(Synapse(producer, w.reshape(groups, len(w) // groups, -1)))
    else:
        drive.whole = False


def _learns(drive: Drive, node: ir.Node) -> bool:
    """Whether it has a bias, and its input is still at hand; averages have no bias."""
    if len(node.inputs) < 3 or constant(node.inputs[1]) is None:
        return False
    crops = min(attribute(node, "pads", [0])) < 0
    return not crops and node.inputs[0] in drive.sweep.values
