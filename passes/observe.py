"""Run the trained network on the calibration data and keep what its activations did.

Statistics are exact and streaming: they do not depend on batch size or order. Only counts and
maxima are kept here; a threshold rule that needs more streams the data again (one more pass of
the trained network costs less than a single time step of the spiking one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.activations import activation_batches, activations, by_channel
from passes.base import Context, Statistics
from snncompiler.graph import Array


@dataclass(frozen=True)
class Observe:
    """Maximum and activity of every activation, per channel."""

    name: ClassVar[str] = "observe"

    def run(self, model: ir.Model, context: Context) -> str:
        """Fill `context.statistics`; warn of layers that never fire."""
        names = activations(model)
        maxima: dict[str, Array] = {}
        positive = dict.fromkeys(names, 0)
        counts = dict.fromkeys(names, 0)
        for batch in activation_batches(model, context):
            for name in names:
                a = by_channel(batch[name])
                top = a.max(1)
                maxima[name] = np.maximum(maxima[name], top) if name in maxima else top
                positive[name] += int((a > 0).sum())
                counts[name] += a.size
        for name in names:
            channels = len(maxima[name])
            share = positive[name] / counts[name]
            per_channel = counts[name] // channels
            context.statistics[name] = Statistics(maxima[name], per_channel, share)
            if not positive[name]:
                context.warnings.append(f"'{name}' is never active on the calibration data")
        return f"{len(names)} activations on {len(context.calibration)} samples"
