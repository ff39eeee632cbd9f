"""What a run costs in operations, counted from its events by NeuroBench's definitions.

Per sample, over all time steps (Yik et al., "The NeuroBench framework for benchmarking
neuromorphic computing algorithms and systems", 2025):

    dense             synaptic operations if nothing were zero
    effective ACs     non-zero weights met by non-zero inputs in {-1, 0, 1}: additions
    effective MACs    the same for all other inputs: the image, analog currents, bursts
    membrane updates  potentials that differ after a step from before it, and all in the first
    activation sparsity, connection sparsity: share of zeros among spikes sent, and among weights

Inputs are judged sample by sample and step by step, as NeuroBench does with one sample a batch.
Biases count nothing there. What sees no time (the first synapse: a constant current) is computed
once per sample and counted once. `synaptic_operations` is the count of the papers instead: every
spike costs one per synapse it meets, a burst of n costs n, zero weights included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from backends.base import size
from backends.definitions import States, Values, evaluate, potential
from backends.reference import NumpyBackend, NumpyProgram
from snncompiler.graph import (
    MOVEMENT,
    WEIGHTED,
    Array,
    attribute,
    constant,
    data_inputs,
    shape,
    weight_index,
    weights,
)
from snncompiler.metrics import connections, synaptic_operations
from snncompiler.ops import NEURONS, SPIKING

_BATCH = 16


@dataclass
class Synapse:
    """Operations of one synapse per sample; spiking: only spikes reach it, moved or added."""

    name: str
    op: str
    static: bool
    spiking: bool
    dense: float
    effective_macs: float
    effective_acs: float


@dataclass
class Operations:
    """Counts per sample over the whole run; see the module.

    footprint_bytes: all constants of the network. state_bytes: what its neurons, pools and twin
    synapses must remember, at 4 bytes a number. macs_once: dense MACs of what sees no time.
    """

    timesteps: int
    samples: int
    neurons: int
    footprint_bytes: int
    state_bytes: int
    connection_sparsity: float
    activation_sparsity: float
    dense: float
    effective_macs: float
    effective_acs: float
    membrane_updates: float
    spikes: float
    synaptic_operations: float
    analog_operations: float
    macs_once: float
    synapses: list[Synapse]

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


class Census:
    """Counts events; called after every step with the values and states of the program."""

    def __init__(self, program: NumpyProgram) -> None:
        self.program = program
        network = program.network
        self.synapses = [n for n in (*network.static, *network.steps) if is_synapse(n)]
        self.static = set(network.static)
        self.spiking = [n for n in network.steps if n.op_type in SPIKING]
        self.neurons = [n for n in network.steps if n.op_type in NEURONS]
        self.simple: dict[ir.Node, Array] = {}  # inputs in {-1, 0, 1}, by element
        self.other: dict[ir.Node, Array] = {}
        self.counts: dict[str, Array] = {}
        self.events = self.entries = self.updates = self.samples = self.steps = 0
        self._before: dict[ir.Node, Array] = {}

    def __call__(self, t: int, values: Values, states: States) -> None:
        """Count step t of a batch."""
        if t == 1:
            self.samples += len(values[self.program.network.image])
        self.steps = max(self.steps, t)
        for node in self.synapses:
            if t == 1 or node not in self.static:
                self._meet(node, values[data_inputs(node)[0]])
        units = {layer.node: layer.unit for layer in self.program.network.layers}
        for node in self.spiking:
            sent = values[node.outputs[0]]
            if node in units:
                total = np.rint(np.abs(sent).sum(0, dtype=np.float64)[None] / units[node])[0]
                name = str(node.name)
                self.counts[name] = self.counts.get(name, 0) + total.astype(np.int64)
        for node in self.neurons:
            sent = values[node.outputs[0]]
            self.events += int(np.count_nonzero(sent))
            self.entries += sent.size
            v = potential(node, states[node], self.program.parameters[node])
            changed = v.size if t == 1 else int(np.count_nonzero(v != self._before[node]))
            self.updates += changed
            self._before[node] = v

    def _meet(self, node: ir.Node, x: Array) -> None:
        active = x != 0
        simple = ((x == 1) | (x == -1) | ~active).reshape(len(x), -1).all(1)
        for kept, rows in ((self.simple, simple), (self.other, ~simple)):
            if node not in kept:
                kept[node] = np.zeros(x.shape[1:], np.int64)
            if rows.any():
                kept[node] += active[rows].sum(0)

    def total(self, model: ir.Model) -> Operations:
        """The counts of everything seen, per sample."""
        n, steps = self.samples, self.steps
        driven = spike_driven(model)
        listed = []
        for node in self.synapses:
            once = node in self.static
            listed.append(
                Synapse(
                    name=str(node.name),
                    op=node.op_type,
                    static=once,
                    spiking=node in driven,
                    dense=float(connections(node) * (1 if once else steps)),
                    effective_macs=self._effective(node, self.other[node]) / n,
                    effective_acs=self._effective(node, self.simple[node]) / n,
                )
            )
        spent = synaptic_operations(model, self.counts, steps, n)
        analog = sum(v for k, v in spent.items() if k in {s.name for s in listed if not s.spiking})
        zeros, stored = _zeros(self.synapses)
        constants = [v.const_value for v in model.graph.initializers.values()]
        return Operations(
            timesteps=steps,
            samples=n,
            neurons=sum(size(node.outputs[0]) for node in self.neurons),
            footprint_bytes=sum(c.nbytes for c in constants if c is not None),
            state_bytes=4 * sum(map(_state, self.spiking)),
            connection_sparsity=zeros / stored if stored else 0.0,
            activation_sparsity=1 - self.events / self.entries if self.entries else 0.0,
            dense=sum(s.dense for s in listed),
            effective_macs=sum(s.effective_macs for s in listed),
            effective_acs=sum(s.effective_acs for s in listed),
            membrane_updates=self.updates / n,
            spikes=sum(float(self.counts[str(node.name)].sum()) for node in self.neurons) / n,
            synaptic_operations=sum(spent.values()) - analog,
            analog_operations=analog,
            macs_once=sum(s.dense for s in listed if s.static),
            synapses=listed,
        )

    def _effective(self, node: ir.Node, events: Array) -> float:
        """Non-zero weights met by events, [C, ...] counts: the synapse itself, weights 0 or 1."""
        values: Values = {data_inputs(node)[0]: events[None].astype(np.float64)}
        for i, value in enumerate(node.inputs):
            array = constant(value)
            if array is not None:
                bias = i == 2 and node.op_type != "MatMul"
                values[value] = np.zeros(array.shape) if bias else (array != 0).astype(np.float64)
        met = evaluate(node, {None: np.zeros(0), **values}, self.program.parameters[node])
        return float(met.sum())


def count(model: ir.Model, x: Array, timesteps: int) -> Operations:
    """Run a compiled network on samples, float32 [N, ...], for T steps and count operations.

    Raises:
        InputError: the samples or T do not fit.
    """
    program = NumpyBackend().build(model)
    program.network.check(x, timesteps)
    census = Census(program)
    for start in range(0, len(x), _BATCH):
        for step in program.steps(x[start : start + _BATCH], timesteps):
            census(*step)
    return census.total(model)


def is_synapse(node: ir.Node) -> bool:
    """Whether a node multiplies by weights; one number for all (rounding the image) is none."""
    if node.domain or node.op_type not in WEIGHTED:
        return False
    if node.op_type != "Mul":
        return True
    return any(a.size > 1 for v in node.inputs if (a := constant(v)) is not None)


def spike_driven(model: ir.Model) -> set[ir.Node]:
    """The synapses that nothing but spikes reach, moved or added on their way."""
    spikes: set[ir.Value] = set()
    found: set[ir.Node] = set()
    for node in model.graph:
        inputs = data_inputs(node)
        known = bool(inputs) and all(v in spikes for v in inputs)
        pools = node.op_type in SPIKING and node.op_type not in NEURONS
        moved = node.op_type in MOVEMENT or (node.op_type == "Add" and len(inputs) == 2)
        if node.op_type in NEURONS or (known and (pools or moved)):
            spikes.add(node.outputs[0])
        elif known and node.op_type in WEIGHTED:
            found.add(node)
    return found


def _zeros(synapses: Sequence[ir.Node]) -> tuple[int, int]:
    zeros = stored = 0
    for node in synapses:
        w = weights(node.inputs[weight_index(node)])
        zeros, stored = zeros + int((w == 0).sum()), stored + w.size
    return zeros, stored


def _state(node: ir.Node) -> int:
    """Numbers that a spiking op remembers per sample (see its definition)."""
    out = int(np.prod(shape(node.outputs[0]), dtype=np.int64))
    if node.op_type == "IF":
        return out * (2 if attribute(node, "gamma_neg") else 1)
    if node.op_type == "MLIPool":
        return out + int(np.prod(shape(data_inputs(node)[0]), dtype=np.int64))
    return out * (3 if node.op_type == "TwinSynapse" else 2)
