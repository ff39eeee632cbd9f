"""Replace each activation by a population of integrate-and-fire neurons.

    Relu             IF with threshold lambda
    Clip(0, c)       IF with m lambda = c, m <= gamma spikes per step: saturates exactly at c
    LeakyRelu, PRelu LeakyIF, signed, one negative slope per channel
    limited inputs   (of a quantised activation) the same with gamma 1: saturates at lambda

The initial potential v_init (in units of the threshold) 1/2 turns flooring into rounding: the
largest free gain there is (Mueller et al. 2021; Bu et al. 2022). gamma > 1 allows bursts (Li and
Zeng 2022), gamma_neg > 0 lets a neuron take back what it sent too much: with v_init = 1/2 and
while no cap binds, its count is max(0, floor(X / theta + 1/2)) at every step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context, tidy
from snncompiler.graph import (
    ACTIVATIONS,
    CLIP,
    KIND,
    Array,
    add_constant,
    attribute,
    make_node,
    replace,
    scale_of,
    set_scale,
    shape,
    weights,
)
from snncompiler.ops import DOMAIN, VERSION
from snncompiler.quantisers import limits_of


@dataclass(frozen=True)
class Neurons:
    """Neurons for activations.

    gamma: most spikes per step. gamma_neg: most spikes taken back per step. v_init: initial
    membrane potential in units of the threshold. delay: steps for which neurons stay frozen.
    """

    name: ClassVar[str] = "neurons"
    gamma: float = 1.0
    gamma_neg: float = 0.0
    v_init: float = 0.5
    delay: int = 0

    def run(self, model: ir.Model, context: Context) -> str:
        """Replace every activation; the graph gets the input T and the domain snn."""
        steps = _time_input(model)
        population = count = 0
        for node in list(model.graph):
            if node.op_type not in ACTIVATIONS or node.domain:
                continue
            self._replace(model.graph, node, steps)
            population += int(np.prod(shape(node.outputs[0])))
            count += 1
        tidy(model)
        return f"{count} populations, {population} neurons"

    def _replace(self, graph: ir.Graph, node: ir.Node, steps: ir.Value) -> None:
        value, name = node.outputs[0], str(node.name)
        scale = scale_of(value)
        assert scale is not None, f"{name} has no threshold"
        gamma, bound = self.gamma, None
        current, limits = node.inputs[0], limits_of(node)
        if limits:
            current, gamma = limits[-1].inputs[0], 1.0
        elif node.op_type == "Clip":
            top = float(weights(node.inputs[2]))
            scale, gamma = saturating(scale, top, self.gamma)
            bound = np.array([top])
        scale = scale.astype(np.float32).astype(np.float64)
        bound = scale if limits else bound  # a trained threshold is where it saturates
        set_scale(value, scale)
        theta = add_constant(graph, f"{name}_theta", scale)
        if node.op_type in ("LeakyRelu", "PRelu"):
            alpha = [float(attribute(node, "alpha", 0.01))]
            if node.op_type == "PRelu":
                alpha = [float(a) for a in weights(node.inputs[1]).reshape(-1)]
            settings = {"gamma": gamma, "alpha": alpha, "delay": self.delay}
            inputs = [current, theta, steps]
            new = make_node("LeakyIF", inputs, settings, name=name, domain=DOMAIN)
        else:
            v_init = add_constant(graph, f"{name}_v_init", scale * self.v_init)
            settings = {"gamma": gamma, "gamma_neg": self.gamma_neg, "delay": self.delay}
            inputs = [current, theta, v_init, steps]
            new = make_node("IF", inputs, settings, name=name, domain=DOMAIN)
        if bound is not None:
            new.metadata_props[CLIP] = json.dumps([float(b) for b in bound])
        value.metadata_props[KIND] = "spikes"
        replace([node], [new])


def saturating(scale: Array, bound: float, gamma: float) -> tuple[Array, float]:
    """(lambda, m) with m lambda = bound where bursts are allowed, for a Clip(0, bound).

    One spike per step saturates at lambda, which a percentile of clipped values keeps near the
    bound. With bursts the layer shares one m = min(gamma, ceil(bound / largest lambda)).
    """
    if gamma <= 1:
        return np.minimum(scale, bound), gamma
    m = min(gamma, float(np.ceil(bound / scale.max())))
    return np.full_like(scale, bound / m), m


def _time_input(model: ir.Model) -> ir.Value:
    taken = {v.name for v in model.graph.inputs} | set(model.graph.initializers)
    taken |= {v.name for n in model.graph for v in n.outputs}
    name = "T"
    while name in taken:
        name += "_steps"
    steps = ir.Value(name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(steps)
    model.graph.opset_imports[DOMAIN] = VERSION
    return steps
