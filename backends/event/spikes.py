"""Spike trains of a layer over a stretch of time, dense and as event lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from backends.event import bit_trains, memory, trains
from backends.event.crew import Crew
from snncompiler.graph import Array

#: Nanoseconds to look at one count, and at one bit; and to write an event down.
_LOOK, _LOOK_AT_BIT, _WRITE = 0.2, 0.05, 2.0
#: Share of events below which they are quicker to add up than all counts.
_SPARSE = 0.06
#: The counts of a list whose events are all plain.
_ONES: Array = np.empty(0, np.int8)
#: Elements behind the end of a list that kernels may read, or write.
PAST = 32


class Lists(NamedTuple):
    """Events of a group of channels; see `currents`."""

    codes: Array
    counts: Array
    starts: Array
    plain: Array


class Spikes:
    """Spike counts x[B, T, P, C], small integers, and their events, listed when asked for.

    Where all counts are 0 or 1, they may be given as bits, uint16 [B, T, P, 4 ceil(C / 64)]: bit
    c % 16 of the number c // 16, of C channels; bits beyond are 0.

    silent: whether they were made by `silence`: nobody has to look for events.
    """

    def __init__(
        self, x: Array | None = None, bits: Array | None = None, channels: int = 0
    ) -> None:
        self.bits, self._x, self.silent = bits, x, False
        given = x if bits is None else bits
        assert given is not None
        self.samples, self.steps, self.positions, width = given.shape
        self.channels = width if bits is None else channels
        self._lists: dict[tuple[int, Any], list[Lists]] = {}
        self._totals: Array | None = None

    @classmethod
    def silence(cls, shape: tuple[int, ...], kind: np.dtype[Any]) -> Spikes:
        """No event at all in [B, T, P, C]; zeros take memory once they are looked at."""
        made = cls(np.broadcast_to(np.zeros((), kind), shape))
        made.silent = True
        return made

    @property
    def x(self) -> Array:
        """The counts."""
        if self.silent:
            self._x = np.ascontiguousarray(self._x)
        if self._x is None:
            assert self.bits is not None
            ones = memory.empty((self.size + PAST,), np.int8)
            bit_trains.unpack(ones, self.bits.reshape(-1, self.bits.shape[3]), self.channels)
            self._x = ones[: self.size].reshape(*self.bits.shape[:3], self.channels)
        return self._x

    @property
    def size(self) -> int:
        """Neurons times steps times samples."""
        return self.samples * self.steps * self.positions * self.channels

    def totals(self, crew: Crew) -> Array:
        """|count| of every neuron, [P, C], summed over samples and steps."""
        if self._totals is None:
            channels = self.channels if self.bits is None else 16 * self.bits.shape[3]
            total = self._summed(self.positions * channels, crew)
            self._totals = total.reshape(self.positions, -1)[:, : self.channels]
        return self._totals

    def _summed(self, size: int, crew: Crew) -> Array:
        """The same of `size` places, int64: of every count, or of every bit, if there are bits."""
        if self.bits is not None:
            sums = memory.empty((size,), np.int64)
            tasks = crew.tasks(size // 64, self.look)
            counts = crew.room("bits", (size,), np.uint8)
            crew.share(bit_trains.sum_bits, tasks, self.look, self.bits, counts, sums)
            return sums
        total = memory.zeros((size,), np.int32)
        listed = next((found for (groups, _), found in self._lists.items() if groups == 1), None)
        if listed is not None and len(listed[0].codes) < _SPARSE * self.size:
            trains.add_events(*listed[0], total)
        elif not self.silent:
            trains.add_counts(self.x, total)
        return total.astype(np.int64)

    @property
    def look(self) -> float:
        """Nanoseconds to look at everything."""
        return (_LOOK if self.bits is None else _LOOK_AT_BIT) * self.size

    def lists(self, groups: int, kind: Any, crew: Crew) -> list[Lists]:
        """The events of every group of channels, codes of this type."""
        if (groups, kind) not in self._lists:
            width = self.channels // groups
            cuts = range(0, self.channels, width)
            self._lists[groups, kind] = [self._list(c, c + width, kind, crew) for c in cuts]
        return self._lists[groups, kind]

    def _list(self, first: int, last: int, kind: Any, crew: Crew) -> Lists:
        """Count the events of these channels, then write them down."""
        rows = self.samples * self.steps
        starts = memory.empty((self.samples, self.steps, self.positions + 1), np.int32)
        ends: Array = np.empty(rows, np.int64)
        channels, tasks = (first, last), crew.tasks(rows, self.look)
        if self.bits is None:
            plain: Array = np.empty((self.samples, self.steps), np.bool_)
            given = (self.x, channels, starts, ends, plain)
            crew.share(trains.count_events, tasks, self.look, *given)
            codes = _room(trains.add_up_sizes(ends), kind)
            counts = memory.empty((len(codes) + PAST,), self.x.dtype)[: len(codes)]
            work = self.look + _WRITE * len(codes)
            crew.share(trains.list_events, crew.tasks(rows, work), work, *given, codes, counts)
            return Lists(codes, counts, starts, plain)
        words = self.bits.view(np.uint64)
        if last == self.channels:
            channels = (first, 64 * words.shape[3])  # bits beyond are 0, whole words are quicker
        crew.share(bit_trains.count_events, tasks, self.look, words, channels, ends)
        codes = _room(trains.add_up_sizes(ends), kind)
        work = self.look + _WRITE * len(codes)
        listed = (words, channels, last - first, ends, starts, codes)
        crew.share(bit_trains.list_events, crew.tasks(rows, work), work, *listed)
        return Lists(codes, _ONES, starts, _all(self.samples, self.steps))


def joined(parts: Sequence[Lists], crew: Crew) -> Lists:
    """Events of several values in one list; their positions are numbered value after value."""
    if len(parts) == 1:
        return parts[0]
    samples, steps = parts[0].plain.shape
    ends: Array = np.empty((samples * steps, len(parts)), np.int64)
    for i, part in enumerate(parts):
        ends[:, i] = (part.starts[..., -1] - part.starts[..., 0]).reshape(-1)
    codes = _room(trains.add_up_sizes(ends.reshape(-1)), parts[0].codes.dtype)
    positions = sum(part.starts.shape[2] - 1 for part in parts)
    starts = memory.empty((samples, steps, positions + 1), np.int32)
    plain = np.logical_and.reduce([part.plain for part in parts])
    kind = np.result_type(*(part.counts for part in parts))
    counts = memory.empty((PAST if plain.all() else len(codes) + PAST,), kind)[: len(codes)]
    work, first = _WRITE * len(codes) / len(parts), 0
    for i, part in enumerate(parts):
        given = (codes, counts, starts, plain, ends[:, i], first, *part)
        crew.share(trains.append, crew.tasks(samples, work), work, *given)
        first += part.starts.shape[2] - 1
    return Lists(codes, counts, starts, plain)


def _room(size: int, kind: Any) -> Array:
    """Room for the codes of so many events."""
    if size >= 2**31:
        raise MemoryError("too many events in one stretch; lower --memory")
    return memory.empty((size + PAST,), kind)[:size]


@lru_cache(maxsize=64)
def _all(samples: int, steps: int) -> Array:
    """Every event of theirs is one positive spike; nobody may change this."""
    return np.ones((samples, steps), np.bool_)
