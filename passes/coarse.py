"""Coarse calibration of initial potentials (Wang et al. 2023, eq. 18).

    V(0) <- V(0) + T mean over samples of (a - sent)

for every population in order, a its target activation and `sent` what it sends per step when the
populations before it are calibrated already. A neuron that ends with a potential outside of
[0, theta) has sent too much or too little (the residual potential error); on average this is put
right where it starts. What does not help held-out samples is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.base import Context, tidy
from passes.corrections import moved_potential
from passes.rewiring import set_constant, v_init_of
from passes.targets import HELD, TOO_LARGE, Target, chosen_samples, wanted


@dataclass(frozen=True)
class Coarse:
    """Initial potentials per channel or neuron; None: off.

    target: the ANN with activations rounded to T levels, or the original one. samples: how many
    to use; a quarter of them is held out. least: with fewer than these nothing is changed.
    """

    name: ClassVar[str] = "coarse"
    corrects: ClassVar[bool] = True
    potential: Literal["channel", "neuron"] | None = None
    target: Target = "quantised"
    samples: int = 256
    least: int = 32

    def run(self, model: ir.Model, context: Context) -> str:
        """Go through the layers once."""
        shared = self.potential
        if shared is None:
            return "off"
        if len(context.calibration) < self.least:
            return f"off: fewer than {self.least} samples"
        assert context.sweep is not None
        x = chosen_samples(model, context, self.samples, context.timesteps, HELD)
        if not len(x):
            return TOO_LARGE
        truth = wanted(model, context, x, self.target)
        cut = len(x) * 3 // 4
        ratios: list[float] = []

        def visit(sweep: Any, node: ir.Node) -> None:
            target = truth.get(str(node.outputs[0].name))
            if node.op_type != "IF" or target is None:
                return
            old, sent = node.inputs[2], sweep.activation(node)
            missing = (target - sent)[:cut]
            moved = moved_potential(v_init_of(node), missing, context.timesteps, shared)
            set_constant(node, 2, moved)
            before, after = (
                float(np.square((target - a)[cut:], dtype=np.float64).mean())
                for a in (sent, sweep.activation(node))
            )
            if after >= before:
                node.replace_input_with(2, old)
            ratios.append(after / before if before else 1.0)
            context.progress("coarse calibration", len(ratios), len(truth))

        context.sweep(model, x, context.timesteps, predicted=False, dtype=np.float32).run(visit)
        tidy(model)
        kept = [r for r in ratios if r < 1]
        return f"kept in {len(kept)} of {len(ratios)} layers, {len(x)} samples"
