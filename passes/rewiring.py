"""Edits of a spiking network that calibration makes: thresholds, potentials, weights, biases."""

from __future__ import annotations

import re
import zlib

import numpy as np
import onnx_ir as ir

from snncompiler.graph import (
    KIND,
    Array,
    add_constant,
    constant,
    graph_of,
    make_node,
    set_scale,
    set_sources,
    shape,
    sole_user,
    sources,
    weights,
)


def set_constant(node: ir.Node, index: int, array: Array) -> None:
    """Give a node another constant input; other users of the old one keep it."""
    old = node.inputs[index]
    assert old is not None
    name = re.sub(r"_\d+$", "", str(old.name))
    node.replace_input_with(index, add_constant(graph_of(node), name, array))


def theta_of(neuron: ir.Node) -> Array:
    """Thresholds of a neuron, [C] float64."""
    theta = weights(neuron.inputs[1]).astype(np.float64).reshape(-1)
    return np.broadcast_to(theta, (shape(neuron.outputs[0])[0],))


def v_init_of(neuron: ir.Node) -> Array:
    """Initial potentials of an IF as [C] or [C, ...], float64."""
    v = weights(neuron.inputs[2]).astype(np.float64)
    return np.broadcast_to(v, (shape(neuron.outputs[0])[0],)) if v.ndim == 1 else v


def set_threshold(neuron: ir.Node, theta: Array) -> None:
    """Change the thresholds [C]; initial potentials keep their share of them."""
    theta = theta.astype(np.float32).astype(np.float64)
    ratio = theta / theta_of(neuron)
    if neuron.op_type == "IF":
        v = v_init_of(neuron)
        set_constant(neuron, 2, v * ratio.reshape(-1, *[1] * (v.ndim - 1)))
    set_constant(neuron, 1, theta)
    value = neuron.outputs[0]
    set_scale(value, theta)
    for user in [use.node for use in value.uses() if use.node.op_type == "TwinSynapse"]:
        set_constant(user, 1, theta)
        set_scale(user.outputs[0], theta)


def add_current(reader: ir.Node, current: Array) -> None:
    """Add a constant current, [C], to what a neuron or readout receives at every step."""
    value = reader.inputs[0]
    assert value is not None
    producer = value.producer()
    if producer is not None and producer.op_type == "Encode" and sole_user(value) is not None:
        add_current(producer, current)  # a constant current shall be computed once
        return
    if _has_own_bias(producer) and sole_user(value) is not None:
        assert producer is not None
        set_constant(producer, 2, weights(producer.inputs[2]).astype(np.float64) + current)
        return
    dims = shape(value)
    shift = current.reshape(1, -1, *[1] * (len(dims) - 1))
    graph = graph_of(reader)
    level = add_constant(graph, f"{reader.name}_bias", shift)
    node = make_node("Add", [value, level], name=f"{reader.name}_shift")
    set_sources(node, sources(reader))
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{value.name}_shifted", value.shape, value.type
    out.metadata_props[KIND] = "current"
    graph.insert_before(reader, node)
    reader.replace_input_with(0, out)


def _has_own_bias(node: ir.Node | None) -> bool:
    if node is None or node.op_type not in ("Conv", "Gemm", "ConvTranspose"):
        return False
    return len(node.inputs) > 2 and node.inputs[2] is not None


def synapse_of(reader: ir.Node) -> ir.Node | None:
    """The synapse whose output, perhaps encoded, a neuron or readout receives, if only it does."""
    value = reader.inputs[0]
    if value is None or sole_user(value) is None:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Encode":
        return synapse_of(node)
    return None if node is None or constant(node.inputs[0]) is not None else node


def choice(x: Array, most: int) -> Array:
    """Indices of at most `most` samples, chosen by their content: in any order the same ones."""
    keys = [zlib.crc32(np.ascontiguousarray(sample).tobytes()) for sample in x]
    return np.argsort(np.array(keys), kind="stable")[:most]
