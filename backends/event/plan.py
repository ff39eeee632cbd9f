"""From a compiled network to stages: what is computed layer by layer, each over all steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from backends.base import Network
from backends.event import geometry
from backends.event.synapses import Connection, connection, identity
from snncompiler.graph import MOVEMENT, WEIGHTED, Array, constant, data_inputs, shape
from snncompiler.movement import index_map
from snncompiler.ops import NEURONS

#: With constant weights, their outputs add up to their output for the sum of the inputs.
_LINEAR = MOVEMENT | {"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Add"}


@dataclass(frozen=True)
class Current:
    """What flows into neurons: the sum of all these."""

    connections: tuple[Connection, ...] = ()
    dense: tuple[ir.Value, ...] = ()
    static: tuple[ir.Value, ...] = ()
    constants: tuple[Array, ...] = ()

    def __add__(self, other: Current) -> Current:
        return Current(
            self.connections + other.connections,
            self.dense + other.dense,
            self.static + other.static,
            self.constants + other.constants,
        )

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """What has to be there before."""
        return (*(c.source for c in self.connections), *self.dense)


@dataclass(frozen=True)
class Population:
    """Neurons and the current that flows into them."""

    node: ir.Node
    current: Current


@dataclass(frozen=True)
class Unit:
    """A spiking op on spikes: MLIPool, TwinSynapse or Delay."""

    node: ir.Node
    source: ir.Value


@dataclass(frozen=True)
class Moved:
    """Spikes in another order.

    places [size], in the order of [C, *space]: where in the concatenated roots; -1: nowhere.
    """

    node: ir.Node
    roots: tuple[ir.Value, ...]
    places: Array


@dataclass(frozen=True)
class Dense:
    """A node computed at every step as its definition reads, or as a sum of connections."""

    node: ir.Node
    current: Current | None = None


Stage = Population | Unit | Moved | Dense


@dataclass(frozen=True)
class Plan:
    """static: nodes computed once. stages: in order. tail: linear nodes right before the outputs.

    units: spiking values and what one spike carries, [C]. heard: what the tail and the outputs
    take in.
    """

    network: Network
    static: tuple[ir.Node, ...]
    stages: tuple[Stage, ...]
    tail: tuple[ir.Node, ...]
    units: dict[ir.Value, Array]
    heard: tuple[ir.Value, ...]


def make_plan(network: Network) -> Plan:
    """Order the work of a network."""
    outputs = [output.current for output in network.outputs]
    lasting = _lasting(network)
    timed = [node for node in network.steps if node.outputs[0] not in lasting]
    tail = _tail(timed)
    ends = {node.outputs[0] for node in tail}
    heard = [v for node in tail for v in data_inputs(node)] + outputs
    heard = [v for v in dict.fromkeys(heard) if v not in ends]
    units = _units(network, timed)
    needed = {*heard, *(layer.node.outputs[0] for layer in network.layers)}
    sight = _Sight(units, lasting, needed)
    stages: list[Stage] = []
    for node in reversed([node for node in timed if node not in tail]):
        value = node.outputs[0]
        if value not in needed:
            continue
        stage: Stage
        if node.op_type in NEURONS:
            stage = Population(node, sight.current(data_inputs(node)[0]))
            needed.update(stage.current.values)
        elif value in units and node.op_type in MOVEMENT:
            stage = Moved(node, *_moves(value))
            needed.update(stage.roots)
        elif value in units:
            stage = Unit(node, data_inputs(node)[0])
            needed.add(stage.source)
        else:
            summed = node.op_type in WEIGHTED and sight.parts(node).connections
            stage = Dense(node, sight.parts(node) if summed else None)
            needed.update(stage.current.values if stage.current else data_inputs(node))
        stages.append(stage)
    static = (*network.static, *(n for n in network.steps if n.outputs[0] in lasting))
    return Plan(network, static, tuple(stages[::-1]), tuple(tail), units, tuple(heard))


def _lasting(network: Network) -> set[ir.Value]:
    """Values of steps that are the same at every step."""
    same = {node.outputs[0] for node in network.static} | {network.image}
    found: set[ir.Value] = set()
    for node in network.steps:
        inputs = data_inputs(node)
        if node.op_type == "Encode" or (node.domain == "" and all(v in found for v in inputs)):
            found.add(node.outputs[0])
    return found - same


def _tail(timed: list[ir.Node]) -> list[ir.Node]:
    """The linear nodes behind which there are only outputs."""
    tail: list[ir.Node] = []
    for node in reversed(timed):
        linear = node.domain == "" and node.op_type in _LINEAR
        users = [use.node for use in node.outputs[0].uses()]
        if linear and all(user.op_type == "Readout" or user in tail for user in users):
            tail.insert(0, node)
    return tail


def _units(network: Network, timed: list[ir.Node]) -> dict[ir.Value, Array]:
    """The values that are whole spikes, and what one carries, per channel."""
    layers = {layer.node: layer.unit.reshape(-1) for layer in network.layers}
    units: dict[ir.Value, Array] = {}
    for node in timed:
        value, inputs = node.outputs[0], data_inputs(node)
        channels = (*shape(value), 1)[0]
        spikes_come = all(v in units for v in inputs)
        if node in layers and (spikes_come or node.op_type in NEURONS):
            units[value] = np.broadcast_to(layers[node], channels)
        elif node.domain == "" and node.op_type in MOVEMENT and spikes_come:
            sizes = [
                np.broadcast_to(units[v].reshape(-1, *[1] * (len(shape(v)) - 1)), shape(v))
                for v in inputs
            ]
            carried = np.append(np.concatenate([s.reshape(-1) for s in sizes]), np.nan)
            unit = carried[index_map(node)].reshape(channels, -1)
            first = np.nanmax(np.where(np.isnan(unit), -np.inf, unit), 1)
            first[np.isinf(first)] = 1.0
            if (np.isnan(unit) | (unit == first[:, None])).all():
                units[value] = first
    return units


def _moves(value: ir.Value) -> tuple[tuple[ir.Value, ...], Array]:
    """The values that this one only moves, and where each of its elements comes from."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in MOVEMENT:
        return (value,), np.arange(int(np.prod(shape(value))))
    roots: list[ir.Value] = []
    places, start = [], 0
    for v in data_inputs(node):
        found, inner = _moves(v)
        places.append(np.where(inner < 0, -1, inner + start))
        start += sum(int(np.prod(shape(root))) for root in found)
        roots += found
    return tuple(roots), np.append(np.concatenate(places), -1)[index_map(node).reshape(-1)]


