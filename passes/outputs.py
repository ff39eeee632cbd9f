"""An output that is also a value inside the network gets a value of its own.

    z = Relu(x), read by others  ->  z_inner = Relu(x),  z = Identity(z_inner)

Later the output is what a readout has added up, while the value inside is spikes or a current, and
is compared, by its name, with the trained network's. `coding` turns the Identity into the readout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.base import Context
from snncompiler.graph import (
    ACTIVATIONS,
    data_inputs,
    is_op,
    make_node,
    set_sources,
    sources,
    unique_name,
)


@dataclass(frozen=True)
class Outputs:
    """Tell outputs from what the network itself goes on with."""

    name: ClassVar[str] = "outputs"

    def run(self, model: ir.Model, context: Context) -> str:
        """Put an Identity before every output that an activation or pool gives, or others read."""
        graph, count = model.graph, 0
        for index, value in enumerate(list(graph.outputs)):
            producer = value.producer()
            if producer is None:
                continue
            if is_op(producer, "Identity"):  # of another output
                origins = [v.producer() for v in data_inputs(producer)]
                set_sources(producer, sources(producer) or sources(*filter(None, origins)))
                continue
            if not value.uses() and not is_op(producer, *ACTIVATIONS, "MaxPool"):
                continue
            label = str(value.name)
            value.name = unique_name(graph, f"{label}_inner")
            node = make_node("Identity", [value], name=unique_name(graph, f"{label}_output"))
            set_sources(node, sources(producer))
            node.outputs[0].name, node.outputs[0].type = label, value.type
            node.outputs[0].shape = value.shape
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
            count += 1
        return f"{count} told from values inside"
