"""Choose the activation scale of every neuron population: its threshold in physical units.

    max:         lambda = max a                        (Diehl et al. 2015)
    percentile:  lambda = order statistic p of a       (Rueckauer et al. 2017, "p-norm")
    mmse:        lambda = argmin (a - what a neuron makes of it in T steps)^2  (Li et al. 2021)
    balance:     lambda <- lambda + 2 mean max(a - lambda, 0)  (Bu, Li and Yu 2025, "LTB")

each over the whole layer or per channel (Kim et al. 2020, "channel-norm"). All statistics are
those of the activation's output on the calibration data; for LeakyRelu and PRelu of its size.
The scale of Clip(0, c) never exceeds c. Thresholds that came with the network, trained with
quantised activations (`snncompiler/quantisers.py`), are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.activations import activation_batches, by_channel
from passes.base import Context
from passes.threshold_rules import (
    Histogram,
    LargestValues,
    balanced_thresholds,
    least_squares_thresholds,
    with_floor,
)
from snncompiler.graph import ACTIVATIONS, Array, scale_of, set_scale, weights


@dataclass(frozen=True)
class Thresholds:
    """Annotate every activation with its scale.

    method: one of the rules above. percentile: in percent. channelwise: one per channel instead of
    one per layer. floor: least share of the layer's threshold that a channel may have.
    timesteps: the T that 'mmse' is for; None: the T compiled for. offset: the rounding that 'mmse'
    assumes, in units of the threshold; None: that of the neurons. rounds: of 'balance'.
    """

    name: ClassVar[str] = "thresholds"
    method: Literal["max", "percentile", "mmse", "balance"] = "percentile"
    percentile: float = 99.9
    channelwise: bool = True
    floor: float = 0.01
    timesteps: int | None = None
    offset: float | None = None
    rounds: int = 400

    def run(self, model: ir.Model, context: Context) -> str:
        """Set `snn.scale` on the output of every activation."""
        if self.method == "max":
            scales = self._maxima(context)
        elif self.method == "percentile":
            scales = self._tails(model, context)
        else:
            scales = self._from_histograms(model, context)
        kept = 0
        for node in model.graph:
            if node.op_type not in ACTIVATIONS:
                continue
            value = node.outputs[0]
            if scale_of(value) is not None:
                kept += 1
                continue
            scale, layer = scales[str(value.name)]
            scale = with_floor(np.maximum(scale, 0), layer, self.floor)
            if node.op_type == "Clip":
                scale = np.minimum(scale, float(weights(node.inputs[2])))
            set_scale(value, scale.astype(np.float32))
        kind = "per channel" if self.channelwise else "per layer"
        what = {
            "max": "maxima",
            "percentile": f"{self.percentile:g} % percentiles",
            "mmse": f"least-squares thresholds for T = {self.timesteps or context.timesteps}",
            "balance": "balanced thresholds",
        }[self.method]
        trained = f"; {kept} trained thresholds kept" if kept else ""
        return f"{len(scales) - kept} {what} {kind}{trained}"

    def _from_histograms(self, model: ir.Model, context: Context) -> dict[str, tuple[Array, float]]:
        seen = {name: Histogram(s.maximum) for name, s in context.statistics.items()}
        for batch in activation_batches(model, context):
            for name, histogram in seen.items():
                histogram.add(by_channel(batch[name]))
        result = {}
        for name, histogram in seen.items():
            whole = histogram.merged()
            layer = float(self._rule(whole, context)[0])
            rows = len(histogram.top)
            per_layer = np.full(rows, layer)
            scale = self._rule(histogram, context) if self.channelwise else per_layer
            alive = context.statistics[name].maximum.max() > 0
            result[name] = (scale, layer if alive else 0.0)
        return result

    def _rule(self, seen: Histogram, context: Context) -> Array:
        if self.method == "balance":
            return balanced_thresholds(seen, self.rounds)
        timesteps = self.timesteps or context.timesteps
        offset = context.offset if self.offset is None else self.offset
        return least_squares_thresholds(seen, timesteps, context.gamma, offset)

    def _maxima(self, context: Context) -> dict[str, tuple[Array, float]]:
        result = {}
        for name, seen in context.statistics.items():
            layer = float(seen.maximum.max())
            scale = seen.maximum if self.channelwise else np.full_like(seen.maximum, layer)
            result[name] = (scale, layer)
        return result

    def _tails(self, model: ir.Model, context: Context) -> dict[str, tuple[Array, float]]:
        p = self.percentile / 100
        layers, channels = {}, {}
        for name, seen in context.statistics.items():
            rows = len(seen.maximum)
            layers[name] = LargestValues(1, rows * seen.count, p)
            channels[name] = LargestValues(rows, seen.count, p)
        for batch in activation_batches(model, context):
            for name in context.statistics:
                a = by_channel(batch[name])
                layers[name].add(a.reshape(1, -1))
                if self.channelwise:
                    channels[name].add(a)
        result = {}
        for name, seen in context.statistics.items():
            layer = float(layers[name].order_statistic()[0])
            per_layer = np.full(len(seen.maximum), layer, np.float32)
            scale = channels[name].order_statistic() if self.channelwise else per_layer
            # A percentile of zero (most values are) says nothing about the size of the others.
            top = float(seen.maximum.max())
            if layer <= 0 < top:
                context.warnings.append(
                    f"'{name}' is active too rarely for its {self.percentile:g} % percentile; "
                    "its maximum is used"
                )
                layer, scale = top, seen.maximum
            result[name] = (scale, layer)
        return result
