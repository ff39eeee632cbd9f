"""SpiCalib (Li et al. 2022): a twin synapse behind every IF neuron cancels false spikes.

A neuron whose activation is zero may fire while the layers before it settle. Once it has been
silent for longer than its mean inter-spike interval plus `allowance`, its spikes are taken back
through the same synapse with negative sign, as fast as they were sent, never below zero in sum.
Allowances much below a quarter of T erase slow but legitimate neurons; the paper uses T/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from passes.base import Context, tidy
from snncompiler.graph import attribute, make_node, set_sources, sources
from snncompiler.ops import DOMAIN


@dataclass(frozen=True)
class TwinSynapse:
    """Insert twin synapses.

    allowance: steps of silence allowed beyond the mean interval; 'T/2' is half the time steps
    compiled for; None: no twin synapses.
    """

    name: ClassVar[str] = "twin_synapse"
    allowance: float | Literal["T/2"] | None = None

    def run(self, model: ir.Model, context: Context) -> str:
        """Put a TwinSynapse behind every IF that cannot take spikes back by itself."""
        if self.allowance is None:
            return "off"
        half = context.timesteps / 2
        allowance = half if self.allowance == "T/2" else float(self.allowance)
        count = 0
        for node in list(model.graph):
            if node.op_type != "IF" or attribute(node, "gamma_neg") > 0:
                continue
            spikes = node.outputs[0]
            settings = {"gamma": attribute(node, "gamma"), "allowance": allowance}
            inputs = [spikes, node.inputs[1], node.inputs[3]]
            name = f"{node.name}_twin"
            twin = make_node("TwinSynapse", inputs, settings, name=name, domain=DOMAIN)
            set_sources(twin, sources(node))
            result = twin.outputs[0]
            result.name, result.shape, result.type = (
                f"{spikes.name}_twin",
                spikes.shape,
                spikes.type,
            )
            result.metadata_props.update(spikes.metadata_props)
            for user, index in list(spikes.uses()):
                user.replace_input_with(index, result)
            twin.replace_input_with(0, spikes)
            model.graph.outputs[:] = [result if v is spikes else v for v in model.graph.outputs]
            model.graph.insert_after(node, twin)
            count += 1
        tidy(model)
        return f"{count} twin synapses, allowance {allowance:g} steps"
