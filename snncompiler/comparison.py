"""Two compiled networks, or one on two backends, side by side: where do their spikes part?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import onnx_ir as ir

import backends
from backends.base import Program, batches
from snncompiler.data import Samples
from snncompiler.diagnostics import refuse
from snncompiler.graph import Array, shape
from snncompiler.metrics import power_steps, top1
from snncompiler.ops import SPIKING
from snncompiler.progress import Progress, silent
from snncompiler.record import choose_timesteps, record_of
from snncompiler.trace import Observe, Trace

_BYTES = 256 << 20  # of spike trains at a time


@dataclass
class Layer:
    """One layer that both networks have: entries of its spike trains, and how many differ.

    first_step: the first step at which any differ, or None.
    """

    name: str
    op: str
    entries: int = 0
    different: int = 0
    first_step: int | None = None


@dataclass
class Comparison:
    """What was found; names are the labels given.

    accuracy_at: by label, by step. agreement_at: share of samples with the same top-1.
    output_difference_at: ||a - b|| / ||a||. first: layer and step where the two part: the first in
    time and, at that step, in the order of the network; all other differences may follow from it.
    only: layers that one of them lacks, or that differ in shape.
    """

    labels: tuple[str, str]
    timesteps: int
    samples: int
    layers: list[Layer]
    accuracy_at: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement_at: dict[str, float] = field(default_factory=dict)
    output_difference_at: dict[str, float] = field(default_factory=dict)
    first: tuple[str, int] | None = None
    only: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether all layers correspond and no spike differs."""
        return self.first is None and not self.only

    def as_json(self) -> dict[str, object]:
        """The JSON twin of the table."""
        return {**asdict(self), "same": self.same}


def compare(
    models: tuple[ir.Model, ir.Model],
    data: Samples,
    *,
    labels: tuple[str, str] = ("A", "B"),
    used: tuple[str, str] = ("event", "event"),
    timesteps: int | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Run two compiled networks on the same samples and compare every spike.

    Args:
        models: the networks; the same one twice to compare backends.
        data: samples for both.
        labels: what to call them.
        used: the backend of each.
        timesteps: T; by default the T that the first was compiled for.
        progress: called with (what, done, total).

    Raises:
        InputError: their inputs or outputs differ in shape, or T is below 1.
    """
    steps = choose_timesteps(record_of(models[0]), timesteps)
    ends = [(shape(m.graph.inputs[0]), [shape(v) for v in m.graph.outputs]) for m in models]
    if ends[0] != ends[1]:
        raise refuse(
            "the two networks cannot be compared",
            f"their inputs and outputs have shapes {ends[0]} and {ends[1]}",
            "compare networks of the same task",
        )
    one, two = (_layers(m) for m in models)
    common = [name for name in one if two.get(name) == one[name]]
    result = Comparison(labels, steps, len(data.x), [Layer(n, one[n][0]) for n in common])
    result.only = [n for n in dict.fromkeys([*one, *two]) if n not in common]
    programs = [backends.load(b).build(m) for b, m in zip(used, models, strict=True)]
    readouts: list[list[Array]] = [[], []]
    size = 4 * steps * sum(int(np.prod(dims)) for _op, dims in (*one.values(), *two.values()))
    for part in batches(len(data.x), size, _BYTES):
        traces = [_run(p, data.x[part], steps) for p in programs]
        for layer in result.layers:
            _count(layer, traces[0].trains[layer.name], traces[1].trains[layer.name])
        for kept, trace in zip(readouts, traces, strict=True):
            kept.append(next(iter(trace.readout.values())))
        progress("comparing", part.stop, len(data.x))
    apart = [(x.first_step, i) for i, x in enumerate(result.layers) if x.first_step is not None]
    if apart:
        step, index = min(apart)
        result.first = (result.layers[index].name, step)
    _outputs(result, data, *(np.concatenate(kept, axis=1) for kept in readouts))
    return result


def _layers(model: ir.Model) -> dict[str, tuple[str, tuple[int, ...]]]:
    nodes = [n for n in model.graph if n.op_type in SPIKING]
    return {str(n.name): (n.op_type, shape(n.outputs[0])) for n in nodes}


def _run(program: Program, x: Array, steps: int) -> Trace:
    return program.run(x, steps, Observe(steps=power_steps(steps), spikes=True))


def _count(layer: Layer, one: Array, two: Array) -> None:
    differs = (one != two).reshape(len(one), -1)
    layer.entries += differs.size
    layer.different += int(differs.sum())
    steps = np.flatnonzero(differs.any(1)) + 1
    if len(steps):
        layer.first_step = min(int(steps[0]), layer.first_step or int(steps[0]))


def _outputs(result: Comparison, data: Samples, one: Array, two: Array) -> None:
    for i, t in enumerate(power_steps(result.timesteps)):
        a, b = one[i].astype(np.float64), two[i].astype(np.float64)
        norm = float(np.linalg.norm(a)) or 1.0
        result.agreement_at[str(t)] = float((top1(a) == top1(b)).mean())
        result.output_difference_at[str(t)] = float(np.linalg.norm(a - b)) / norm
        if data.y is not None:
            for label, output in zip(result.labels, (a, b), strict=True):
                share = float((top1(output) == data.y).mean())
                result.accuracy_at.setdefault(label, {})[str(t)] = share
