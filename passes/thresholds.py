"""Choose the activation scale of every neuron population: its threshold in physical units.

    max:         lambda = max a                        (Diehl et al. 2015)
    percentile:  lambda = order statistic p of a       (Rueckauer et al. 2017, "p-norm")

each over the whole layer or per channel (Kim et al. 2020, "channel-norm"). All statistics are
those of the activation's output on the calibration data; for LeakyRelu and PRelu of its size.
The scale of Clip(0, c) never exceeds c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.activations import activation_batches, by_channel
from passes.base import Context
from passes.threshold_rules import LargestValues, with_floor
from snncompiler.graph import ACTIVATIONS, Array, set_scale, weights


@dataclass(frozen=True)
class Thresholds:
    """Annotate every activation with its scale.

    method: 'max' or 'percentile'. percentile: in percent. channelwise: one per channel instead of
    one per layer. floor: least share of the layer's threshold that a channel may have.
    """

    name: ClassVar[str] = "thresholds"
    method: Literal["max", "percentile"] = "percentile"
    percentile: float = 99.9
    channelwise: bool = True
    floor: float = 0.01

    def run(self, model: ir.Model, context: Context) -> str:
        """Set `snn.scale` on the output of every activation."""
        scales = self._maxima(context) if self.method == "max" else self._tails(model, context)
        for node in model.graph:
            if node.op_type not in ACTIVATIONS:
                continue
            value = node.outputs[0]
            scale, layer = scales[str(value.name)]
            scale = with_floor(np.maximum(scale, 0), layer, self.floor)
            if node.op_type == "Clip":
                scale = np.minimum(scale, float(weights(node.inputs[2])))
            set_scale(value, scale.astype(np.float32))
        kind = "per channel" if self.channelwise else "per layer"
        what = "maxima" if self.method == "max" else f"{self.percentile:g} % percentiles"
        return f"{len(scales)} {what} {kind}"

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
