"""Temporal separation: every layer listens for a whole window, then speaks for one.

    layer l integrates in steps (l - 1) W + 1 ... l W and sends, at most gamma spikes a step,
    clip(floor(X / theta + 1/2), 0, gamma W) spikes in the W steps after

so plain binary neurons compute the ANN quantised to W levels exactly: no spike leaves before all
input has come, none has to be taken back (SpikeConverter, Liu et al. 2022). The price is latency,
(depth + 1) W steps; one sample per W steps when pipelined. Where branches of unequal depth meet,
the shorter one waits (Delay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.base import Context, tidy
from snncompiler.graph import (
    attribute,
    data_inputs,
    make_node,
    replace,
    set_sources,
    sources,
    unique_name,
)
from snncompiler.ops import DOMAIN


@dataclass(frozen=True)
class Separate:
    """Neurons that take turns; the window is the T compiled for."""

    name: ClassVar[str] = "separate"
    enabled: bool = False

    def run(self, model: ir.Model, context: Context) -> str:
        """Replace the neurons, delay short branches, tell the readouts when to listen."""
        if not self.enabled:
            return "off"
        graph, window = model.graph, context.timesteps
        # How many layers have spoken when a value is meant; constant currents always are.
        level: dict[ir.Value, int] = {}
        delays = 0
        for node in list(graph):
            timed = [v for v in data_inputs(node) if v in level]
            if node.op_type == "Readout":
                continue
            arrives = max((level[v] for v in timed), default=0)
            for early in dict.fromkeys(timed):
                if 0 < level[early] < arrives:
                    delays += _delay(graph, node, early, (arrives - level[early]) * window, level)
            if node.op_type == "LeakyIF":
                context.refuse(
                    node,
                    "LeakyRelu and PRelu need negative spikes, which neurons that take turns lack",
                    "choose another recipe, for example ternary",
                )
                continue
            if node.op_type == "IF":
                arrives += 1
                settings = {
                    "gamma": attribute(node, "gamma"),
                    "layer": arrives,
                    "window": window,
                }
                new = make_node(
                    "WindowedIF", list(node.inputs), settings, name=str(node.name), domain=DOMAIN
                )
                new.metadata_props.update(node.metadata_props)
                replace([node], [new])
                node = new
            level.update(dict.fromkeys(node.outputs, arrives))
        readouts = [n for n in graph if n.op_type == "Readout"]
        depth = max((level.get(v, 0) for n in readouts for v in n.inputs[:1] if v), default=0)
        for node in readouts:
            value = node.inputs[0]
            assert value is not None
            if 0 < level.get(value, 0) < depth:
                delays += _delay(graph, node, value, (depth - level[value]) * window, level)
            node.attributes.add(ir.AttrInt64("start", depth * window))
        tidy(model)
        return (
            f"{depth} layers take turns of {window} steps, latency {(depth + 1) * window} steps; "
            f"{delays} delays"
        )


def _delay(
    graph: ir.Graph, user: ir.Node, value: ir.Value, steps: int, level: dict[ir.Value, int]
) -> int:
    """Let a value wait; how many delays that takes.

    Spikes are delayed, not the currents that synapses make of them for this user alone: spikes take
    less room, and biases, which flow at every step, do no harm while nobody listens.
    """
    synapse = value.producer()
    assert synapse is not None
    if synapse.domain == "" and len(list(value.uses())) == 1:
        timed = dict.fromkeys(v for v in data_inputs(synapse) if level.get(v))
        return sum(_delay(graph, synapse, v, steps, level) for v in timed)
    settings = {"steps": steps}
    inputs = [value, graph.inputs[1]]
    name = unique_name(graph, f"{user.name}_wait")
    node = make_node("Delay", inputs, settings, name=name, domain=DOMAIN)
    set_sources(node, sources(user))
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{name}_out", value.shape, value.type
    out.metadata_props.update(value.metadata_props)
    graph.insert_before(user, node)
    for index, v in enumerate(user.inputs):
        if v is value:
            user.replace_input_with(index, out)
    return 1
