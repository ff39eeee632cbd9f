"""Calibrate layer by layer: each layer is corrected for what really reaches it, then fires.

For every population in order, with a its activations in the trained network, z its currents there,
and what the spiking network (calibrated so far) does on the same samples on average over T steps:

    weights     'least_squares': W, b that bring the mean inputs to z, in closed form;
                'straight_through': the weight calibration of Li, Deng et al. 2021
    thresholds  'spike_norm': eta * the largest current of any step (Sengupta et al. 2019)
    bias        b <- b + mean(a - sent), per channel (Li, Deng et al. 2021, "light")
    potential   V(0) <- V(0) + T mean(a - sent), per channel or neuron (the same, "advanced")

A quarter of the samples is held out: what does not lower a layer's error there is taken back. The
readout's weights are corrected, too. What the network sends is simulated or predicted (values
summed over time, see `backends/sweep.py`). All of it holds for one T, the shorter ones most: what
is left in a potential after 16 steps is much the same after more, so no more are simulated, and
currents, which make up for it little by little, are corrected by less (`_fade`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.base import Context, tidy
from passes.corrections import channel_mean, descend, least_squares, moved_potential
from passes.patches import flat_weights, is_plain_synapse, outputs, patches
from passes.rewiring import (
    add_current,
    choice,
    set_constant,
    set_threshold,
    synapse_of,
    theta_of,
    v_init_of,
)
from passes.targets import Truth
from snncompiler.graph import CLIP, Array, attribute, constant, shape, weights
from snncompiler.metrics import macs
from snncompiler.ops import NEURONS

#: Numbers that one value may hold over all steps: what bounds the samples of a simulation. Half the
#: T, four times as many, for the fewer steps there are, the more is to be gained; 1 GiB at most.
_BUDGET, _LONG, _MOST = 9 << 21, 32, 1 << 28
#: Multiply-accumulates that a simulation may cost; a larger network's layers are predicted.
_WORK = 2e11
#: Steps to simulate at most.
_STEPS = 16
#: Rows of a least-squares problem per weight of a kernel.
_ROWS = 16


@dataclass(frozen=True)
class Calibrate:
    """Correct weights, thresholds, biases and potentials, each layer in turn.

    samples: how many calibration samples to use (fewer for large T). least: with fewer than these
    nothing is corrected, for it would only fit them. ridge: how dear a change of weights is.
    eta: of 'spike_norm'. iterations, rate: of 'straight_through'.
    """

    name: ClassVar[str] = "calibrate"
    corrects: ClassVar[bool] = True
    weights: Literal["least_squares", "straight_through"] | None = None
    thresholds: Literal["spike_norm"] | None = None
    bias: bool = False
    potential: Literal["channel", "neuron"] | None = None
    predicted: bool = False
    samples: int = 128
    least: int = 32
    ridge: float = 1.0
    eta: float = 1.0
    iterations: int = 200
    rate: float = 0.02

    def run(self, model: ir.Model, context: Context) -> str:
        """Go through the layers once."""
        if not (self.weights or self.thresholds or self.bias or self.potential):
            return "off"
        if len(context.calibration) < self.least:
            return f"off: fewer than {self.least} samples"
        assert context.sweep is not None
        assert context.ann is not None
        layers = [n for n in model.graph if n.op_type in NEURONS]
        readers = [n for n in model.graph if n.op_type == "Readout"]
        largest = max(int(np.prod(shape(n.outputs[0]))) for n in model.graph)
        steps = min(context.timesteps, _STEPS)
        predicted = self.predicted or macs(context.ann) * steps * self.least > _WORK
        steps = context.timesteps if predicted else steps
        held = largest * (1 if predicted else steps)
        budget = min(_BUDGET * max(1, _LONG // context.timesteps) ** 2, _MOST)
        most = min(self.samples, max(8, budget // held))
        x = context.calibration[choice(context.calibration, most)]
        asked = [(n.outputs[0], n.inputs[0]) if self.weights else n.outputs[:1] for n in layers]
        values = [*chain.from_iterable(asked), *(n.outputs[0] for n in readers)]
        truth = Truth(context.ann, x, [str(v.name) for v in values if v is not None])
        job = _Job(self, context, truth, max(1, len(x) * 3 // 4), steps)
        done = 0

        def visit(sweep: Any, node: ir.Node) -> None:
            nonlocal done
            job.visit(sweep, node)
            done += 1
            context.progress("calibrating", done, len(layers) + len(readers))

        before = {node: list(node.inputs) for node in model.graph}
        context.sweep(model, x, steps, predicted=predicted, dtype=np.float32).run(visit)
        _fade(model, before, steps / context.timesteps)
        tidy(model)
        how = "predicted" if predicted else f"simulated for {steps} steps"
        return f"{len(layers)} layers on {len(x)} samples, {how}; {job.summary()}"


def _fade(model: ir.Model, before: dict[ir.Node, list[ir.Value | None]], share: float) -> None:
    """Keep a share of what weights and biases were changed by.

    They make up for charge that has not arrived, so much per step; in more steps than were
    simulated the same charge is missing, and each step has to bring less of it.
    """
    for node in model.graph:
        if share == 1 or node.op_type in NEURONS:
            continue
        known = before.get(node, [None] * len(node.inputs))
        for index, (old, value) in enumerate(zip(known, list(node.inputs), strict=True)):
            now = constant(value)
            if now is not None and old is not value:
                then = 0.0 if old is None else weights(old).astype(np.float64)
                set_constant(node, index, then + share * (now - then))


@dataclass
class _Job:
    """One calibration: the trained network's values on the samples, and what was gained.

    fit: samples to calibrate on; the others judge. timesteps: T of the sweep.
    """

    options: Calibrate
    context: Context
    truth: Truth
    fit: int
    timesteps: int
    kept: dict[str, list[float]] = field(default_factory=dict)

    def summary(self) -> str:
        """What each stage did to the held-out error: how often kept, the mean factor."""
        parts = []
        for stage, ratios in self.kept.items():
            good = [r for r in ratios if r < 1]
            mean = float(np.exp(np.mean(np.log(np.maximum(np.minimum(ratios, 1), 1e-9)))))
            parts.append(f"{stage} kept in {len(good)} of {len(ratios)}, error x {mean:.2f}")
        return ", ".join(parts)

    def visit(self, sweep: Any, node: ir.Node) -> None:
        """Correct one population, or the readout."""
        options = self.options
        neuron = node.op_type in NEURONS
        wanted = self._wanted(node)
        if wanted is None:
            return

        def sent() -> Array:
            result: Array = sweep.activation(node) if neuron else sweep.mean(node.inputs[0])
            return result

        now = sent()
        before = _error(now[self.fit :], wanted[self.fit :])
        stages: list[tuple[str, Callable[[], None]]] = []
        if options.weights:
            stages.append(("weights", lambda: self._weights(sweep, node, wanted)))
        if options.thresholds and neuron:
            stages.append(("thresholds", lambda: self._thresholds(sweep, node)))
        if options.bias:
            stages.append(("bias", lambda: self._bias(sweep, node, wanted - now)))
        if options.potential and node.op_type == "IF":
            stages.append(("potential", lambda: self._potential(node, wanted - now)))
        for stage, change in stages:
            with _undoable(sweep, node) as undo:
                change()
                then = sent()
                after = _error(then[self.fit :], wanted[self.fit :])
                # Thresholds are balanced for the largest current, not for the least error.
                judged = self.fit < len(wanted) and stage != "thresholds"
                self.kept.setdefault(stage, []).append(after / before if before else 1.0)
                if judged and after >= before:
                    undo()
                else:
                    now, before = then, after

    def _wanted(self, node: ir.Node) -> Array | None:
        """What the trained network has where this population, or readout, stands."""
        return self.truth.get(str(node.outputs[0].name))

    def _weights(self, sweep: Any, node: ir.Node, wanted: Array) -> None:
        synapse, current = synapse_of(node), node.inputs[0]
        assert current is not None
        z = self.truth.get(str(current.name)) if node.op_type in NEURONS else wanted
        if synapse is None or not is_plain_synapse(synapse) or z is None:
            return
        w, b = flat_weights(synapse), weights(synapse.inputs[2]).astype(np.float64)
        x = sweep.mean(synapse.inputs[0])
        total = z[: self.fit].size // z.shape[1]
        rng = np.random.default_rng(self.context.seed)
        count = min(total, max(4096, _ROWS * w.shape[1]))
        rows = np.sort(rng.choice(total, count, replace=False))
        seen, z = patches(synapse, x[: self.fit], rows), outputs(z[: self.fit], rows)
        if node.op_type == "IF":  # where both are silent, no current is wrong
            now = outputs(sweep.mean(current)[: self.fit], rows)
            z = np.where((z <= 0) & (now <= 0), now, z)
        if self.options.weights == "least_squares" or node.op_type != "IF":
            w, b = least_squares(seen, z, w, b, self.options.ridge)
        else:
            seen, a = seen.astype(np.float64), outputs(wanted[: self.fit], rows)
            v = v_init_of(node).reshape(len(w), -1).mean(1)
            w = descend(
                *(seen, a, w, b, theta_of(node), v, self.timesteps),
                attribute(node, "gamma"),
                iterations=self.options.iterations,
                rate=self.options.rate,
                batch=1024,
                rng=rng,
            )
        set_constant(synapse, 1, w.reshape(weights(synapse.inputs[1]).shape))
        set_constant(synapse, 2, b)
        sweep.again(synapse)

    def _thresholds(self, sweep: Any, node: ir.Node) -> None:
        if CLIP in node.metadata_props:
            return  # it saturates exactly where the trained network does
        theta = theta_of(node)
        top = self.options.eta * np.max([step.max() for step in sweep.steps(node.inputs[0])])
        set_threshold(node, np.full_like(theta, max(float(top), theta.max() / 100)))

    def _bias(self, sweep: Any, node: ir.Node, error: Array) -> None:
        before, delta = node.inputs[0], channel_mean(error[: self.fit])
        add_current(node, delta)
        sweep.add(before, node.inputs[0], delta)

    def _potential(self, node: ir.Node, error: Array) -> None:
        assert self.options.potential is not None
        seen, shared = error[: self.fit], self.options.potential
        set_constant(node, 2, moved_potential(v_init_of(node), seen, self.timesteps, shared))


def _error(sent: Array, wanted: Array) -> float:
    """Mean squared error (0 samples: 0)."""
    return float(np.square(sent - wanted, dtype=np.float64).mean()) if len(wanted) else 0.0


@contextmanager
def _undoable(sweep: Any, node: ir.Node) -> Iterator[Callable[[], None]]:
    """Hands out a function that takes back what was done to a reader and its synapse."""
    synapse, value = synapse_of(node), node.inputs[0]
    encode = None if value is None else value.producer()
    touched = list(dict.fromkeys(n for n in (node, encode, synapse) if n is not None))
    inputs = {n: list(n.inputs) for n in touched}
    marks = [dict(n.outputs[0].metadata_props) for n in touched]
    current = sweep.values[value]

    def undo() -> None:
        for n, mark in zip(touched, marks, strict=True):
            for index, old in enumerate(inputs[n]):
                n.replace_input_with(index, old)
            n.outputs[0].metadata_props.update(mark)
        sweep.values[value] = current

    yield undo
