"""Replace every MaxPool that sees time by MLIPooling (Li et al. 2022, in closed form).

    C = running sum of the input,  output_t = maxpool(C_t) - maxpool(C_{t-1})

Summed over time the output is the maximum of the summed input, exactly and at every step, for any
kernel, stride, padding, dilation and overlap; spikes in [0, gamma] come out in [0, gamma]. A pool
of the constant input current needs no time and stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.base import Context, tidy
from snncompiler.graph import attribute, make_node, replace
from snncompiler.ops import DOMAIN, NEURONS


@dataclass(frozen=True)
class Pooling:
    """MaxPool of spikes or currents becomes MLIPool."""

    name: ClassVar[str] = "pooling"

    def run(self, model: ir.Model, context: Context) -> str:
        """Replace the pools behind neurons."""
        steps = model.graph.inputs[1]
        dynamic: set[ir.Value] = set()
        count = 0
        for node in list(model.graph):
            if node.op_type not in NEURONS and not any(v in dynamic for v in node.inputs):
                continue
            if node.op_type == "MaxPool":
                names = ("kernel_shape", "strides", "pads", "ceil_mode", "dilations")
                settings = {k: attribute(node, k) for k in names}
                inputs = [node.inputs[0], steps]
                new = make_node("MLIPool", inputs, settings, name=str(node.name), domain=DOMAIN)
                replace([node], [new])
                node = new
                count += 1
            dynamic.update(node.outputs)
        tidy(model)
        return f"{count} pools"
