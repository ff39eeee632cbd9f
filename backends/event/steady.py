"""Current that is the same at every step: from the layout of the network to that of the kernels."""

from __future__ import annotations

import numpy as np

from backends.event import memory, trains
from backends.event.crew import Crew
from snncompiler.graph import Array

#: Nanoseconds to bring one number over.
_BRING = 1.0


class Steady:
    """bias + all values: what flows into each neuron, sample by sample.

    bias: [1 or P, C]. values: [B, C, ...] each; none: all samples get the bias alone.
    """

    def __init__(self, bias: Array, values: list[Array]) -> None:
        self.bias = bias
        self.values: list[Array] = [a.reshape(len(a), bias.shape[1], -1) for a in values]

    def peak(self) -> Array:
        """No current is larger, per channel [C]; not finite where one is not."""
        low, high = self.bias.min(0), self.bias.max(0)
        for x in self.values:
            low, high = low + x.min(2).min(0), high + x.max(2).max(0)
        largest: Array = np.maximum(high, -low)
        return largest

    def current(self) -> Array:
        """[B or 1, P, C], float64."""
        total = self.bias[None]
        for x in self.values:
            total = x.transpose(0, 2, 1) + total
        return np.ascontiguousarray(total)

    def in_units(self, k: Array, crew: Crew) -> Array | None:
        """The current in units of 2^-k [C], [B or 1, P, C] int32, which have room for it.

        None if it is not a whole number of them everywhere.
        """
        scale = np.exp2(k.astype(np.float64))
        if not self.values:
            scaled = self.bias[None] * scale
            whole: Array = scaled.astype(np.int32)
            return whole if (whole == scaled).all() else None
        x: Array = self.values[0]
        for more in self.values[1:]:
            x = np.add(x, more, dtype=np.float64)
        samples = len(x)
        out = memory.empty((samples, x.shape[2], x.shape[1]), np.int32)
        exact = np.zeros(samples, np.bool_)
        work = _BRING * out.size
        tasks = crew.tasks(samples, work)
        tiles = np.empty((crew.hands(work), x.shape[1], trains.TILE), np.int32)
        crew.share(trains.bring, tasks, work, out, exact, x, self.bias, scale, tiles)
        return out if exact.all() else None
