"""Direct input coding and the accumulated readout.

The input is a constant current. Encode commutes with linear ops, so it is placed as late as it can
be: everything that depends on the input through linear ops alone (the *static* part: first
convolution, input normalisation, a pool of the raw input) is computed once, not at every step.
Every output of the network is read by a Readout that accumulates it over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from passes.base import Context, infer_shapes, tidy
from passes.spread import Scale, along_channels, move_scale, spread
from snncompiler.graph import (
    KIND,
    MOVEMENT,
    data_inputs,
    is_op,
    make_node,
    scale_of,
    set_scale,
    set_sources,
    sources,
    unique_name,
)
from snncompiler.ops import DOMAIN, NEURONS, SPIKING


@dataclass(frozen=True)
class Coding:
    """Encode and Readout.

    readout: 'mean' (in the units of the trained network's output) or 'sum'. start: steps at the
    beginning that the readout does not hear.
    """

    name: ClassVar[str] = "coding"
    readout: Literal["mean", "sum"] = "mean"
    start: int = 0

    def run(self, model: ir.Model, context: Context) -> str:
        """Insert both; tensors over time get the leading dimension T*N ("TN")."""
        graph = model.graph
        steps = graph.inputs[1]
        static = static_values(model)
        encoded: dict[ir.Value, ir.Value] = {}
        for node in list(graph):
            for index, value in enumerate(node.inputs):
                if value in static and not (set(node.outputs) & static):
                    node.replace_input_with(index, self._encode(graph, value, steps, encoded))
        for index, value in enumerate(list(graph.outputs)):
            producer = value.producer()
            current: ir.Value | None = value
            if producer is not None and is_op(producer, "Identity"):
                current = producer.inputs[0]
            if current in static:
                current = self._encode(graph, current, steps, encoded)
            settings = {"mode": self.readout, "start": self.start}
            name = unique_name(graph, f"readout_{index}" if index else "readout")
            node = make_node("Readout", [current, steps], settings, name=name, domain=DOMAIN)
            set_sources(node, sources(producer) if producer else [])
            graph.append(node)
            label = value.name
            graph.outputs[index] = node.outputs[0]
            value.name = unique_name(graph, f"{label}_current")
            node.outputs[0].name, node.outputs[0].type = label, value.type
        tidy(model)
        infer_shapes(model)
        mark_kinds(model)
        note_scales(model)
        return f"{len(encoded)} constant currents, {len(graph.outputs)} readouts ({self.readout})"

    @staticmethod
    def _encode(
        graph: ir.Graph, value: ir.Value, steps: ir.Value, encoded: dict[ir.Value, ir.Value]
    ) -> ir.Value:
        if value not in encoded:
            name = unique_name(graph, f"{value.name}_encoded")
            node = make_node(
                "Encode", [value, steps], {"mode": "current"}, name=name, domain=DOMAIN
            )
            producer = value.producer()
            users = sources(*(use.node for use in value.uses()))
            set_sources(node, sources(producer) if producer else users)
            node.outputs[0].name, node.outputs[0].type = name, value.type
            if producer is None:
                graph.insert_before(graph[0], node)
            else:
                graph.insert_after(producer, node)
            encoded[value] = node.outputs[0]
        return encoded[value]


def static_values(model: ir.Model) -> set[ir.Value]:
    """The image and all that is computed from it without neurons."""
    static = {model.graph.inputs[0]}
    for node in model.graph:
        data = [v for v in node.inputs if v is not None and v.const_value is None]
        if node.op_type not in NEURONS and data and all(v in static for v in data):
            static.update(node.outputs)
    return static


def mark_kinds(model: ir.Model) -> None:
    """Tell every value over time: 'spikes' (counts, times the scale) or 'current'."""
    for node in model.graph:
        spikes = node.op_type in NEURONS or (
            node.op_type in (*MOVEMENT, *SPIKING)
            and all(v.metadata_props.get(KIND) == "spikes" for v in data_inputs(node))
        )
        for value in node.outputs:
            value.metadata_props[KIND] = "spikes" if spikes else "current"


def note_scales(model: ir.Model) -> None:
    """Annotate what one spike of a pool or twin synapse carries: the scale of what it pools."""
    scales: dict[ir.Value, Scale] = {}
    for node in model.graph:
        output, inputs = node.outputs[0], data_inputs(node)
        known = [scales[v] for v in inputs if v in scales]
        if node.op_type in NEURONS:
            own = scale_of(output)
            assert own is not None
            scales[output] = along_channels(output, own)
        elif node.op_type in MOVEMENT and inputs and len(known) == len(inputs):
            scales[output] = move_scale(node, known)
        elif node.op_type in SPIKING and known and all(d == 1 for d in known[0].shape[1:]):
            scales[output] = spread(output, known[0])
            set_scale(output, scales[output])
