"""A stretch of time: some samples over some steps, and all that is known of them so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import Event
from typing import Any

import numpy as np
import onnx_ir as ir

from backends.event.crew import Crew
from backends.event.spikes import WORTH, Lists, Spikes, joined
from backends.event.synapses import Connection
from snncompiler.graph import Array, shape

Task = Callable[[], object]


@dataclass
class Stretch:
    """Values of some samples over the steps before + 1 .. before + steps.

    static: values that are the same at every step, [B, C, ...]. spikes and dense ([B T, C, ...])
    the others. states: of every node, handed on from stretch to stretch; grids: their units 2^-k,
    None where they are held in no integers. units: what a spike of a value carries. timesteps: of
    the whole run. crew: who works on tasks; without one, the caller does them one by one. stop: set
    by whoever wants no more of it.
    """

    samples: int
    before: int
    steps: int
    timesteps: int
    dtype: np.dtype[np.generic]
    static: dict[ir.Value, Array]
    states: dict[ir.Node, Any]
    grids: dict[ir.Node, Array | None]
    units: dict[ir.Value, Array]
    crew: Crew | None = None
    stop: Event = field(default_factory=Event)
    spikes: dict[ir.Value, Spikes] = field(default_factory=dict)
    dense: dict[ir.Value, Array] = field(default_factory=dict)

    def each(self, tasks: Iterable[Task], work: float) -> None:
        """Run tasks that do not depend on each other; work: all their nanoseconds, at a guess."""
        if self.crew is not None and self.is_shared(work):
            self.crew.each(tasks)
            return
        for task in tasks:
            if self.stop.is_set():
                raise KeyboardInterrupt
            task()

    def is_shared(self, work: float) -> bool:
        """Whether so many nanoseconds of work are for several threads."""
        return self.crew is not None and work > WORTH

    def spans(self, positions: int, blocks: int, work: float) -> list[tuple[int, int, int, int]]:
        """Samples and positions, (first, last) each: with the blocks, enough tasks for all."""
        wanted = 1
        if self.crew is not None and self.is_shared(work):
            wanted = min(positions, -(-2 * self.crew.threads // blocks))
        cuts = (positions * i // wanted for i in range(wanted + 1))
        return [(0, self.samples, a, b) for a, b in pairwise(cuts)]

    def lists(self, connections: Sequence[Connection], kind: Any) -> list[Lists]:
        """The events that flow through connections of as many groups, group by group."""
        found = (self.events(connection, kind) for connection in connections)
        return [joined(parts, self.each) for parts in zip(*found, strict=True)]

    def events(self, connection: Connection, kind: Any) -> list[Lists]:
        """The events that flow through a connection, group by group, codes of this type."""
        return self.spikes[connection.source].lists(connection.groups, kind, self.each)

    def values(self, value: ir.Value) -> Array:
        """Any value as the standard ops take it: [B T, C, ...] in the type of the network."""
        if value in self.dense:
            return self.dense[value]
        if value in self.static:
            array = self.static[value]
            over = np.broadcast_to(array[:, None], (len(array), self.steps, *array.shape[1:]))
            return over.reshape(-1, *array.shape[1:])
        found = self.spikes[value].x
        samples, steps, _, channels = found.shape
        sent = found.transpose(0, 1, 3, 2).reshape(samples * steps, channels, -1)
        array = (sent * self.units[value][:, None]).astype(self.dtype)
        self.dense[value] = array.reshape(samples * steps, *shape(value))
        return self.dense[value]


def channels_last(array: Array) -> Array:
    """[N, C, ...] -> [N, P, C], float64."""
    flat = array.reshape(*array.shape[:2], -1) if array.ndim > 1 else array[:, None, None]
    return np.ascontiguousarray(flat.transpose(0, 2, 1), np.float64)


def run_all(work: Callable[..., object], items: Iterable[tuple[Any, ...]]) -> Iterable[Task]:
    """The tasks work(*item)."""
    return (partial(work, *item) for item in items)
