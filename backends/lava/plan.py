"""A compiled network as a list of plain nodes and arrays, which a bundle carries."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from backends.base import Network, per_channel, unsupported
from backends.lava.spiking import dynamics
from backends.lava.spiking.dynamics import Node
from snncompiler.graph import MOVEMENT, Array, attribute, constant, data_inputs, rank, shape
from snncompiler.latency import Latency, latencies
from snncompiler.movement import index_map
from snncompiler.ops import DOMAIN
from snncompiler.record import timesteps_of

IMAGE = ":image"
_WINDOW = ("strides", "pads", "dilations")
_POOL = (*_WINDOW, "kernel_shape", "ceil_mode")
#: Attributes that each op needs; an op that is not here has no rule.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "Add": (),
    "Clip": (),
    "Conv": (*_WINDOW, "group"),
    "ConvTranspose": (*_WINDOW, "output_padding", "group"),
    "Gemm": (),
    "MatMul": (),
    "MaxPool": _POOL,
    "Mul": (),
    "Relu": (),
    "Round": (),
    "Encode": (),
    "IF": ("gamma", "gamma_neg", "delay"),
    "LeakyIF": ("gamma", "delay"),
    "MLIPool": _POOL,
    "TwinSynapse": ("gamma", "allowance"),
    "Readout": ("mode", "start"),
}
#: What the constant inputs of an op are, by position.
_ROLES = {
    "Add": ("level", "level"),
    "Clip": ("", "low", "high"),
    "IF": ("", "theta", "v_init"),
    "LeakyIF": ("", "theta"),
    "MatMul": ("weight", "weight"),
    "Mul": ("weight", "weight"),
    "TwinSynapse": ("", "theta"),
}


def plan(network: Network) -> dynamics.Network:
    """The network as plain data, in floats.

    Raises:
        InputError: a node has no rule here.
    """
    names: dict[ir.Value | None, str] = {network.image: IMAGE}
    arrays: dict[str, Array] = {}
    timed = (*network.steps, *(output.node for output in network.outputs))
    late = latencies(timed)
    for node in (*network.static, *timed):
        names[node.outputs[0]] = str(node.name)
    static = tuple(_node(n, names, arrays, Latency(0, ())) for n in network.static)
    steps = tuple(_node(n, names, arrays, late[n]) for n in timed)
    units = {}
    for layer in network.layers:
        units[layer.name] = ""
        if layer.unit.size > 1 or layer.unit.reshape(-1)[0] != 1:
            units[layer.name] = f"{layer.name}:unit"
            arrays[units[layer.name]] = layer.unit
    return dynamics.Network(
        image=IMAGE,
        arithmetic="float32" if network.gridded else "float64",
        timesteps=timesteps_of(network.record),
        static=static,
        steps=steps,
        units=units,
        arrays=arrays,
    )


def _node(
    node: ir.Node, names: dict[ir.Value | None, str], arrays: dict[str, Array], late: Latency
) -> Node:
    name, op = str(node.name), node.op_type
    if node.domain not in ("", DOMAIN) or (op not in _SETTINGS and op not in MOVEMENT):
        raise unsupported(node, "lava")
    settings = {key: _plain(node, key) for key in _SETTINGS.get(op, ())}
    late_inputs = late.waits if any(late.waits) else ()
    size = shape(node.outputs[0])
    if op in MOVEMENT:
        index = f"{name}:index"
        arrays[index] = index_map(node).astype(np.int32)
        sources = tuple(names[v] for v in data_inputs(node))
        return Node(name, "Move", (*sources, index), size, {}, late.hop, late_inputs)
    roles = _ROLES.get(op, ("", "weight", "bias"))
    arguments = []
    for value, role in zip(node.inputs, roles, strict=False):
        array = constant(value)
        if value is not None and array is None and value.dtype != ir.DataType.INT64:
            arguments.append(names[value])
        elif array is not None and role:
            arguments.append(f"{name}:{role}")
            per = op in ("IF", "LeakyIF", "TwinSynapse") and role == "theta"
            arrays[arguments[-1]] = per_channel(array, rank(node.outputs[0])) if per else array
        elif array is None and op == "Clip":
            raise unsupported(node, "lava")
    if op == "LeakyIF":
        alpha = np.asarray(attribute(node, "alpha"), np.float32)
        arguments.append(f"{name}:alpha")
        arrays[arguments[-1]] = per_channel(alpha, rank(node.outputs[0]))
    if op == "MLIPool":
        source = node.inputs[0]
        assert source is not None
        settings["input_shape"] = shape(source)
    return Node(name, op, tuple(arguments), size, settings, late.hop, late_inputs)


def _plain(node: ir.Node, key: str) -> Any:
    """An attribute as a literal; numbers as single precision holds them."""
    value = attribute(node, key)
    if value is None:
        raise unsupported(node, "lava")
    if isinstance(value, list):
        return tuple(value)
    return float(np.float32(value)) if isinstance(value, float) else value
