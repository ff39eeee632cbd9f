"""Quantised activations: what a neuron makes of its mean current in T steps, as an ANN.

    y = theta / T  clip(floor(f(z) T / theta + 1/2), 0, T)     f(z) = z           (Relu)
                   clip(.., -T, T)                             f(z) = leaky z     (LeakyRelu, PRelu)

the quantisation-clipping function g of Wang et al. 2023, eq. 12 and 22 (Bu et al. 2022, "QCFS"),
with one threshold theta per layer or channel. In a file it is a chain of standard ops, see
`insert`. In the canonical ANN it is what the chain is on average, an activation that saturates
where its neuron does, with theta annotated on its output (`limit`):

    Relu(min(z, theta)),    LeakyRelu(max(min(z, theta), -theta / alpha))
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from snncompiler.graph import (
    ACTIVATIONS,
    Array,
    add_constant,
    attribute,
    graph_of,
    make_node,
    rank,
    replace,
    set_scale,
    set_sources,
    shape,
    sources,
    weights,
)

#: Ops in front of an activation that limit its input; nowhere else are they canonical.
LIMITS = ("Min", "Max")
#: Stands for no lower limit, where a channel's slope is zero.
_DEEP = -1e30


def slope_of(node: ir.Node) -> Array:
    """The slope of a LeakyRelu or PRelu below zero, [1] or [C]."""
    if node.op_type == "LeakyRelu":
        return np.array([attribute(node, "alpha", 0.01)], np.float64)
    return weights(node.inputs[1]).astype(np.float64).reshape(-1)


def spread_out(vector: Array, like: ir.Value) -> Array:
    """[C] as [1, C, 1, ...] of a value's rank."""
    return np.asarray(vector).reshape(1, -1, *[1] * (rank(like) - 2))


def limit(old: list[ir.Node], x: ir.Value, leaky: ir.Node | None, theta: Array) -> None:
    """Put an activation of x that saturates at theta, [C] or [1], in the place of a chain.

    leaky: the LeakyRelu or PRelu that it is; None: Relu.
    """
    graph, name = graph_of(old[-1]), str(old[-1].name)
    theta = np.broadcast_to(theta, shape(x)[:1])
    alpha = np.zeros(1) if leaky is None else slope_of(leaky)
    bounds = [("Min", theta)]
    if (alpha > 0).any():
        deepest = np.full(np.broadcast_shapes(theta.shape, alpha.shape), _DEEP)
        bounds.append(("Max", -np.divide(theta, alpha, out=-deepest, where=alpha > 0)))
    new: list[ir.Node] = []
    value = x
    for op, bound in bounds:
        level = add_constant(graph, f"{name}_{op.lower()}", spread_out(bound, x))
        new.append(make_node(op, [value, level], name=f"{name}_{op.lower()}"))
        value = new[-1].outputs[0]
        value.shape, value.type = x.shape, x.type
    if leaky is None:
        last = make_node("Relu", [value], name=name)
    else:
        last = make_node(leaky.op_type, [value, *leaky.inputs[1:]], name=name)
        last.attributes.update({a.name: a for a in leaky.attributes.values()})
    replace(old, [*new, last])
    set_scale(last.outputs[0], theta)


def limits_of(activation: ir.Node) -> list[ir.Node]:
    """The Max and Min that `limit` put in front of an activation, the one next to it first."""
    found: list[ir.Node] = []
    value = activation.inputs[0]
    for op in ("Max", "Min") if activation.op_type in ("LeakyRelu", "PRelu") else ("Min",):
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type == op:
            found.append(producer)
            value = producer.inputs[0]
    return found


def insert(
    model: ir.Model, thresholds: Mapping[str, Array], timesteps: int, gamma: float = 1
) -> None:
    """Replace the activations of a canonical ANN by quantised ones, spelled in standard ops.

        Mul(T / theta) - Add(1/2) - Floor - Clip(0, gamma T) - Mul(theta / T)

    thresholds: [C] or [1] by the name of the activation's output. Activations without stay.
    gamma: most spikes per step of the neurons they stand for.
    """
    graph = model.graph
    for node in [n for n in graph if n.op_type in ACTIVATIONS]:
        theta = thresholds.get(str(node.outputs[0].name))
        if theta is None:
            continue
        theta = np.asarray(theta, np.float64)
        limits, name = limits_of(node), str(node.name)
        x = limits[-1].inputs[0] if limits else node.inputs[0]
        assert x is not None
        new: list[ir.Node] = []
        lowest = 0.0
        if node.op_type in ("LeakyRelu", "PRelu"):
            new.append(make_node(node.op_type, [x, *node.inputs[1:]], name=f"{name}_leaky"))
            new[0].attributes.update({a.name: a for a in node.attributes.values()})
            lowest = -float(gamma * timesteps)
        numbers = {
            "scaled": ("Mul", [spread_out(timesteps / theta, x)]),
            "half": ("Add", [np.array(0.5)]),
            "floor": ("Floor", []),
            "levels": ("Clip", [np.array(lowest), np.array(float(gamma * timesteps))]),
            "": ("Mul", [spread_out(theta / timesteps, x)]),
        }
        value = new[-1].outputs[0] if new else x
        for what, (op, constants) in numbers.items():
            label = f"{name}_{what}" if what else name
            inputs = [add_constant(graph, f"{label}_{i}", c) for i, c in enumerate(constants)]
            new.append(make_node(op, [value, *inputs], name=label))
            value = new[-1].outputs[0]
        for part in new:
            part.outputs[0].shape, part.outputs[0].type = x.shape, x.type
            set_sources(part, sources(node) or [name])
        replace([*reversed(limits), node], new)
