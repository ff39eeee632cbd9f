"""Form A to form B: scales move into the weights, every threshold becomes 1, spikes are integers.

    X = lambda Xhat on every value;  W' = W lambda_in / lambda_out,  b' = b / lambda_out

1. Backward: a neuron demands its threshold of its input, a readout demands 1. Ops that hand values
   on (pools, Concat, Flatten, Add, ...) hand demands on; synapses stop them, for they can absorb
   any. The first demand wins. An Add that nobody asks takes the scale of the spikes it adds, so
   that only free synapses have to follow. A one-to-one synapse (an average, a
   BatchNormalization of its own) hands the demand on, its factor moving into the synapse before.
2. Forward: synapses produce what is demanded; a one-to-one synapse nobody asks lets its factor
   move on into the next weights (an average becomes a sum); everything else hands its scale on.
3. Where what arrives differs from what is required, a gain is inserted: a depthwise 1x1
   convolution, the one-to-one synapse that an identity shortcut needs on hardware anyway.

Movement ops need no rules: they are executed on index arrays (`snncompiler/movement.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.absorb import absorb, one_to_one, representable
from passes.base import Context, tidy
from passes.spread import Scale, along_channels, invert_movement, move_scale, ones, spread
from snncompiler.graph import (
    CLIP,
    KIND,
    MOVEMENT,
    SCALE,
    WEIGHTED,
    add_constant,
    data_inputs,
    make_node,
    rank,
    scale_of,
    set_scale,
    set_sources,
    shape,
    sole_user,
    sources,
    weight_index,
    weights,
)
from snncompiler.ops import NEURONS, WITH_POTENTIAL

_WINDOWS = ("MLIPool", "MaxPool", "TwinSynapse", "Delay", "Encode")


@dataclass(frozen=True)
class Normalise:
    """Rescale weights so that thresholds are 1."""

    name: ClassVar[str] = "normalise"

    def run(self, model: ir.Model, context: Context) -> str:
        """Propagate scales, rewrite weights, insert gains."""
        plan = propagate(model)
        _rewrite(model, plan)
        tidy(model)
        return f"thresholds 1, {len(plan.gains)} gains"


@dataclass
class Plan:
    """What propagation decided.

    scale: of every value, an array that broadcasts to its per-sample shape. gains: the scale
    required at (node, input index) where another one arrives.
    """

    scale: dict[ir.Value, Scale] = field(default_factory=dict)
    gains: dict[tuple[ir.Node, int], Scale] = field(default_factory=dict)


def propagate(model: ir.Model) -> Plan:
    """Choose the scale of every value of a network in form A."""
    natural = _natural_scales(model)
    demand = _demands(model, natural)
    plan = Plan()
    plan.scale[model.graph.inputs[0]] = ones(model.graph.inputs[0])
    for node in model.graph:
        _assign(node, plan, natural, demand)
    return plan


def neuron_scale(value: ir.Value) -> Scale:
    """The threshold annotated on a neuron's output, [C, 1, ...]."""
    scale = scale_of(value)
    assert scale is not None, f"'{value.name}' has no threshold"
    return along_channels(value, scale)


def _natural_scales(model: ir.Model) -> dict[ir.Value, Scale]:
    """The scales that are not free: those of spikes and the image, and what is moved from them."""
    natural = {model.graph.inputs[0]: ones(model.graph.inputs[0])}
    for node in model.graph:
        output = node.outputs[0]
        known = [natural[v] for v in data_inputs(node) if v in natural]
        if node.op_type in NEURONS:
            natural[output] = neuron_scale(output)
        elif not known or node.op_type in WEIGHTED:
            continue
        elif node.op_type in MOVEMENT:
            if len(known) == len(data_inputs(node)):
                natural[output] = move_scale(node, known)
        elif node.op_type in ("Add", *_WINDOWS):
            natural[output] = spread(output, known[0])
    return natural


def _demands(model: ir.Model, natural: dict[ir.Value, Scale]) -> dict[ir.Value, Scale]:
    demand: dict[ir.Value, Scale] = {}
    for node in reversed(list(model.graph)):
        output, inputs = node.outputs[0], data_inputs(node)
        wanted = demand.get(output)
        if node.op_type in NEURONS:
            demand.setdefault(inputs[0], natural[output])
        elif node.op_type == "Readout":
            demand.setdefault(inputs[0], ones(inputs[0]))
        elif node.op_type == "Add" and len(inputs) == 2:
            if wanted is None:
                wanted = natural.get(output, ones(output))
                demand[output] = wanted
            for value in inputs:
                demand.setdefault(value, wanted)
        elif wanted is None:
            continue
        elif node.op_type in WEIGHTED:
            # A factor per channel can move on into the synapse before, if nobody else listens.
            factor, x = one_to_one(node), inputs[0]
            alone = sole_user(x) is not None and x not in natural
            alone &= shape(x)[0] == shape(output)[0]
            if factor is not None and alone and all(d == 1 for d in wanted.shape[1:]):
                demand.setdefault(x, spread(x, wanted) / along_channels(x, factor))
        elif node.op_type in MOVEMENT:
            for value, part in zip(inputs, invert_movement(node, wanted), strict=True):
                if part is not None:
                    demand.setdefault(value, part)
        else:  # pools, Encode, a bias: the same scale on both sides
            if node.op_type == "Add" or all(d == 1 for d in wanted.shape[1:]):
                demand.setdefault(inputs[0], spread(inputs[0], wanted))
    return demand


