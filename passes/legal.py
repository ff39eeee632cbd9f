"""Every node left must be one that spikes can compute; all others are refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context
from snncompiler.diagnostics import InputError
from snncompiler.graph import ACTIVATIONS, MOVEMENT, WEIGHTED, constant, scale_of
from snncompiler.quantisers import limits_of
from snncompiler.refusals import REASONS

LEGAL = ACTIVATIONS | MOVEMENT | WEIGHTED | {"Add", "MaxPool", "Identity"}
_OTHERWISE = (
    "no spiking lowering is known for it",
    "replace it by convolutions, pools, sums and rectifiers",
)


@dataclass(frozen=True)
class Legal:
    """Refuse, with name and reason, whatever no later pass can convert."""

    name: ClassVar[str] = "legal"

    def run(self, model: ir.Model, context: Context) -> str:
        """Raise InputError with every refused node of this and the earlier passes."""
        kept = [
            n
            for n in model.graph
            if n.op_type in ACTIVATIONS and scale_of(n.outputs[0]) is not None
        ]
        limits = {limit for activation in kept for limit in limits_of(activation)}
        for node in model.graph:
            if node.op_type not in LEGAL and node not in limits:
                context.refuse(node, *REASONS.get(node.op_type, _OTHERWISE))
            elif node.op_type in WEIGHTED and all(constant(v) is None for v in node.inputs[:2]):
                why = "its weights are computed from the data; synapses are fixed after training"
                context.refuse(node, why, "export with constant weights")
            elif not all(np.isfinite(a).all() for a in map(constant, node.inputs) if a is not None):
                why = "with the scales around it folded in, its weights exceed float32"
                context.refuse(node, why, "look at the training run; weights this large are no use")
        shapeless = [n for n in model.graph if n.outputs[0].shape is None]
        if not context.refusals:  # else the shapes are missing because of those
            for node in [*context.shapeless, *shapeless]:
                why = "the shape of its input or output cannot be inferred"
                context.refuse(node, why, "export with fixed image dimensions")
        if context.refusals:
            raise InputError(*context.refusals)
        return f"{len(model.graph)} nodes, all convertible"
