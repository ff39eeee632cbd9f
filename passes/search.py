"""Search thresholds on the predictor: what the whole network sends, not one layer alone, counts.

One pass over values summed over time tells what a network of perfect neurons outputs after T steps
(`backends/sweep.py`). So thresholds can be searched without simulating: coordinate descent over
one factor per layer, on

    sum |o - a|^2 / sum |a - mean a|^2,    o the predicted, a the trained network's outputs,

in steps that shrink from round to round. Changing a layer only recomputes what comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context, tidy
from passes.rewiring import choice, set_threshold, theta_of
from snncompiler.ann import run as run_ann
from snncompiler.graph import CLIP, Array, shape
from snncompiler.metrics import macs
from snncompiler.ops import NEURONS

#: Multiply-accumulates a search may cost, numbers it may keep, and samples it needs.
_WORK, _KEPT, _FEWEST = 1e12, 1 << 28, 16
#: Steps of the factors, one tuple a round; the last one repeats.
_STEPS = ((0.8, 1.25), (0.9, 1.1), (0.95, 1.05))


@dataclass(frozen=True)
class Search:
    """Coordinate descent on thresholds.

    rounds: how often to go through all layers; 0: off. samples: how many to predict. least: with
    fewer than these there is no search.
    """

    name: ClassVar[str] = "search"
    rounds: int = 0
    samples: int = 256
    least: int = 32

    def run(self, model: ir.Model, context: Context) -> str:
        """Change the thresholds of all IF neurons, layer by layer."""
        if not self.rounds:
            return "off"
        if len(context.calibration) < self.least:
            return f"off: fewer than {self.least} samples"
        assert context.sweep is not None
        assert context.ann is not None
        count = sum(n.op_type in NEURONS for n in model.graph)
        kept = sum(int(np.prod(shape(n.outputs[0]))) for n in model.graph)
        most = int(min(_WORK / (2 * self.rounds * count * macs(context.ann) + 1), _KEPT / kept))
        if most < _FEWEST:
            return "off: the network is too large to be tried that often"
        x = context.calibration[choice(context.calibration, min(self.samples, most))]
        truth = run_ann(context.ann, x)
        settings: dict[str, Any] = {"predicted": True, "keep": True, "dtype": np.float32}
        sweep = context.sweep(model, x, context.timesteps, **settings)
        error = before = output_error(sweep.run(), truth)
        nodes = list(sweep.network.steps)
        layers = [n for n in nodes if n.op_type in NEURONS and CLIP not in n.metadata_props]
        for turn in range(self.rounds):
            for done, layer in enumerate(layers):
                context.progress("searching", turn * len(layers) + done, self.rounds * len(layers))
                start, theta = nodes.index(layer), theta_of(layer)
                best = 1.0
                for factor in _STEPS[min(turn, len(_STEPS) - 1)]:
                    share = factor
                    while True:  # as far as it helps
                        set_threshold(layer, theta * share)
                        found = output_error(sweep.run(start=start), truth)
                        if found >= error:
                            break
                        error, best, share = found, share, share * factor
                    if best != 1.0:
                        break
                set_threshold(layer, theta * best)
                sweep.run(start=start)
        tidy(model)
        return (
            f"{len(layers)} layers, {self.rounds} rounds on {len(x)} samples: predicted output "
            f"error {before:.4f} -> {error:.4f}"
        )


def output_error(outputs: dict[str, Array], truth: dict[str, Array]) -> float:
    """Squared error of all outputs, as a share of the variance of the trained network's."""
    squares = variance = 0.0
    for name, a in truth.items():
        squares += float(np.square(outputs[name] - a, dtype=np.float64).sum())
        variance += float(np.square(a - a.mean(0), dtype=np.float64).sum())
    return squares / variance if variance else squares
