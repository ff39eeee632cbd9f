"""Add a constant share of the threshold to every neuron's current (Deng and Gu 2021, "OPT").

    I <- I + share theta / T

With share 1/2 the same charge as an initial potential of theta / 2, but arriving over T steps: it
needs to know T, and helps only towards its end. Never use both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.base import Context, tidy
from passes.rewiring import add_current, theta_of


@dataclass(frozen=True)
class BiasShift:
    """Shift every IF's current by share * theta / T."""

    name: ClassVar[str] = "bias_shift"
    corrects: ClassVar[bool] = True
    share: float = 0.0

    def run(self, model: ir.Model, context: Context) -> str:
        """Add the current to the biases."""
        if not self.share:
            return "off"
        neurons = [n for n in model.graph if n.op_type == "IF"]
        for neuron in neurons:
            add_current(neuron, self.share * theta_of(neuron) / context.timesteps)
        tidy(model)
        return f"{len(neurons)} populations, {self.share:g} theta / {context.timesteps}"
