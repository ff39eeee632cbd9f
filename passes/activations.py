"""The trained network's activations on the calibration data, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx_ir as ir

from passes.base import Context
from snncompiler.ann import stream
from snncompiler.graph import ACTIVATIONS, Array, shape

#: Activations held at a time: a sixteenth of a gigabyte.
_VALUES = 1 << 24


def activations(model: ir.Model) -> list[str]:
    """The outputs of all activations, in order."""
    return [str(n.outputs[0].name) for n in model.graph if n.op_type in ACTIVATIONS]


def activation_batches(model: ir.Model, context: Context) -> Iterator[dict[str, Array]]:
    """All activations of the calibration data (signed ones: their size), batch by batch."""
    names, x = activations(model), context.calibration
    sizes = [prod(shape(n.outputs[0])) for n in model.graph if n.op_type in ACTIVATIONS]
    batch = max(1, min(32, _VALUES // max(1, sum(sizes))))
    signed = [str(n.outputs[0].name) for n in model.graph if n.op_type in ("LeakyRelu", "PRelu")]
    for i, values in enumerate(stream(model, x, names, batch)):
        # A signed neuron saturates on both sides, so its scale must cover both.
        yield values | {name: np.abs(values[name]) for name in signed}
        context.progress("observing", min((i + 1) * batch, len(x)), len(x))


def by_channel(a: Array) -> Array:
    """[N, C, ...] as [C, values]."""
    return np.moveaxis(a, 1, 0).reshape(a.shape[1], -1)