def _assign(
    node: ir.Node, plan: Plan, natural: dict[ir.Value, Scale], demand: dict[ir.Value, Scale]
) -> None:
    output, inputs = node.outputs[0], data_inputs(node)
    arriving = [plan.scale[v] for v in inputs]
    required: list[Scale | None] = [None] * len(inputs)
    if node.op_type in NEURONS:
        plan.scale[output] = natural[output]
        required = [natural[output]]
    elif node.op_type == "Readout":
        required = [ones(inputs[0])]
    elif node.op_type == "Add" and len(inputs) == 2:
        plan.scale[output] = demand[output]
        required = [demand[output]] * 2
    elif node.op_type in WEIGHTED:
        required[0], plan.scale[output] = representable(node, arriving[0], demand.get(output))
    elif node.op_type in MOVEMENT:
        plan.scale[output] = move_scale(node, arriving)
    elif node.op_type == "Add":
        plan.scale[output] = arriving[0]
    else:
        level = arriving[0]
        if any(d != 1 for d in level.shape[1:]):
            level = np.broadcast_to(level, shape(inputs[0]))
            level = level.max(axis=tuple(range(1, level.ndim)), keepdims=True)
            required = [level]
        plan.scale[output] = spread(output, level)
    positions = [i for i, v in enumerate(node.inputs) if v in set(inputs)]
    for position, have, want in zip(positions, arriving, required, strict=True):
        if want is not None and (have != want).any():
            plan.gains[node, position] = want


def _rewrite(model: ir.Model, plan: Plan) -> None:
    graph = model.graph
    for node in list(graph):
        if node.op_type in WEIGHTED:
            position = next(i for i, v in enumerate(node.inputs) if v in plan.scale)
            value = node.inputs[position]
            assert value is not None
            arriving = plan.gains.get((node, position), plan.scale[value])
            absorb(node, arriving, plan.scale[node.outputs[0]])
        elif node.op_type == "Add" and len(data_inputs(node)) == 1:
            index = weight_index(node)
            level = weights(node.inputs[index]).astype(np.float64)
            new = level / plan.scale[node.outputs[0]][None]
            node.replace_input_with(index, add_constant(graph, f"{node.name}_shift", new))
        elif node.op_type in (*NEURONS, "TwinSynapse"):
            _unit_threshold(graph, node)
    made: dict[tuple[ir.Value, bytes], ir.Value] = {}
    for (node, position), required in plan.gains.items():
        value = node.inputs[position]
        assert value is not None
        gain = plan.scale[value] / required
        key = (value, gain.tobytes())
        if key not in made:
            made[key] = _gain(graph, node, value, gain)
        node.replace_input_with(position, made[key])
    for value, scale in plan.scale.items():
        if all(d == 1 for d in scale.shape[1:]):
            set_scale(value, np.broadcast_to(scale.reshape(-1), shape(value)[:1]))
        else:
            value.metadata_props.pop(SCALE, None)


def _unit_threshold(graph: ir.Graph, node: ir.Node) -> None:
    theta = weights(node.inputs[1]).astype(np.float64)
    node.replace_input_with(1, add_constant(graph, f"{node.name}_theta_1", np.ones(1, np.float32)))
    if node.op_type in WITH_POTENTIAL:
        v = weights(node.inputs[2]).astype(np.float64)
        v = v / theta.reshape(-1, *[1] * (v.ndim - 1))
        v = v[:1] if v.ndim == 1 and (v == v[0]).all() else v
        node.replace_input_with(2, add_constant(graph, f"{node.name}_v_init_1", v))
    if CLIP in node.metadata_props:
        bound = np.array(json.loads(node.metadata_props[CLIP])) / theta
        node.metadata_props[CLIP] = json.dumps([float(b) for b in bound])


def _gain(graph: ir.Graph, user: ir.Node, value: ir.Value, gain: Scale) -> ir.Value:
    n, channels = rank(value), shape(value)[0]
    name = f"{user.name}_gain"
    if n > 2 and all(d == 1 for d in gain.shape[1:]):
        kernel = np.broadcast_to(gain.reshape(-1), (channels,)).reshape(-1, 1, *[1] * (n - 2))
        w = add_constant(graph, f"{name}_weight", np.ascontiguousarray(kernel))
        flat = [1] * (n - 2)
        settings = {"kernel_shape": flat, "strides": flat, "dilations": flat}
        settings |= {"pads": [0] * (2 * n - 4), "group": channels}  # type: ignore[dict-item]
        node = make_node("Conv", [value, w], settings, name=name)
    else:
        node = make_node("Mul", [value, add_constant(graph, f"{name}_k", gain[None])], name=name)
    producer = value.producer()
    set_sources(node, [*(sources(producer) if producer else []), *sources(user)])
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    node.outputs[0].metadata_props[KIND] = "current"
    graph.insert_before(user, node)
    return node.outputs[0]
