"""What a network would take of Loihi 2: neurons, synapses, memory, cores. An estimate.

    cores of a layer >= max(neurons / neurons per core, bytes of weights / bytes per core)

Weights of a convolution are counted once, though a core that holds another part of the image needs
its own copy; membranes, axons and routing are not counted. The real mapper is not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx_ir as ir

from backends.base import Network, take_apart
from backends.lava.fixed import integers
from snncompiler.graph import (
    MOVEMENT,
    WEIGHTED,
    data_inputs,
    read_by_synapses,
    shape,
    weight_index,
    weights,
)
from snncompiler.integers import Integers, by_output, payload_bits
from snncompiler.metrics import connections, fan_out
from snncompiler.targets import (
    CORE_BYTES,
    CORES_PER_CHIP,
    FAN_IN_AXONS,
    NEURONS_PER_CORE,
    SYSTEMS,
)

#: What an op asks of a core that the stock neuron of the chip does not do.
_NEEDS = {
    "IF": "soft reset and, for bursts, several spikes per step: a programmable neuron",
    "LeakyIF": "a slope for negative sums: a programmable neuron with a product",
    "MLIPool": "maxima of counts: programmable neurons, as a tree of max(a, b) = a + relu(b - a)",
    "TwinSynapse": "a monitor of spike intervals: a programmable neuron",
}


@dataclass(frozen=True)
class Row:
    """One population: neurons; a relay, which a synapse after a synapse needs; a pool; outputs.

    synapses: connections, weights shared or not. weight_bytes: of 8-bit weights. payload_bits: of
    what it sends, None if it sends nothing or is not quantised.
    """

    layer: str
    op: str
    neurons: int
    synapses: int
    weight_bytes: int
    fan_in: int
    fan_out: int
    payload_bits: int | None
    cores: int


@dataclass
class Fit:
    """The whole report; refusals: why it does not run as it is."""

    rows: list[Row]
    cores: int
    system: str
    refusals: list[str] = field(default_factory=list)
    needs: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The JSON twin."""
        return asdict(self)


def fit(model: ir.Model) -> Fit:
    """Estimate what a compiled network takes of Loihi 2."""
    network = take_apart(model)
    quantised = network.record.get("target", "ideal") != "ideal"
    found = integers(network) if quantised else None
    rows = [_row(node, found) for node in _populations(network)]
    cores = sum(row.cores for row in rows)
    chips = -(-cores // CORES_PER_CHIP[0])
    system = next((s.name for s in SYSTEMS if s.chips >= chips), "none")
    refusals = [] if quantised else ["its weights are floats: compile it with --target loihi2"]
    refusals += [
        f"{row.layer}: {row.fan_in} inputs per neuron, more than {FAN_IN_AXONS[0]} axons"
        for row in rows
        if row.fan_in > FAN_IN_AXONS[0]
    ]
    if system == "none":
        refusals.append(f"{chips} chips are more than the largest system has")
    ops = dict.fromkeys(row.op for row in rows if row.op in _NEEDS)
    limits = {
        "neurons per core": NEURONS_PER_CORE,
        "bytes per core": CORE_BYTES,
        "cores per chip": CORES_PER_CHIP,
        "input axons per core": FAN_IN_AXONS,
    }
    constants = {
        name: f"{value:,} (estimate; {source})" for name, (value, source) in limits.items()
    }
    constants |= {s.name: f"{s.chips:,} chips (estimate; {s.source})" for s in SYSTEMS}
    return Fit(rows, cores, system, refusals, {op: _NEEDS[op] for op in ops}, constants)


def _populations(network: Network) -> Iterator[ir.Node]:
    read = read_by_synapses(network.steps)
    for node in network.steps:
        relay = node.op_type in WEIGHTED and node.outputs[0] in read
        if node.op_type in _NEEDS or relay:
            yield node
    yield from (output.node for output in network.outputs)


def _row(node: ir.Node, found: Integers | None) -> Row:
    value = data_inputs(node)[0] if node.op_type == "Readout" else node.outputs[0]
    synapses = [node] if node.op_type in WEIGHTED else list(_synapses(data_inputs(node)[0]))
    arrays = [weights(s.inputs[weight_index(s)]) for s in synapses]
    size = int(sum(a.size for a in arrays))
    source = data_inputs(node)[0] if node.op_type == "MLIPool" else value
    neurons = int(np.prod(shape(source)))
    reached = 0
    for reader in _readers(node.outputs[0]):
        reached += int(fan_out(reader).max())
    bits = payload_bits(found, value) if found is not None and reached else None
    return Row(
        layer=str(node.name),
        op="relay" if node.op_type in WEIGHTED else node.op_type,
        neurons=neurons,
        synapses=sum(connections(s) for s in synapses),
        weight_bytes=size,
        fan_in=sum(
            by_output(s, a).shape[1] if s.op_type in ("Conv", "Gemm", "ConvTranspose") else 1
            for s, a in zip(synapses, arrays, strict=True)
        ),
        fan_out=reached,
        payload_bits=bits,
        cores=max(-(-neurons // NEURONS_PER_CORE[0]), -(-size // CORE_BYTES[0])),
    )


def _synapses(value: ir.Value) -> Iterator[ir.Node]:
    """The synapses whose currents meet in a value."""
    node = value.producer()
    if node is None:
        return
    if node.op_type in WEIGHTED:
        yield node
    elif node.op_type in ("Add", *MOVEMENT):
        for source in data_inputs(node):
            yield from _synapses(source)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """The synapses that read a value, pools and movements aside."""
    for use in value.uses():
        if use.node.op_type in WEIGHTED:
            yield use.node
        elif use.node.op_type in ("Add", *MOVEMENT):
            yield from _readers(use.node.outputs[0])


def fit_text(report: Fit) -> str:
    """The report as Markdown."""
    lines = [
        "## Fit on Loihi 2 (an estimate: Intel does not publish its mapper)",
        "",
        "| layer | op | neurons | synapses | weight bytes | fan-in | fan-out | payload | cores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        payload = "" if row.payload_bits is None else f"{row.payload_bits} bits"
        lines.append(
            f"| {row.layer.replace('|', '/')} | {row.op} | {row.neurons:,} | {row.synapses:,} "
            f"| {row.weight_bytes:,} | {row.fan_in} | {row.fan_out} | {payload} | {row.cores} |"
        )
    lines += ["", f"At least {report.cores} cores: {report.system}.", ""]
    lines += [f"- does not run as it is: {reason}" for reason in report.refusals]
    lines += [f"- {op} needs {need}" for op, need in report.needs.items()]
    lines += [f"- {name}: {value}" for name, value in report.constants.items()]
    return "\n".join(lines) + "\n"
