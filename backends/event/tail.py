"""The outputs: linear in what the last layers send, so computed from sums over time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from backends import numpy_ops as ops
from backends.definitions import Values, evaluate, parameters
from backends.event import kernels
from backends.event.plan import Plan
from backends.event.stretch import Stretch
from snncompiler.graph import Array, shape


class Tail:
    """f, the linear nodes before the outputs: over t steps, they read f(sum x_t) + (t - 1) f(0).

    f(0) holds the biases. All in float64, which is exact for networks on a grid.
    """

    def __init__(self, plan: Plan, constants: Values) -> None:
        self.plan, self.constants = plan, constants
        self.parameters = {node: parameters(node) for node in plan.tail}
        zeros = {v: np.zeros((1, *shape(v))) for v in plan.heard}
        self.at_zero = self._through(zeros)

    def listen(self, kept: tuple[int, ...], samples: int) -> Sums:
        """Start to sum."""
        return Sums(self, kept, samples)

    def _through(self, values: Values) -> dict[ir.Value, Array]:
        known: Values = {**self.constants, **values}
        for node in self.plan.tail:
            known[node.outputs[0]] = evaluate(node, known, self.parameters[node])
        return {o.current: np.asarray(known[o.current]) for o in self.plan.network.outputs}

    def read(self, sums: Values, t: int) -> dict[ir.Value, Array]:
        """What flows into every output in t steps together, for the sums of what is heard."""
        if t == 0:
            return {v: np.zeros_like(a) for v, a in self.at_zero.items()}
        return {v: a + (t - 1) * self.at_zero[v] for v, a in self._through(sums).items()}


class Sums:
    """The sums over time of what the tail hears, up to the steps where outputs are read."""

    def __init__(self, tail: Tail, kept: tuple[int, ...], samples: int) -> None:
        self.tail, self.kept, self.samples = tail, kept, samples
        outputs = tail.plan.network.outputs
        self.steps = sorted({*kept, *(o.start for o in outputs)} - {0})
        self.sums: dict[int, Values] = {t: {} for t in self.steps}
        self.running: Values = {}

    def hear(self, now: Stretch) -> None:
        """Add a stretch."""
        last = now.before + now.steps
        marks = [t for t in self.steps if now.before < t <= last]
        for value in self.tail.plan.heard:
            if value in now.static:
                for t in marks:
                    self.sums[t][value] = now.static[value].astype(np.float64) * t
                continue
            upto = np.array([t - now.before for t in marks if t < last] + [now.steps])
            totals = self._totals(value, now, upto)
            if value in self.running:
                totals = totals + self.running[value]
            for t, total in zip(marks, totals, strict=False):
                self.sums[t][value] = total
            self.running[value] = totals[-1]

    def _totals(self, value: ir.Value, now: Stretch, upto: Array) -> Array:
        """Sums over the first upto[k] steps of the stretch, [k, B, C, ...]."""
        if value in now.spikes:
            x = now.spikes[value].x
            out = np.zeros((now.samples, len(upto), x[0, 0].size))
            kernels.sum_steps(out, x.reshape(*x.shape[:2], -1), upto)
            out = out.reshape(now.samples, len(upto), *x.shape[2:]).swapaxes(2, 3)
            unit = now.units[value][:, None]
            return (out * unit).swapaxes(0, 1).reshape(len(upto), now.samples, *shape(value))
        x = now.dense[value].reshape(now.samples, now.steps, *shape(value))
        return np.stack([x[:, :n].sum(1, dtype=np.float64) for n in upto])

    def readouts(self, dtype: np.dtype[np.generic]) -> dict[str, Array]:
        """By output, [S, N, ...]: what it reads at the kept steps."""
        totals = {t: self.tail.read(self.sums[t], t) for t in self.steps}
        totals[0] = self.tail.read({}, 0)
        result = {}
        for o in self.tail.plan.network.outputs:
            rows = []
            for t in self.kept:
                total = totals[t][o.current] - totals[min(o.start, t)][o.current]
                rows.append(ops.readout(total, t, mode=o.mode, start=o.start))
            result[o.name] = np.stack(rows).astype(dtype)
        return result
