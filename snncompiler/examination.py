"""Both networks run side by side: what arrives at each site of error, and what it sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from backends.base import per_channel
from backends.definitions import States, Values, evaluate
from backends.numpy_ops import max_pool
from backends.reference import NumpyProgram
from snncompiler.ann import run
from snncompiler.decomposition import OWN, ErrorSum, Population, neuron_stages, parts
from snncompiler.diagnostics import clean, refuse
from snncompiler.disturbance import Disturbed
from snncompiler.graph import CLIP, Array, attribute, rank, scale_of, shape, weights
from snncompiler.ops import NEURONS

_POOLS = ("MLIPool", "MaxPool")
_WINDOWS = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
_Said = dict[str, Array]
#: Hears t, all values and all states after every step.
Watcher = Callable[[int, Values, States], None]


@dataclass
class Tally:
    """Sums over samples for one site."""

    node: ir.Node
    truth: str
    factor: Array
    population: Population | None = None
    said: ir.Value | None = None
    errors: ErrorSum = field(default_factory=ErrorSum)
    alone: float = 0.0
    effect: float = 0.0
    spikes: float = 0.0
    neurons: float = 0.0
    saturated: float = 0.0
    over: float = 0.0
    under: float = 0.0
    sin: float = 0.0


class Visit:
    """One examination: the sites of a network and what was seen at each so far."""

    def __init__(
        self, program: NumpyProgram, ann: ir.Model, steps: int, watch: Sequence[Watcher] = ()
    ) -> None:
        self.program, self.ann, self.steps, self.watch = program, ann, steps, watch
        network = program.network
        # Not on the grid: the activations of the trained network are fed into the synapses.
        self.teacher = NumpyProgram(network, np.float64)
        known = {str(n.outputs[0].name) for n in ann.graph}
        self.tallies = [t for t in map(self._tally, network.steps) if t and t.truth in known]
        self.readouts = {o.name: (o, ErrorSum()) for o in network.outputs}
        neurons = [n for n in network.steps if n.op_type in NEURONS]
        missing = [n for n in neurons if str(n.outputs[0].name) not in known]
        strange = [n for n in neurons if n.op_type not in ("IF", "LeakyIF")]
        outputs = [str(v.name) for v in ann.graph.outputs]
        alike = shape(ann.graph.inputs[0]) == shape(network.image)
        if strange:
            raise refuse(
                clean(f"the doctor cannot examine '{strange[0].name}' ({strange[0].op_type})"),
                "errors are split for the neurons IF and LeakyIF only",
                "compile with another recipe to study the layers",
            )
        if missing or not alike or outputs != list(self.readouts):
            raise refuse(
                "the spiking network was not compiled from this trained network",
                "their layers, inputs or outputs do not correspond",
                "give the trained network that was compiled",
            )
        self.names = [t.truth for t in self.tallies]
        self.disturbed = Disturbed(ann, self.names)
        self.norm = 0.0

    def _tally(self, node: ir.Node) -> Tally | None:
        value = node.outputs[0]
        normalised = self.program.network.record.get("form") == "normalised"
        scale = scale_of(value) if normalised else None
        if normalised and scale is None:
            return None
        one = np.ones(1) if scale is None else per_channel(scale, rank(value))
        if node.op_type in _POOLS:
            return Tally(node, str(value.name), one, said=value)
        if node.op_type not in ("IF", "LeakyIF"):
            return None
        population = _population(node, one if normalised else None)
        twin = next((u.node for u in value.uses() if u.node.op_type == "TwinSynapse"), None)
        said = value if twin is None else twin.outputs[0]
        factor = population.scale / population.theta
        return Tally(node, str(value.name), factor, population, said)

    def see(self, x: Array) -> tuple[Array, Array]:
        """Examine a batch; returns the first output of both networks."""
        truth = {k: a.astype(np.float64) for k, a in run(self.ann, x, self.names).items()}
        taught = self._taught(x, truth)
        arrived, sent, said = self._simulate(x)
        own: dict[str, Array] = {}
        for tally in self.tallies:
            a = truth[tally.truth]
            if tally.population is None:
                settings = {k: attribute(tally.node, k) for k in _WINDOWS}
                pooled = max_pool(arrived[tally.node] / self.steps, **settings)
                stages = {"inherited": pooled, "pooling": sent[tally.node] / self.steps}
                found = parts(a, {k: v * tally.factor for k, v in stages.items()})
            else:
                found = self._examine(tally, a, taught, arrived[tally.node], sent[tally.node])
            tally.errors.add(a, found)
            tally.neurons += a.size
            own[tally.truth] = sum((found[c] for c in OWN if c in found), np.zeros(1))
        for name, (output, errors) in self.readouts.items():
            stages = {"synapses": taught[output.current], "inherited": said[name]}
            errors.add(truth[name], parts(truth[name], stages))
        self._disturb(x, [truth[n] for n in self.readouts], own)
        first = next(iter(self.readouts))
        return said[first], truth[first]

    def _examine(
        self, tally: Tally, a: Array, taught: Values, total: Array, sent: Array
    ) -> dict[str, Array]:
        population, steps = tally.population, self.awake(tally.node)
        assert population is not None
        z = taught[tally.node.inputs[0]]
        counts = np.rint(sent / population.theta)
        perfect = population.counts(total, steps)
        alone = population.scale * population.counts(z * steps, steps) / steps - a
        tally.alone += float(np.vdot(alone, alone))
        tally.spikes += float(np.abs(counts).sum())
        tally.over += float((np.abs(counts) > np.abs(perfect)).sum())
        tally.under += float((np.abs(counts) < np.abs(perfect)).sum())
        tally.sin += float(((counts > 0) & (a <= 0)).sum())
        arrived = population.activation(total / steps)
        tally.saturated += float((arrived > population.clipped(arrived)).sum())
        return parts(a, neuron_stages(population, z, total, counts, steps))

    def awake(self, node: ir.Node) -> int:
        """Steps at which a population is not frozen."""
        return max(1, self.steps - int(attribute(node, "delay", 0)))

    def _taught(self, x: Array, truth: dict[str, Array]) -> Values:
        """Every current of the compiled network, its sites saying what the trained one does."""
        program, sites = self.teacher, {t.node: t for t in self.tallies}
        values = program.still(x)
        for node in program.network.steps:
            output = node.outputs[0]
            if node in sites:
                values[output] = truth[sites[node].truth] / sites[node].factor
            elif node.domain == "":
                values[output] = evaluate(node, values, program.parameters[node])
            elif node.op_type in _POOLS:
                values[output] = max_pool(values[node.inputs[0]], **program.parameters[node])
            else:  # Encode, TwinSynapse
                values[output] = values[node.inputs[0]]
        return values

    def _simulate(self, x: Array) -> tuple[dict[ir.Node, Array], dict[ir.Node, Array], _Said]:
        """What arrived at each site and what it sent, summed over time; the readouts."""
        arrived: dict[ir.Node, Array] = {}
        sent: dict[ir.Node, Array] = {}
        said: _Said = {}
        for t, values, states in self.program.steps(x, self.steps):
            for watcher in self.watch:
                watcher(t, values, states)
            for tally in self.tallies:
                node = tally.node
                if t > int(attribute(node, "delay", 0)):
                    _accumulate(arrived, node, values[node.inputs[0]])
                _accumulate(sent, node, values[tally.said])
            for name, (output, _errors) in self.readouts.items():
                if t > output.start:
                    _accumulate(said, name, values[output.current])
        for name, (output, _errors) in self.readouts.items():
            said[name] = said[name] / max(1, self.steps - output.start)
        return arrived, sent, said

    def _disturb(self, x: Array, outputs: list[Array], own: dict[str, Array]) -> None:
        self.norm += sum(float(np.vdot(o, o)) for o in outputs)
        for tally in self.tallies:
            error = own[tally.truth]
            if error.any():
                changed = self.disturbed.outputs(x, {tally.truth: error})
                pairs = zip(changed, outputs, strict=True)
                tally.effect += sum(float(((c - o) ** 2).sum()) for c, o in pairs)


def _accumulate(sums: dict[Any, Array], key: Any, value: Array) -> None:
    if key in sums:
        sums[key] += value
    else:
        sums[key] = value.astype(np.float64)


def _population(node: ir.Node, scale: Array | None) -> Population:
    """The numbers of an IF or LeakyIF; scale None: a spike carries its threshold."""
    n = rank(node.outputs[0])
    theta = per_channel(weights(node.inputs[1]), n)
    gamma = float(np.float32(attribute(node, "gamma")))  # as the file holds it
    alpha = bound = None
    v_init: Array = np.zeros(1)
    if node.op_type == "LeakyIF":
        alpha = per_channel(np.array(attribute(node, "alpha"), np.float32), n)
    else:
        v_init = weights(node.inputs[2]).astype(np.float64)
        v_init = v_init.reshape(v_init.shape + (1,) * (n - 1 - v_init.ndim))
    if CLIP in node.metadata_props:
        bound = per_channel(np.array(json.loads(node.metadata_props[CLIP])), n)
    return Population(theta, v_init, theta if scale is None else scale, gamma, bound, alpha)
