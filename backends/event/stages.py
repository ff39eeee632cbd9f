"""The stages of a plan at work: each computes one value over a stretch of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from backends.event import bit_trains, geometry, memory, trains
from backends.event.abreast import beside
from backends.event.crew import Crew, cut
from backends.event.layers import Sum, places
from backends.event.plan import Moved, Unit
from backends.event.spikes import PAST, Lists, Spikes
from backends.event.stretch import Stretch
from backends.event.synapses import LANES, blocks, count_blocks
from snncompiler.graph import Array, attribute, shape, weights

#: Nanoseconds: to add a vector of weights, and more when a weight is first seen; to update a
#: neuron, to look at a count in other ways; to collect the events of a window.
_ADD, _LOAD, _UPDATE, _LOOK, _COLLECT = 0.7, 0.15, 0.25, 0.5, 20.0
_VECTOR = 64  # bytes
#: What tells a kernel how many lanes there are: a type of its own for each number.
_LANES = {n: (0,) * (n // 16) for n in LANES}
_NONE, _NO_CODES = np.zeros(0, np.int32), np.zeros(0, np.uint16)
_NO_RUNS = np.zeros((0, 3), np.int32)
_NO_LISTS = Lists(
    _NO_CODES, np.zeros(0, np.int8), np.zeros((1, 1, 1), np.int32), np.zeros((1, 1), np.bool_)
)
_NO_SPIKES, _NO_BITS = np.zeros((0, 0, 0, 0), np.int8), np.zeros((0, 0, 0, 0), np.uint16)


class Stage(Protocol):
    """Computes its value on a stretch."""

    def run(self, now: Stretch) -> None:
        """Read what it needs from the stretch and put its value there."""
        ...


def small(most: float) -> np.dtype[np.signedinteger[Any]]:
    """The type of counts up to this number."""
    return np.dtype(np.int8 if most <= 127 else np.int32)


class Synapses:
    """Calls kernels with a sum of connections, block by block of its outputs."""

    def __init__(self, total: Sum) -> None:
        self.total = total
        self.unit = np.exp2(-total.k.astype(np.float64))
        nothing = np.zeros((1, 0, total.channels), total.wide)
        self.blocks = total.rows.blocks if total.rows else blocks(nothing, 1, total.wide)
        per_vector = _VECTOR // (total.rows.narrow if total.rows else total.wide).itemsize
        self.vectors = sum(len(some.first) * -(-some.lanes // per_vector) for some in self.blocks)
        self.count = count_blocks(self.blocks)
        self.weights = sum(c.w.size for c in total.full)
        #: How many outputs see an event of each connection.
        self.seen = [len(c.windows.pairs) / c.windows.inputs / c.groups for c in total.full]
        #: Nanoseconds for every sample and step, whatever the events.
        self.each = total.positions * (
            _UPDATE * total.channels + (_COLLECT * self.count if total.full else 0.0)
        )
        most = max(some.rows.shape[1] for some in self.blocks)
        self.codes = np.dtype(np.uint16 if most <= 1 << 16 else np.int32)
        rows = total.rows
        self.windows = (rows.pointers, rows.runs, rows.limit) if rows else (_NONE, _NO_RUNS, 1)
        self.taps = tuple(total.taps)
        #: Whether no two blocks share 16 channels, whose spikes may be bits of one number.
        self.apart = all(not (some.first % 16).any() for some in self.blocks)
        self.narrow = np.zeros(0, rows.narrow if rows else total.wide)
        self.tasks: dict[tuple[int, ...], Array] = {}
        self.places = places(total.channels // total.abreast, total.abreast)

    def call(
        self,
        kernel: Callable[..., None],
        now: Stretch,
        head: tuple[Any, ...],
        *rest: Any,
        scratch: Callable[[Crew, int, int], tuple[Array, ...]],
    ) -> None:
        """Share kernel(*head, synapse, lists, taps, x, *rest, scratch, lanes) between threads.

        scratch: what it takes for so many hands and lanes, beyond the collected rows and the type
        of their sums.
        """
        t, crew = self.total, now.crew
        lists = now.lists(t.full, self.codes) if t.full else [_NO_LISTS]
        x, cost = self._passed_on(now), self.cost(now)
        for i, some in enumerate(self.blocks):
            work = cost * len(some.first) / self.count
            hands, size, events = crew.hands(work), some.lanes, lists[some.group]
            collected = hands, some.rows.shape[1] + PAST
            first, *others = scratch(crew, hands, size)
            rows = crew.room("rows", collected, self.codes)
            factors = crew.room("factors", collected, events.counts.dtype)
            own = (first, self.narrow, rows, factors, *others)
            given = (*head, (some.rows, *self.windows), tuple(events), self.taps, x, *rest, own)
            tasks = self._tasks(i, now.samples, crew.pieces(work))
            crew.share(kernel, tasks, work, *given, _LANES[size])

    def _tasks(self, i: int, samples: int, pieces: int) -> Array:
        """Some blocks times positions, as `currents.parts_of` takes them apart."""
        key = i, samples, pieces
        if key not in self.tasks:
            first, width = self.blocks[i].first, self.blocks[i].width
            spans = cut(self.total.positions, -(-pieces // len(first)))
            tasks = np.zeros((len(first), len(spans), 7), np.int64)
            tasks[..., 1], tasks[..., 2:4] = samples, spans
            tasks[..., 4], tasks[..., 5] = first[:, None], width[:, None]
            tasks[..., 6] = np.arange(len(first))[:, None]
            self.tasks[key] = tasks.reshape(-1, 7)
        return self.tasks[key]

    def _passed_on(self, now: Stretch) -> Array:
        """What arrives channel by channel: bits, if they are there and blocks share none.

        If nothing does, an empty array of the type that such a layer most likely has elsewhere:
        every type is a version of the kernels to compile.
        """
        t = self.total
        if t.single is None:
            packed = any(now.spikes[c.source].bits is not None for c in t.full)
            return _NO_BITS if packed else _NO_SPIKES
        spikes = now.spikes[t.single.source]
        bits = spikes.bits if self.apart else None
        return beside(spikes.x if bits is None else bits, t.abreast)

    def cost(self, now: Stretch) -> float:
        """Nanoseconds, roughly: to add the rows of all events, and to update all neurons."""
        cost, t = self.each * now.samples * now.steps, self.total
        if t.full:
            sent = [now.sent(c, self.codes) for c in t.full]
            added = sum(n * seen for n, seen in zip(sent, self.seen, strict=True))
            cost += _ADD * added * self.vectors + _LOAD * min(added * t.channels, self.weights)
        return cost

    def sum_scratch(self, crew: Crew, hands: int, size: int) -> tuple[Array, ...]:
        """Scratch of `sum_currents`."""
        return (crew.room("wide", (hands, size), self.total.wide),)


class Pool:
    """Max pooling of spike trains."""

    def __init__(self, unit: Unit, most: float) -> None:
        self.node, self.source, self.most, self.dtype = unit.node, unit.source, most, small(most)
        sizes, out = shape(unit.source)[1:], shape(unit.node.outputs[0])[1:]
        settings = [attribute(unit.node, name) for name in _WINDOW]
        windows = geometry.convolution(sizes, out, *settings)
        self.shape = windows.outputs, shape(unit.source)[0]
        self.pointers = windows.pointers.astype(np.int32)
        self.taps = np.ascontiguousarray(windows.pairs[:, 0], np.int32)

    def run(self, now: Stretch) -> None:
        """Sample by sample."""
        spikes = now.spikes[self.source]
        outputs, channels = self.shape
        if spikes.silent:  # no count rises
            lead = (now.samples, now.steps)
            now.spikes[self.node.outputs[0]] = Spikes.silence((*lead, *self.shape), self.dtype)
            return
        packed = spikes.bits is not None
        arriving = spikes.x if spikes.bits is None else spikes.bits
        width = arriving.shape[3]  # counts, or numbers of 16 bits
        if self.node not in now.states:
            # The smallest signed type that holds all counts: maxima are taken over fewer vectors.
            wide = np.min_scalar_type(-int(self.most * now.timesteps) - 1)
            lanes = width * (16 if packed else 1)
            sizes = (spikes.positions * lanes, outputs * lanes)
            now.states[self.node] = tuple(memory.zeros((now.samples, n), wide) for n in sizes)
        totals, top = (a.reshape(-1) for a in now.states[self.node])
        kind = arriving.dtype if packed else self.dtype
        out = memory.empty((now.samples, now.steps, outputs, width), kind)
        kernel = bit_trains.pool if packed else trains.pool

        cost = _LOOK * spikes.size * (0.25 if packed else 1)
        given = (out.reshape(-1), arriving.reshape(-1), totals, top)
        tasks, over = now.crew.tasks(now.samples, cost), (now.steps, spikes.positions, outputs)
        now.crew.share(kernel, tasks, cost, *given, over, self.pointers, self.taps, width)
        now.spikes[self.node.outputs[0]] = (
            Spikes(bits=out, channels=channels) if packed else Spikes(out)
        )


_WINDOW = ("kernel_shape", "strides", "pads", "dilations")


class Twin:
    """A twin synapse; ratio: the unit of its input over its threshold."""

    def __init__(self, unit: Unit, carried: Array, arriving: float) -> None:
        self.node, self.source = unit.node, unit.source
        self.gamma = float(np.float32(attribute(unit.node, "gamma")))
        self.allowance = float(np.float32(attribute(unit.node, "allowance")))
        self.ratio = carried / weights(unit.node.inputs[1]).reshape(-1).astype(np.float64)
        self.ratio = np.broadcast_to(self.ratio, carried.shape).copy()
        self.most = max(self.gamma, float(np.rint(arriving * self.ratio.max())))
        self.dtype = small(self.most)

    def run(self, now: Stretch) -> None:
        """Sample by sample."""
        x = now.spikes[self.source].x
        if self.node not in now.states:
            zeros = np.zeros((now.samples, *x.shape[2:]))
            now.states[self.node] = zeros, zeros.copy(), zeros.copy()
        state = now.states[self.node]
        out = memory.empty(x.shape, self.dtype)

        cost = _LOOK * x.size
        settings = (now.before, self.gamma, self.allowance)
        tasks = now.crew.tasks(now.samples, cost)
        now.crew.share(trains.calibrate, tasks, cost, out, x, self.ratio, state, *settings)
        now.spikes[self.node.outputs[0]] = Spikes(out)


class Order:
    """Spikes moved to other places."""

    def __init__(self, moved: Moved, most: float) -> None:
        self.value, self.roots, self.dtype = moved.node.outputs[0], moved.roots, small(most)
        self.sizes = [int(np.prod(shape(root))) for root in moved.roots]
        self.channels = (*shape(self.value), 1)[0]
        self.places = self._last(moved.places)

    def run(self, now: Stretch) -> None:
        """Copy, root by root."""
        lead = (now.samples, now.steps)
        if all(now.spikes[root].silent for root in self.roots):
            dims = (*lead, self.places.size // self.channels, self.channels)
            now.spikes[self.value] = Spikes.silence(dims, self.dtype)
            return
        out = memory.zeros((*lead, self.places.size), self.dtype)
        start = 0
        for root, size in zip(self.roots, self.sizes, strict=True):
            trains.move(out, now.spikes[root].x.reshape(*lead, size), self.places, start)
            start += size
        now.spikes[self.value] = Spikes(out.reshape(*lead, -1, self.channels))

    def _last(self, places: Array) -> Array:
        """Places in the order of [C, P] as places in the order of [P, C], on both sides."""
        found, start = places.copy(), 0
        for root, size in zip(self.roots, self.sizes, strict=True):
            inside = (places >= start) & (places < start + size)
            channels = (*shape(root), 1)[0]
            c, p = np.divmod(places[inside] - start, size // channels)
            found[inside] = p * channels + c + start
            start += size
        turned = found.reshape(self.channels, -1).T
        return np.ascontiguousarray(turned.reshape(-1), np.int64)
