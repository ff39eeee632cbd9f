"""Spike trains of a layer over a stretch of time, dense and as event lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from backends.event import trains
from snncompiler.graph import Array

#: Runs tasks that do not depend on each other, given the nanoseconds that they will take.
Each = Callable[[Iterable[Callable[[], object]], float], None]
#: Nanoseconds to look at one count.
_LOOK = 0.2
#: Share of events below which they are quicker to add up than all counts.
_SPARSE = 0.06
#: Elements behind the end of a list that kernels may read, or write.
PAST = 16


class Lists(NamedTuple):
    """Events of a group of channels; see `kernels`."""

    codes: Array
    counts: Array
    starts: Array
    plain: Array


class Spikes:
    """Spike counts x[B, T, P, C], small integers, and their events, listed when asked for."""

    def __init__(self, x: Array) -> None:
        self.x = x
        self._lists: dict[int, list[Lists]] = {}
        self._totals: Array | None = None

    def totals(self, each: Each) -> Array:
        """|count| of every neuron, [P, C], summed over samples and steps."""
        if self._totals is None:
            samples, steps, positions, width = self.x.shape
            spans = stretches(samples, steps, 4)
            sums = [np.zeros(positions * width, np.int32) for _ in spans]
            listed = self._lists.get(1)
            few = listed is not None and len(listed[0].codes) < _SPARSE * self.x.size

            def work(i: int) -> None:
                if few and listed:
                    trains.add_events(*listed[0], spans[i], sums[i])
                else:
                    trains.add_counts(self.x, spans[i], sums[i])

            each((partial(work, i) for i in range(len(sums))), _LOOK * self.x.size)
            self._totals = np.sum(sums, 0, dtype=np.int64).reshape(positions, width)
        return self._totals

    def lists(self, groups: int, each: Each) -> list[Lists]:
        """The events of every group of channels."""
        if groups not in self._lists:
            width = self.x.shape[3] // groups
            cuts = range(0, self.x.shape[3], width)
            self._lists[groups] = [self._list(c, c + width, each) for c in cuts]
        return self._lists[groups]

    def density(self, groups: int, each: Each) -> float:
        """Events per neuron and step."""
        return sum(len(part.codes) for part in self.lists(groups, each)) / max(1, self.x.size)

    def _count(self, first: int, last: int, each: Each) -> tuple[Array, Array]:
        """Events per position, summed up, and whether they are plain."""
        x = self.x
        samples, steps, positions, _ = x.shape
        starts = np.empty((samples, steps, positions + 1), np.int32)
        plain = np.empty((samples, steps), np.bool_)
        spans = stretches(samples, steps, 4)

        def work(i: int) -> None:
            trains.count_events(x, (first, last), spans[i], starts, plain)

        each((partial(work, i) for i in range(len(spans))), _LOOK * x.size)
        return starts, plain

    def _list(self, first: int, last: int, each: Each) -> Lists:
        x = self.x
        starts, plain = self._count(first, last, each)
        sizes = starts[..., -1].astype(np.int64)
        ends = np.cumsum(sizes).reshape(sizes.shape)
        if ends[-1, -1] >= 2**31:
            raise MemoryError("too many events in one stretch; lower --memory")
        starts += (ends - sizes)[..., None].astype(np.int32)
        size = ends[-1, -1]
        codes, counts = (np.empty(size + PAST, kind)[:size] for kind in (np.int32, x.dtype))
        spans = stretches(len(starts), starts.shape[1], 4)

        def work(i: int) -> None:
            trains.list_events(x, (first, last), spans[i], starts, plain, codes, counts)

        each((partial(work, i) for i in range(len(spans))), _LOOK * x.size)
        return Lists(codes, counts, starts, plain)


def stretches(samples: int, steps: int, most: int) -> list[tuple[int, int, int, int]]:
    """Cut samples x steps into up to `most` spans (first sample, last, first step, last)."""
    over = samples if samples >= most else steps
    cuts = [int(c) for c in np.linspace(0, over, min(most, over) + 1)]
    pairs = list(pairwise(cuts))
    if samples >= most:
        return [(a, b, 0, steps) for a, b in pairs]
    return [(0, samples, a, b) for a, b in pairs]
