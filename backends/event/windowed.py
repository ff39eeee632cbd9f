"""Layers that take turns (temporal separation), and spikes that wait."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from backends.event import kernels, memory
from backends.event.layers import arrange, bias, layout, summed
from backends.event.plan import Population, Unit
from backends.event.populations import not_finite
from backends.event.spikes import Spikes
from backends.event.stages import Synapses, small
from backends.event.stretch import Stretch, channels_last
from snncompiler.graph import Array, attribute, weights


class Turns:
    """A WindowedIF. It listens for a window, so only the sum of its input over it matters.

    most: the largest |count| per step that comes in, by value.
    """

    def __init__(self, population: Population, most: dict[ir.Value, float]) -> None:
        self.node, self.current = population.node, population.current
        self.value = self.node.outputs[0]
        self.gamma = float(np.float32(attribute(self.node, "gamma")))
        window, layer = attribute(self.node, "window"), attribute(self.node, "layer")
        self.listens, self.speaks = (layer - 1) * window, layer * window
        self.ends = (layer + 1) * window
        self.dtype = small(self.gamma)
        channels, positions = layout(self.value)
        theta = weights(self.node.inputs[1]).reshape(-1).astype(np.float64)
        self.theta = np.broadcast_to(theta, channels)
        v = weights(self.node.inputs[2]).astype(np.float64)
        v = v.reshape(channels if v.size > 1 else 1, -1)
        self.v_init = np.broadcast_to(v, (channels, positions)).T
        self.bias = bias(self.current, self.value)
        heard = {value: count * window for value, count in most.items()}
        self.sums = [
            Synapses(summed(full, single, [], heard)) for full, single in arrange(self.current)
        ]

    def run(self, now: Stretch) -> None:
        """Listen, speak, or do neither."""
        channels, positions = layout(self.value)
        if self.node not in now.states:
            shape = (now.samples, positions, channels)
            now.states[self.node] = (np.array(np.broadcast_to(self.v_init, shape), order="C"),)
        (v,) = now.states[self.node]
        first, last = (min(max(t - now.before, 0), now.steps) for t in (self.listens, self.speaks))
        if first < last:
            v += self._heard(now, first, last)
            if not np.isfinite(v).all():
                raise not_finite(self.node)
        end = min(max(self.ends - now.before, 0), now.steps)
        dims = (now.samples, now.steps, positions, channels)
        if last == end:
            now.spikes[self.value] = Spikes.silence(dims, self.dtype)
            return
        out = memory.zeros(dims, self.dtype)
        for i in range(last, end):
            s = np.clip(np.floor(v / self.theta), 0, self.gamma)
            v -= self.theta * s
            out[:, i] = s
        now.spikes[self.value] = Spikes(out)

    def _heard(self, now: Stretch, first: int, last: int) -> Array:
        """The current of the steps first .. last of a stretch together, [B, P, C]."""
        channels, positions = layout(self.value)
        total = np.zeros((now.samples, 1, positions, channels))
        summed_ = self._summed(now, first, last)
        for synapses in self.sums:
            scratch = synapses.sum_scratch
            synapses.call(kernels.sum_currents, summed_, (total,), synapses.unit, scratch=scratch)
        current: Array = total[:, 0] + (last - first) * self.bias
        for value in self.current.static:
            current += (last - first) * channels_last(now.static[value])
        for value in self.current.dense:
            array = now.values(value)
            over = array.reshape(now.samples, now.steps, *array.shape[1:])
            current += channels_last(over[:, first:last].sum(1, dtype=np.float64))
        return current

    def _summed(self, now: Stretch, first: int, last: int) -> Stretch:
        """A stretch of one step, with the sums of the spikes over steps of another."""
        result = Stretch(now.samples, 0, 1, 1, now.dtype, {}, {}, {}, now.units, now.crew)
        for value in self.current.values:
            if value in now.spikes:
                x = now.spikes[value].x
                sums = x[:, first:last].sum(1, dtype=np.int32, keepdims=True)
                result.spikes[value] = Spikes(np.ascontiguousarray(sums))
        return result


class Wait:
    """A Delay of spikes. Its state: what came, piece by piece; a silent piece has no samples."""

    def __init__(self, unit: Unit, most: float) -> None:
        self.node, self.source, self.dtype = unit.node, unit.source, small(most)
        self.steps = int(attribute(unit.node, "steps"))

    def run(self, now: Stretch) -> None:
        """Send what came so many steps ago."""
        spikes = now.spikes[self.source]
        inner = (spikes.positions, spikes.channels)
        waiting = now.states.get(self.node, (np.zeros((0, self.steps, *inner), self.dtype),))
        came = np.zeros((0, now.steps, *inner), self.dtype) if spikes.silent else spikes.x
        out, now.states[self.node] = _cut((*waiting, came), now.steps)
        dims = (now.samples, now.steps, *inner)
        if not any(len(piece) for piece in out):
            now.spikes[self.node.outputs[0]] = Spikes.silence(dims, self.dtype)
            return
        silence = np.zeros((now.samples, 1, *inner), self.dtype)
        heard = [p if len(p) else silence.repeat(p.shape[1], 1) for p in out]
        whole = np.concatenate(heard, 1, dtype=self.dtype)
        now.spikes[self.node.outputs[0]] = Spikes(whole)


def _cut(pieces: tuple[Array, ...], steps: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Pieces over time, [B, T, ...], cut after so many steps."""
    before: list[Array] = []
    for i, piece in enumerate(pieces):
        if steps < piece.shape[1]:
            return (*before, piece[:, :steps]), (piece[:, steps:], *pieces[i + 1 :])
        before.append(piece)
        steps -= piece.shape[1]
    return tuple(before), ()
