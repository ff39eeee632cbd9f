"""The outputs: linear in what the last layers send, so computed from sums over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from backends import numpy_ops as ops
from backends.definitions import Values, evaluate, parameters_of
from backends.event import trains
from backends.event.plan import Plan
from backends.event.stretch import Stretch
from snncompiler.graph import Array, shape


class Tail:
    """f, the linear nodes before the outputs: over t steps, they read f(sum x_t) + (t - 1) f(0).

    f(0) holds the biases. All in float64, which is exact for networks on a grid.
    """

    def __init__(self, plan: Plan, constants: Values) -> None:
        self.plan, self.constants = plan, constants
        self.parameters = {node: parameters_of(node) for node in plan.tail}
        zeros: Values = {v: np.zeros((1, *shape(v))) for v in plan.heard}
        self.at_zero = self._through(zeros)

    def listen(self, kept: tuple[int, ...]) -> Sums:
        """Start to sum."""
        return Sums(self, kept)

    def _through(self, values: Values) -> dict[ir.Value, Array]:
        known: Values = {**self.constants, **values}
        for node in self.plan.tail:
            known[node.outputs[0]] = evaluate(node, known, self.parameters[node])
        return {o.current: np.asarray(known[o.current]) for o in self.plan.network.outputs}

    def read(self, sums: Mapping[int, Values], steps: Iterable[int]) -> dict[int, Values]:
        """What flows into every output over each of these numbers of steps (at least 1).

        sums: of what is heard, by the number of steps.
        """
        wanted = sorted(steps)
        if not wanted:
            return {}
        joined: Values = {v: np.concatenate([sums[t][v] for t in wanted]) for v in self.plan.heard}
        found: dict[int, Values] = {t: {} for t in wanted}
        for value, flat in self._through(joined).items():
            over = flat.reshape(len(wanted), -1, *flat.shape[1:])
            for t, total in zip(wanted, over, strict=True):
                found[t][value] = total + (t - 1) * self.at_zero[value]
        return found


class Sums:
    """The sums over time of what the tail hears, up to the steps where outputs are read."""

    def __init__(self, tail: Tail, kept: tuple[int, ...]) -> None:
        self.tail = tail
        outputs = tail.plan.network.outputs
        self.steps = {*kept, *(o.start for o in outputs)} - {0}
        self.sums: dict[int, Values] = {}
        self.running: Values = {}

    def hear(self, now: Stretch) -> None:
        """Add a stretch; what is read at its end or at a kept step within it can be read then."""
        last = now.before + now.steps
        marks = sorted({t for t in self.steps if now.before < t <= last} | {last})
        self.sums.update((t, {}) for t in marks)
        for value in self.tail.plan.heard:
            totals: Sequence[Array] | Array
            if value in now.static:
                totals = [now.static[value].astype(np.float64) * t for t in marks]
            elif value in now.spikes and now.spikes[value].silent:
                nothing = np.zeros((now.samples, *shape(value)))
                totals = [self.running.setdefault(value, nothing)] * len(marks)
            else:
                totals = self._totals(value, now, np.array(marks) - now.before)
                totals = totals + self.running.get(value, 0.0)
                self.running[value] = totals[-1]
            for t, total in zip(marks, totals, strict=True):
                self.sums[t][value] = total

    def keep(self, going: Array) -> None:
        """Go on with some of the samples alone."""
        self.running = {v: a[going] for v, a in self.running.items()}
        starts = {o.start for o in self.tail.plan.network.outputs}
        self.sums = {
            t: {v: a[going] for v, a in s.items()} for t, s in self.sums.items() if t in starts
        }

    def _totals(self, value: ir.Value, now: Stretch, upto: Array) -> Array:
        """Sums over the first upto[k] steps of the stretch, [k, B, C, ...]."""
        if value in now.spikes:
            x = now.spikes[value].x
            out = np.zeros((now.samples, len(upto), x[0, 0].size))
            trains.sum_steps(out, x.reshape(*x.shape[:2], -1), upto)
            out = out.reshape(now.samples, len(upto), *x.shape[2:]).swapaxes(2, 3)
            unit = now.units[value][:, None]
            spikes: Array = (out * unit).swapaxes(0, 1)
            return spikes.reshape(len(upto), now.samples, *shape(value))
        x = now.dense[value].reshape(now.samples, now.steps, *shape(value))
        sums: Array = np.stack([x[:, :n].sum(1, dtype=np.float64) for n in upto])
        return sums

    def readouts(self, steps: list[int], dtype: np.dtype[np.generic]) -> dict[str, Array]:
        """By output, [len(steps), N, ...]: what it reads at these steps, which have been heard."""
        outputs = self.tail.plan.network.outputs
        needed = {n for o in outputs for t in steps if t > o.start for n in (t, o.start)} - {0}
        found = self.tail.read(self.sums, needed)
        result = {}
        for o in outputs:
            read = []
            for t in steps:
                if t <= o.start:  # nothing counts yet
                    samples = len(self.sums[t][self.tail.plan.heard[0]])
                    total = np.zeros((samples, *self.tail.at_zero[o.current].shape[1:]))
                else:
                    total = found[t][o.current]
                    total = total - found[o.start][o.current] if o.start else total
                read.append(ops.readout(total, t, mode=o.mode, start=o.start))
            result[o.name] = np.stack(read).astype(dtype)
        return result
