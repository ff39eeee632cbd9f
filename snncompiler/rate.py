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

    IF and WindowedIF become Relu (and Min, if from a Clip), LeakyIF PRelu, MLIPool MaxPool;
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
            new = [make_node("Relu", [x], name=name)]
            if CLIP in node.metadata_props:
                bound = np.array(json.loads(node.metadata_props[CLIP]), np.float32)
                top = add_constant(graph, f"{name}_max", bound.reshape(-1, *[1] * (n - 2)))
                new.append(make_node("Min", [new[0].outputs[0], top], name=f"{name}_min"))
            replace([node], new)
        elif node.op_type == "LeakyIF":
            channels = shape(node.outputs[0])[0]
            slope = np.broadcast_to(np.array(attribute(node, "alpha"), np.float32), (channels,))
            value = add_constant(graph, f"{name}_slope", slope.reshape(-1, *[1] * (n - 2)))
            replace([node], [make_node("PRelu", [x, value], name=name)])
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