@dataclass(frozen=True)
class _Sight:
    """What taking currents apart has to know; needed: values that somebody else reads, too."""

    units: dict[ir.Value, Array]
    lasting: set[ir.Value]
    needed: set[ir.Value]

    def current(self, value: ir.Value) -> Current:
        """Take apart what flows into a neuron, as far as nobody else reads the parts."""
        if value in self.lasting:
            return Current(static=(value,))
        if value in self.units:
            return Current(connections=(_scaled(identity(value), self.units[value]),))
        node = value.producer()
        assert node is not None
        shared = len(list(value.uses())) > 1 or value in self.needed
        return Current(dense=(value,)) if shared or node.domain else self.parts(node)

    def parts(self, node: ir.Node) -> Current:
        """What a node adds up; if it does not add up connections, its own output."""
        inputs = data_inputs(node)
        if node.op_type == "Add":
            given = (constant(v) for v in node.inputs)
            whole = Current(constants=tuple(a.astype(np.float64) for a in given if a is not None))
            for value in inputs:
                whole = whole + self.current(value)
            return whole
        found = connection(node) if inputs[0] in self.units else None
        if found is None:
            return Current(dense=(node.outputs[0],))
        return Current(connections=(_rooted(_scaled(found, self.units[inputs[0]]), node),))


def _scaled(found: Connection, unit: Array) -> Connection:
    """The connection for whole spikes that carry `unit` each, per channel."""
    if (unit == 1).all():
        return found
    if found.single:
        return replace(found, w=found.w * unit)
    parts = np.split(found.w, found.groups, 2)
    inputs = np.split(unit, found.groups)
    scaled = [w * u[:, None] for w, u in zip(parts, inputs, strict=True)]
    return replace(found, w=np.concatenate(scaled, 2))


def _rooted(found: Connection, node: ir.Node) -> Connection:
    """A full connection of moved spikes as one of the spikes themselves: its rows are moved."""
    if node.op_type != "Gemm":
        return found
    roots, places = _moves(found.source)
    if roots == (found.source,) or len(roots) > 1:
        return found
    (root,) = roots
    channels, *space = shape(root)
    positions = int(np.prod(space))
    w = np.zeros((channels * positions, found.w.shape[2]))
    np.add.at(w, places[places >= 0], found.w[0][places >= 0])
    rows = w.reshape(channels, positions, -1).transpose(1, 0, 2)
    return replace(found, source=root, windows=geometry.everything(positions), w=rows)
