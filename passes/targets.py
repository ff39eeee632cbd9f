"""What spiking layers should send: the trained network's activations, or what T steps make of them.

The quantised ANN rounds every activation to the counts that its neuron can have after T steps and
clips it where the neuron saturates, on its own prefix (the QC-ANN of Wang et al. 2023). It is what
a network of neurons without residual error would compute.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from passes.base import Context
from passes.rewiring import choice, theta_of
from snncompiler.ann import run
from snncompiler.graph import Array, attribute, shape
from snncompiler.metrics import macs
from snncompiler.ops import NEURONS
from snncompiler.quantisers import insert

Target = Literal["quantised", "original"]
#: Numbers that one value may take over all steps of a simulation (2 GiB), unless said otherwise.
HELD = 1 << 29
#: Multiply-accumulates of a simulation. Fewer samples than these teach nothing.
_WORK, _FEWEST = 4e12, 8
TOO_LARGE = f"off: the network is too large to simulate {_FEWEST} samples for so many steps"


def chosen_samples(model: ir.Model, context: Context, samples: int, steps: int, held: int) -> Array:
    """At most `samples` of the calibration data; fewer for a large network, none for a huge one.

    steps: time steps that are simulated. held: numbers that one value may take over all of them.
    """
    assert context.ann is not None
    largest = max(int(np.prod(shape(n.outputs[0]))) for n in model.graph)
    affordable = min(held / (largest * steps), _WORK / (macs(context.ann) * steps + 1))
    if affordable < _FEWEST:
        return context.calibration[:0]
    return context.calibration[choice(context.calibration, min(samples, int(affordable)))]


def wanted(model: ir.Model, context: Context, x: Array, kind: Target) -> dict[str, Array]:
    """Target activations of all populations and outputs, by the names of their values."""
    assert context.ann is not None
    neurons = [n for n in model.graph if n.op_type in NEURONS]
    names = [str(n.outputs[0].name) for n in neurons]
    ann = context.ann
    if kind == "quantised":
        ann = ann.clone()
        for gamma in {float(attribute(n, "gamma")) for n in neurons}:
            same = [n for n in neurons if attribute(n, "gamma") == gamma]
            thresholds = {str(n.outputs[0].name): theta_of(n) for n in same}
            insert(ann, thresholds, context.timesteps, gamma)
    known = {str(v.name) for n in ann.graph for v in n.outputs}
    return run(ann, x, [name for name in names if name in known])
