"""What spiking layers should send: the trained network's activations, or what T steps make of them.

The quantised ANN rounds every activation to the counts that its neuron can have after T steps and
clips it where the neuron saturates, on its own prefix (the QC-ANN of Wang et al. 2023). It is what
a network of neurons without residual error would compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

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
#: Numbers of a trained network's values that are kept at a time (1 GiB).
_KEPT = 1 << 28
TOO_LARGE = f"off: the network is too large to simulate {_FEWEST} samples for so many steps"


@dataclass
class Truth:
    """Inner values of a trained network on samples x; all of them at once may not fit into memory.

    names: which, in the order in which they will be asked for; those that the network does not
    have are left out. As many in a row as fit are computed together, and forgotten for the next.
    """

    ann: ir.Model
    x: Array
    names: Iterable[str]
    _groups: dict[str, list[str]] = field(init=False, default_factory=dict)
    _kept: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        values = {str(v.name): v for n in self.ann.graph for v in n.outputs}
        group: list[str] = []
        room = 0
        for name in dict.fromkeys(self.names):
            if name not in values:
                continue
            size = len(self.x) * int(np.prod(shape(values[name])))
            if size > room:
                group, room = [], _KEPT
            room -= size
            group.append(name)
            self._groups[name] = group

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, name: str) -> Array | None:
        """The value [N, ...], None if the network has none of this name."""
        if name not in self._groups:
            return None
        if name not in self._kept:
            self._kept = {}
            self._kept = run(_upto(self.ann, self._groups[name]), self.x)
        return self._kept[name]


def _upto(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of the network up to these values, which are its outputs."""
    copy = model.clone()
    values = {str(v.name): v for n in copy.graph for v in n.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    common.RemoveUnusedNodesPass()(copy)
    return copy


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


def wanted(model: ir.Model, context: Context, x: Array, kind: Target) -> Truth:
    """Target activations of all populations and outputs, by the names of their values."""
    assert context.ann is not None
    neurons = [n for n in model.graph if n.op_type in NEURONS]
    readouts = [n for n in model.graph if n.op_type == "Readout"]
    ann = context.ann
    if kind == "quantised":
        ann = ann.clone()
        for gamma in {float(attribute(n, "gamma")) for n in neurons}:
            same = [n for n in neurons if attribute(n, "gamma") == gamma]
            thresholds = {str(n.outputs[0].name): theta_of(n) for n in same}
            insert(ann, thresholds, context.timesteps, gamma)
    return Truth(ann, x, [str(n.outputs[0].name) for n in (*neurons, *readouts)])
