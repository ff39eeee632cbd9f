"""Tell every node when its values arrive on a pipelined machine, where a synapse takes a step.

    hop(node) = synapses on the longest way to it;  start delay of a population = its hop;
    an input of hop h is held back hop(node) - h steps (buffers on the shorter branches)

A note only: the network stays synchronous for those who run it so. A machine that follows the
note computes, hop steps late, the same spikes (`snncompiler/latency.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context
from snncompiler.graph import data_inputs, shape, timed_nodes
from snncompiler.latency import SCHEDULE, latencies


@dataclass(frozen=True)
class Schedule:
    """Annotate hops and buffers."""

    name: ClassVar[str] = "schedule"

    def run(self, model: ir.Model, context: Context) -> str:
        """Set the metadata of every node that is computed at every step."""
        late = latencies(timed_nodes(model.graph))
        buffered = count = 0
        for node, latency in late.items():
            noted = {"hop": latency.hop, "waits": list(latency.waits)}
            node.metadata_props[SCHEDULE] = json.dumps(noted)
            for value, wait in zip(data_inputs(node), latency.waits, strict=True):
                count += wait > 0
                buffered += wait * int(np.prod(shape(value), dtype=np.int64))
        hop = max((latency.hop for latency in late.values()), default=0)
        return f"{hop} steps late at the output, {count} branches held back ({buffered} values)"
