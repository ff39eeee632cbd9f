"""Fine calibration: every layer learns to send, spike by spike, what it should (Wang et al. 2023).

For every population in order, with the spikes that really reach it (`predicted`: their counts):
weights, biases and initial potentials go down the gradient of

    'kl'   KL(softmax(a) || softmax(r))   of the rates r against the target a (recognition)
    'mse'  mean (r - a)^2                 (regression, detection)

both in thresholds, by back-propagation through time within the layer (`passes/bptt.py`) and Adam.
Convolutions are looked at in random places, a few rows of matrices at a time. Early stopping: the
parameters with the least loss on held-out samples are kept, those before included. The readout,
which is linear, is fitted in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes import bptt
from passes.base import Context, tidy
from passes.corrections import least_squares
from passes.descent import Adam
from passes.drive import Batch, Drive, drive_of
from passes.rewiring import add_current, set_constant, theta_of, v_init_of
from passes.targets import HELD, TOO_LARGE, Target, chosen_samples, wanted
from snncompiler.graph import Array, attribute, weights
from snncompiler.ops import NEURONS

#: Rows (samples times places) times time steps of one step of descent, and of a look at the
#: held-out samples: what a step costs does not depend on T.
_ROWS, _HELD_ROWS = 4096, 16384
#: Samples of one step of descent. Steps between two looks.
_SAMPLES, _EVERY = 16, 20
#: Samples for which the number of steps is told; more teach more, before they are known by heart.
_USUAL = 256


@dataclass(frozen=True)
class Fine:
    """Descent layer by layer; loss None: off.

    target: the ANN with activations rounded to T levels, or the original one. iterations: steps of
    Adam per layer; with more than 256 samples as many more as the root of their number grows.
    patience: so many looks without gain end a layer. rate: size of a step as a share of the
    weights' root mean square and, for potentials, of the threshold. alpha: width of the surrogate
    in thresholds. ridge: how dear a change of the readout is. predicted: learn what neurons send in
    the end if all of their current comes at once, instead of a simulation; exact for layers that
    take turns. longest: beyond so many time steps, do nothing. work: nor if descent might cost more
    multiply-accumulates than that. None: always learn. samples: how many to use; a quarter of them
    is held out. held: fewer, so that no value takes more numbers over all steps. least: with fewer
    samples than these nothing is changed.
    """

    name: ClassVar[str] = "fine"
    corrects: ClassVar[bool] = True
    loss: Literal["kl", "mse"] | None = None
    target: Target = "quantised"
    iterations: int = 200
    patience: int = 5
    rate: float = 0.01
    alpha: float = 1.0
    ridge: float = 1.0
    predicted: bool = False
    longest: int | None = None
    work: float | None = None
    samples: int = 256
    held: int = HELD
    least: int = 32

    def run(self, model: ir.Model, context: Context) -> str:
        """Go through the layers once."""
        if self.loss is None:
            return "off"
        if len(context.calibration) < self.least:
            return f"off: fewer than {self.least} samples"
        assert context.sweep is not None
        if self.longest is not None and context.timesteps > self.longest:
            return f"off: for at most {self.longest} time steps"
        if self.work is not None and self._cost(model) > self.work:
            return "off: the network has too many weights to learn in reasonable time"
        steps = 1 if self.predicted else context.timesteps
        x = chosen_samples(model, context, self.samples, steps, self.held)
        if not len(x):
            return TOO_LARGE
        truth = wanted(model, context, x, self.target)
        ratios: list[float] = []

        def visit(sweep: Any, node: ir.Node) -> None:
            target = truth.get(str(node.outputs[0].name))
            if target is None or attribute(node, "delay", 0):
                return
            if node.op_type in NEURONS:
                ratios.append(_Layer(self, drive_of(sweep, node), target, context.seed).learn())
            else:
                self._fit_readout(sweep, node, target)
            context.progress("fine calibration", len(ratios), len(truth))

        settings: dict[str, Any] = {"predicted": self.predicted, "dtype": np.float32}
        context.sweep(model, x, context.timesteps, **settings).run(visit)
        tidy(model)
        mean = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9))))) if ratios else 1.0
        return f"{len(ratios)} layers on {len(x)} samples, held-out loss x {mean:.2f}"

    def steps(self, samples: int) -> int:
        """Steps of descent per layer on so many samples.

        >>> Fine().steps(64), Fine().steps(1024)
        (200, 400)
        """
        return round(self.iterations * float(np.sqrt(max(1.0, samples / _USUAL))))

    def _cost(self, model: ir.Model) -> int:
        """Multiply-accumulates of a descent on the usual samples: forward and two back."""
        kernels = [weights(n.inputs[1]).size for n in model.graph if n.op_type in ("Conv", "Gemm")]
        return 3 * self.iterations * _ROWS * sum(kernels)

    def _fit_readout(self, sweep: Any, node: ir.Node, target: Array) -> None:
        drive = drive_of(sweep, node)
        if not drive.whole or [s.node.op_type for s in drive.synapses] != ["Gemm"]:
            return
        synapse = drive.synapses[0].node
        cut = len(target) * 3 // 4
        x, w = sweep.mean(synapse.inputs[0]), weights(synapse.inputs[1]).astype(np.float64)
        b = weights(synapse.inputs[2]).astype(np.float64)
        found = least_squares(x[:cut], target[:cut], w, b, self.ridge)
        before, after = (
            np.square(x[cut:] @ v.T + c - target[cut:]).mean() for v, c in ((w, b), found)
        )
        if after < before:
            set_constant(synapse, 1, found[0])
            set_constant(synapse, 2, found[1])
            drive.refresh()


@dataclass
class _Layer:
    """One population on its way down: parameters are W of each synapse, b and V(0), per channel.

    Predicted, T steps are one: the mean current, and T times as many spikes, each worth a T-th.
    """

    options: Fine
    drive: Drive
    target: Array
    seed: int
    timesteps: int = field(init=False)  # that descent sees
    merged: int = field(init=False)  # of the network, in each of them
    theta: Array = field(init=False)
    v: Array = field(init=False)
    places: int = field(init=False)

    def __post_init__(self) -> None:
        node, sweep = self.drive.node, self.drive.sweep
        steps = sweep.timesteps
        self.timesteps, self.merged = (1, steps) if sweep.predicted else (steps, 1)
        channels, self.places = self.target.shape[1], int(np.prod(self.target.shape[2:]))
        self.theta = (theta_of(node) / self.merged).astype(np.float32)
        self.target = self.target.reshape(len(self.target), channels, self.places)
        self.v = np.zeros((channels, 1), np.float32)
        if node.op_type == "IF":
            v = (v_init_of(node) / self.merged).astype(np.float32)
            self.v = v.reshape(channels, -1)

    def learn(self) -> float:
        """Descend, keep the best; returns the held-out loss as a share of the one before."""
        options, drive = self.options, self.drive
        rng = np.random.default_rng(self.seed)
        timesteps = self.timesteps
        zeros = np.zeros_like(self.theta)
        start = [*(s.w for s in drive.synapses), zeros, zeros]
        sizes = [options.rate * float(np.sqrt(np.square(s.w).mean())) for s in drive.synapses]
        level = options.rate * self.theta
        steps = options.steps(len(self.target))
        adam = Adam(start, [*sizes, level / timesteps, level], steps)
        cut = len(self.target) * 3 // 4
        others = np.arange(cut, len(self.target))
        held = list(self._parts(*self._rows(rng, others, _HELD_ROWS // timesteps)))
        least = before = self._loss(held, start)
        best, worse = start, 0
        for i in range(1, steps + 1):
            chosen = rng.choice(cut, min(_SAMPLES, cut), replace=False)
            part = self._part(*self._rows(rng, chosen, _ROWS // timesteps))
            adam.step(self._gradients(*part, adam.parameters))
            if i % _EVERY and i != steps:
                continue
            loss = self._loss(held, adam.parameters)
            worse = 0 if loss < least else worse + 1
            if loss < least:
                best, least = adam.parameters.copy(), loss
            if worse > options.patience:
                break
        if best is not start:
            self._put(best)
        return least / before if before else 1.0

    def _rows(self, rng: np.random.Generator, samples: Array, rows: int) -> tuple[Array, Array]:
        """Random places of the samples, [B, P]; all of them if there are so few."""
        most = min(self.places, max(1, rows // len(samples)))
        if most == self.places:
            return samples, np.broadcast_to(np.arange(most), (len(samples), most))
        return samples, rng.integers(0, self.places, (len(samples), most))

    def _part(self, samples: Array, places: Array) -> tuple[Batch, Array, Array]:
        """(what comes in, the target rates [B, P M], the initial potentials [R, M])."""
        target = self.target[samples[:, None], :, places] / self.theta  # [B, P, M]
        at = places if self.v.shape[1] > 1 else np.zeros_like(places)
        v = self.v[:, at.reshape(-1)].T
        return self.drive.batch(samples, places), target.reshape(len(samples), -1), v

    def _parts(self, samples: Array, places: Array) -> Iterator[tuple[Batch, Array, Array]]:
        """The same in pieces that memory holds."""
        for k in range(0, len(samples), _SAMPLES):
            yield self._part(samples[k : k + _SAMPLES], places[k : k + _SAMPLES])

    def _fire(
        self, batch: Batch, v: Array, parameters: list[Array]
    ) -> tuple[Array, Array, Array | None]:
        """(rates [R, M], h [T, R, M], f' of a LeakyIF) under the parameters."""
        *w, b, u = parameters
        node, timesteps = self.drive.node, self.timesteps
        current = self.drive.current(batch, w) + b
        current = np.broadcast_to(current, (timesteps, batch.rows, len(self.theta)))
        gamma, alpha = self.merged * float(attribute(node, "gamma")), self.options.alpha
        if node.op_type == "LeakyIF":
            slope = np.asarray(attribute(node, "alpha"), np.float32)
            count, h, steep = bptt.fire_leaky(current, slope, self.theta, gamma, alpha)
            return count / timesteps, h, steep
        back = float(attribute(node, "gamma_neg"))
        count, h = bptt.fire(current, v + u, self.theta, gamma, back, alpha)
        return count / timesteps, h, None

    def _measure(self, rates: Array, target: Array) -> tuple[float, Array]:
        measure = bptt.divergence if self.options.loss == "kl" else bptt.squared_error
        loss, g = measure(rates.reshape(target.shape), target)
        return loss, g.reshape(rates.shape)

    def _loss(self, parts: list[tuple[Batch, Array, Array]], parameters: list[Array]) -> float:
        losses = [
            self._measure(self._fire(batch, v, parameters)[0], target)[0] * len(target)
            for batch, target, v in parts
        ]
        return sum(losses) / sum(len(target) for _batch, target, _v in parts)

    def _gradients(
        self, batch: Batch, target: Array, v: Array, parameters: list[Array]
    ) -> list[Array]:
        """dLoss by W of each synapse, b and V(0)."""
        rates, h, steep = self._fire(batch, v, parameters)
        _loss, g = self._measure(rates, target)
        by_current = bptt.backward(g, h, self.theta, steep)
        by_weights = self.drive.gradients(batch, by_current, parameters[:-2])
        return [*by_weights, by_current.sum((0, 1)), by_current[0].sum(0)]

    def _put(self, parameters: list[Array]) -> None:
        """Write the parameters into the network."""
        node, (*matrices, b, u) = self.drive.node, parameters
        for synapse, w in zip(self.drive.synapses, matrices, strict=True):
            synapse.w = w
            set_constant(synapse.node, 1, synapse.shaped)
        if self.drive.synapses:  # a join's other branches need no bias of their own
            first = self.drive.synapses[0].node
            set_constant(first, 2, weights(first.inputs[2]).astype(np.float64) + b)
            self.drive.refresh()
        elif b.any():
            before = node.inputs[0]
            add_current(node, b)
            self.drive.sweep.add(before, node.inputs[0], b)
        if u.any() and node.op_type == "IF":
            v = v_init_of(node)
            set_constant(node, 2, v + self.merged * u.reshape(-1, *[1] * (v.ndim - 1)))
