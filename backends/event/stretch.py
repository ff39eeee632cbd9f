"""A stretch of time: some samples over some steps, and all that is known of them so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from backends.event.crew import Crew
from backends.event.spikes import Lists, Spikes, joined
from backends.event.synapses import Connection
from snncompiler.graph import Array, shape


@dataclass
class Stretch:
    """Values of some samples over the steps before + 1 .. before + steps.

    static: values that are the same at every step, [B, C, ...]. spikes and dense ([B T, C, ...])
    the others. states: of every node, handed on from stretch to stretch; grids: their units 2^-k,
    None where they are held in no integers. units: what a spike of a value carries. timesteps: of
    the whole run. crew: who works on it.
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
    crew: Crew = field(default_factory=Crew)
    spikes: dict[ir.Value, Spikes] = field(default_factory=dict)
    dense: dict[ir.Value, Array] = field(default_factory=dict)

    def lists(self, connections: Sequence[Connection], kind: Any) -> list[Lists]:
        """The events that flow through connections of as many groups, group by group."""
        found = (self.events(connection, kind) for connection in connections)
        return [joined(parts, self.crew) for parts in zip(*found, strict=True)]

    def events(self, connection: Connection, kind: Any) -> list[Lists]:
        """The events that flow through a connection, group by group, codes of this type."""
        return self.spikes[connection.source].lists(connection.groups, kind, self.crew)

    def sent(self, connection: Connection, kind: Any) -> int:
        """How many events those are."""
        return sum(len(part.codes) for part in self.events(connection, kind))

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
