"""Voltage clamping (Rueckauer et al. 2017; Mueller et al. 2021): deeper layers wait their turn.

    layer l, counted from 1 along its longest path, is frozen for its first d l steps:
    its potential stays V(0), its input is discarded, it sends nothing

By then the layers before it have passed their first, most misleading steps. The readout hears
nothing of the first d (L + 1) steps, so there is no answer before: of no use for few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.base import Context
from snncompiler.graph import data_inputs
from snncompiler.ops import NEURONS


@dataclass(frozen=True)
class Clamp:
    """Freeze each layer for `delay` steps per layer before it, itself included; 0: off."""

    name: ClassVar[str] = "clamp"
    delay: int = 0

    def run(self, model: ir.Model, context: Context) -> str:
        """Set the delays of neurons and the starts of readouts."""
        if not self.delay:
            return "off"
        layer: dict[ir.Value, int] = {}
        last = 0
        for node in model.graph:
            depth = max((layer.get(v, 0) for v in data_inputs(node)), default=0)
            depth += node.op_type in (*NEURONS, "Readout")
            layer.update(dict.fromkeys(node.outputs, depth))
            if node.op_type in NEURONS:
                node.attributes.add(ir.AttrInt64("delay", self.delay * depth))
            elif node.op_type == "Readout":
                node.attributes.add(ir.AttrInt64("start", self.delay * depth))
                last = max(last, self.delay * depth)
        if last >= context.timesteps:
            context.warnings.append(
                f"with voltage clamping the readout hears nothing before step {last + 1}; "
                f"T = {context.timesteps} is too short"
            )
        return f"delay {self.delay} per layer, first answer at step {last + 1}"
