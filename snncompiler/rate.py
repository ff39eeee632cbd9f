"""The ANN inside a spiking network: neurons replaced by the activations they stand for.

Whatever scales a network carries, these activations compute what the trained network computes;
comparing the two is how every spiking pass is verified without simulating anything.
"""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir

from snncompiler.graph import (
    CLIP,
    add_constant,
    attribute,
    bypass,
    make_node,
    rank,
    replace,
    shape,
)
from snncompiler.ops import DOMAIN, WITH_POTENTIAL


def rate_model(model: ir.Model) -> ir.Model:
    """A copy of a spiking network with activations in the place of its neurons.

    IF and WindowedIF become Relu, LeakyIF PRelu (both within their bound if they have one), MLIPool
    MaxPool;
    Encode, TwinSynapse, Delay and Readout hand their input on.
    """
    copy = model.clone()
    graph = copy.graph
    for node in list(graph):
        if node.domain != DOMAIN:
            continue
        x, name = node.inputs[0], str(node.name)
        assert x is not None
        n = rank(node.outputs[0])
        if node.op_type in WITH_POTENTIAL:
            replace([node], _bounded(graph, node, make_node("Relu", [x], name=name)))
        elif node.op_type == "LeakyIF":
            channels = shape(node.outputs[0])[0]
            slope = np.broadcast_to(np.array(attribute(node, "alpha"), np.float32), (channels,))
            value = add_constant(graph, f"{name}_slope", slope.reshape(-1, *[1] * (n - 2)))
            replace([node], _bounded(graph, node, make_node("PRelu", [x, value], name=name)))
        elif node.op_type == "MLIPool":
            settings = {a.name: a.value for a in node.attributes.values()}
            replace([node], [make_node("MaxPool", [x], settings, name=name)])
        elif node.outputs[0].is_graph_output():
            replace([node], [make_node("Identity", [x], name=name)])
        else:
            bypass(node)
    for value in [v for v in graph.inputs if v.dtype == ir.DataType.INT64]:
        graph.inputs.remove(value)
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape(["N", *list(value.shape)[1:]])
    copy.functions.clear()
    copy.opset_imports.pop(DOMAIN, None)
    return copy


def _bounded(graph: ir.Graph, neuron: ir.Node, activation: ir.Node) -> list[ir.Node]:
    """The activation, then the bound at which a neuron made of a limited one saturates."""
    if CLIP not in neuron.metadata_props:
        return [activation]
    bound = np.array(json.loads(neuron.metadata_props[CLIP]), np.float32)
    bound = bound.reshape(-1, *[1] * (rank(neuron.outputs[0]) - 2))
    sides = [("Min", bound)] if neuron.op_type != "LeakyIF" else [("Min", bound), ("Max", -bound)]
    nodes = [activation]
    for op, side in sides:
        level = add_constant(graph, f"{neuron.name}_{op.lower()}", side)
        name = f"{neuron.name}_{op.lower()}"
        nodes.append(make_node(op, [nodes[-1].outputs[0], level], name=name))
    return nodes
