"""Traces in, numbers out: accuracy over time, errors, operations. Exact, from counts.

Operations. A spike of a neuron costs one synaptic operation (SOP, an accumulate) for every synapse
it meets; n spikes in one step cost n, negative ones too. Synapses are counted at the pixel: one in
a corner meets fewer kernel positions. With one spike from every neuron the SOPs of a layer equal
its MACs. A synapse that follows another without a neuron between sees an analog current instead of
spikes and costs a MAC per connection and step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from snncompiler.graph import (
    KIND,
    MOVEMENT,
    WEIGHTED,
    Array,
    attribute,
    constant,
    data_inputs,
    shape,
    timed_nodes,
    weights,
)
from snncompiler.movement import move
from snncompiler.ops import SPIKING
from snncompiler.trace import Trace


def power_steps(timesteps: int) -> tuple[int, ...]:
    """1, 2, 4, ... and T itself."""
    powers = {2**i for i in range(timesteps.bit_length())}
    return tuple(sorted({t for t in powers if t <= timesteps} | {timesteps}))


def top1(output: Array) -> Array:
    """Index of the largest value of each sample, [N, ...] -> [N]."""
    result: Array = output.reshape(len(output), -1).argmax(1)
    return result


def accuracy_at(trace: Trace, y: NDArray[np.int64]) -> dict[str, float]:
    """Top-1 accuracy of the readout accumulated up to each kept step."""
    readout = next(iter(trace.readout.values()))
    return {str(t): float((top1(o) == y).mean()) for t, o in zip(trace.steps, readout, strict=True)}


def agreement_at(trace: Trace, ann: Array) -> dict[str, float]:
    """Share of samples whose top-1 equals the ANN's; nothing where an output is one number."""
    return accuracy_at(trace, top1(ann)) if ann[0].size > 1 else {}


def output_error_at(trace: Trace, ann: Mapping[str, Array]) -> dict[str, float]:
    """||o - a|| / ||a|| over all outputs and samples, a the ANN's raw outputs."""
    norm = np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in ann.values()))
    result = {}
    for i, t in enumerate(trace.steps):
        squared = sum(
            float(((trace.readout[k][i].astype(np.float64) - a) ** 2).sum()) for k, a in ann.items()
        )
        result[str(t)] = float(np.sqrt(squared) / norm) if norm else float(np.sqrt(squared))
    return result


def divergence(output: Array, ann: Array) -> float:
    """Mean KL(softmax(output) || softmax(ann)) over samples (and places), classes on axis 1."""
    r, o = (log_softmax(a.astype(np.float64)) for a in (output, ann))
    return float((np.exp(r) * (r - o)).sum(1).mean())


def log_softmax(a: Array) -> Array:
    """Logarithm of the softmax over axis 1, [N, K, ...]."""
    a = a - a.max(1, keepdims=True)
    result: Array = a - np.log(np.exp(a).sum(1, keepdims=True))
    return result


def fan_out(node: ir.Node) -> Array:
    """How many connections each element of a synapse's input has; broadcasts to its shape."""
    x, y = data_inputs(node)[0], node.outputs[0]
    if node.op_type == "Gemm":
        return np.array([shape(y)[0]])
    if node.op_type == "Mul":
        return np.array([np.prod(shape(y), dtype=np.int64) // np.prod(shape(x), dtype=np.int64)])
    if node.op_type == "MatMul":
        left = constant(node.inputs[0])
        return np.array([len(left) if left is not None else weights(node.inputs[1]).shape[1]])
    w, groups = weights(node.inputs[1]), attribute(node, "group", 1)
    transposed = node.op_type == "ConvTranspose"
    per_position = w.shape[1] if transposed else len(w) // groups
    result = np.array(per_position)
    for axis, (size, out) in enumerate(zip(shape(x)[1:], shape(y)[1:], strict=True)):
        reached = _connections(node, axis, size, out, transposed)
        result = result[..., None] * reached
    return result[None]


def _connections(node: ir.Node, axis: int, size: int, out: int, transposed: bool) -> Array:
    """Along one axis: how many outputs each input element reaches."""
    kernel, stride, dilation, pad = (
        attribute(node, k)[axis] for k in ("kernel_shape", "strides", "dilations", "pads")
    )
    taps = np.arange(kernel) * dilation - pad
    if transposed:
        reached = np.arange(size)[:, None] * stride + taps
        inside: Array = ((reached >= 0) & (reached < out)).sum(1)
        return inside
    reached = (np.arange(out)[:, None] * stride + taps).reshape(-1)
    reached = reached[(reached >= 0) & (reached < size)]
    return np.bincount(reached, minlength=size)


def connections(node: ir.Node) -> int:
    """Number of connections of a synapse: its MACs per sample and dense step."""
    dims = shape(data_inputs(node)[0])
    return int(np.broadcast_to(fan_out(node), dims).sum())


def macs(model: ir.Model) -> int:
    """MACs per sample of a network, all its synapses dense."""
    return sum(connections(n) for n in model.graph if n.op_type in WEIGHTED)


def synaptic_operations(
    model: ir.Model, counts: Mapping[str, NDArray[np.int64]], timesteps: int, samples: int
) -> dict[str, float]:
    """Operations per sample of every synapse behind the encoder, by node name.

    counts: spikes of each neuron by layer, summed over steps and samples (`Trace.counts`).
    """
    events: dict[ir.Value, Array] = {}
    result: dict[str, float] = {}
    timed = set(timed_nodes(model.graph))
    for node in model.graph:
        output, inputs = node.outputs[0], data_inputs(node)
        known = [events[v] for v in inputs if v in events]
        if node.op_type in SPIKING and output.metadata_props.get(KIND) == "spikes":
            events[output] = counts[str(node.name)]
        elif node.op_type in MOVEMENT and len(known) == len(inputs):
            events[output] = move(node, [e[None] for e in known])[0]
        elif node.op_type == "Add" and len(inputs) == 2 and len(known) == 2:
            events[output] = known[0] + known[1]
        elif node.op_type in WEIGHTED and node in timed:
            if known:
                spent = float((known[0] * fan_out(node)).sum())
            else:
                spent = float(connections(node)) * timesteps * samples
            result[str(node.name)] = spent / samples
    return result
