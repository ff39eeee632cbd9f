"""When values arrive on a pipelined machine, where every synapse takes one time step.

A neuron's spikes of one step reach the next population in the step after. A value is as many steps
late as there are synapses between it and the encoder (its *hop*); where branches meet, the shorter
one must be held back. Every state starts anew `hop` steps late, so samples follow one another
without a gap, and what arrives is, step by step, what a machine without latency computes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from snncompiler.graph import WEIGHTED, data_inputs

#: Node metadata: JSON, {"hop": steps late, "waits": steps to hold back each input}.
SCHEDULE = "snn.schedule"


@dataclass(frozen=True)
class Latency:
    """hop: by how many steps a node's output is late. waits: steps to hold back each input."""

    hop: int
    waits: tuple[int, ...]


def latencies(nodes: Iterable[ir.Node]) -> dict[ir.Node, Latency]:
    """The latency of every node that is computed at every step, in topological order."""
    hops: dict[ir.Value, int] = {}
    result: dict[ir.Node, Latency] = {}
    for node in nodes:
        arriving = [hops.get(value, 0) for value in data_inputs(node)]
        latest = max(arriving, default=0)
        hop = latest + (node.op_type in WEIGHTED)
        hops[node.outputs[0]] = hop
        result[node] = Latency(hop, tuple(latest - a for a in arriving))
    return result
