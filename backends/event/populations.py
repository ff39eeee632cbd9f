"""Neurons at work: on a grid in integers, else in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from backends.event import bit_kernels, kernels, memory
from backends.event.abreast import abreast, alone, beside
from backends.event.crew import Crew
from backends.event.layers import arrange, bias, layout, neuron, nothing, summed
from backends.event.plan import Population
from backends.event.spikes import Spikes
from backends.event.stages import Synapses, small
from backends.event.steady import Steady
from backends.event.stretch import Stretch, channels_last
from snncompiler.diagnostics import InputError, clean, refuse
from snncompiler.graph import Array, sources

_CHUNK = 2048
_NO_CURRENT = np.zeros((0, 0, 0, 0))
_NOBODY: Array = np.zeros((0, 0, 0), np.int32)


@dataclass(frozen=True)
class Grid:
    """Units 2^-k [C]; in them the constant current, thresholds [C], V at the start [1, P or 1, C].

    V between two multiples makes the same spikes as the lower one: all that is added and compared
    are multiples. sides: the three for outputs side by side, by how many.
    """

    k: Array
    current: Array
    theta: Array
    v: Array
    sides: dict[int, tuple[Array, Array, Array]] = field(default_factory=dict)

    def beside(self, n: int) -> tuple[Array, Array, Array]:
        """Current, thresholds and V at the start for n outputs side by side."""
        if n not in self.sides:
            theta = beside(self.theta[None], n)[0]
            self.sides[n] = beside(self.current, n), theta, beside(self.v, n)
        return self.sides[n]


class Neurons:
    """A population. Where it can, it runs `fire_on_grid`; else `fire`.

    most: the largest |count| that comes in, by value.
    """

    def __init__(self, population: Population, most: dict[ir.Value, float]) -> None:
        self.node, self.current = population.node, population.current
        self.value = self.node.outputs[0]
        self.neuron = neuron(self.node)
        self.bias = bias(self.current, self.value)
        pairs = arrange(self.current)
        self.sums = []
        others = self._constants() if len(pairs) == 1 and self._is_simple else []
        for full, single in pairs:
            self.sums.append(Synapses(summed(full, single, others, most)))
        self.channels, self.positions = channels, positions = layout(self.value)
        self._grids: dict[int, Grid | None] = {}  # by T, where all samples share it
        self.first = self.sums[0] if self.sums else Synapses(nothing(positions, channels))
        if self.sums:
            other = abreast(self.first.total) if others else None
            self.ways = [self.first, *([Synapses(other)] if other else [])]
        else:
            self.ways = [Synapses(alone(channels, positions))]

    def run(self, now: Stretch) -> None:
        """Compute the spikes of the stretch and keep the state."""
        frozen = min(max(self.neuron.delay - now.before, 0), now.steps)
        grid = self._grid(now)
        if grid is None:
            now.spikes[self.value] = self._anyhow(now, frozen)
        elif self._is_binary:
            now.spikes[self.value] = self._in_bits(now, frozen, grid)
        else:
            now.spikes[self.value] = self._on_grid(now, frozen, grid)

    def _grid(self, now: Stretch) -> Grid | None:
        """The numbers in integers, if all can happen in them.

        The samples at the start decide; the state keeps its units when some of them have ended.
        """
        if not self.current.static:
            if now.timesteps not in self._grids:
                self._grids[now.timesteps] = self._found_grid(now)
            return self._grids[now.timesteps]
        if self.node in now.grids:
            k = now.grids[self.node]
            return None if k is None else self._in_units(k, now)
        found = self._found_grid(now)
        now.grids[self.node] = None if found is None else found.k
        return found

    def _found_grid(self, now: Stretch) -> Grid | None:
        """The same for the samples at hand, if 32 bits hold all that can happen."""
        if not self._is_simple:
            return None
        n, steady = self.neuron, self._steady(now)
        bound = self.sums[0].total.bound * np.exp2(-self.sums[0].total.k) if self.sums else 0.0
        largest = now.timesteps * (steady.peak() + bound)
        largest = largest + np.abs(n.v_init).max(0) + n.theta
        if not np.isfinite(largest).all():
            return None
        room = 30 - np.ceil(np.log2(largest)).astype(np.int64)
        if not self.sums:
            k = np.minimum(room, 30)
        elif len(self.sums) == 1 and self.sums[0].total.wide == np.int32:
            k = self.sums[0].total.k
        else:
            return None
        if (k > room).any() or (np.ldexp(n.theta, k) < 1).any():
            return None
        return self._in_units(k, now)

    def _in_units(self, k: Array, now: Stretch) -> Grid | None:
        """The numbers in these units, if the current is a multiple of them."""
        current = self._steady(now).in_units(k, now.crew)
        if current is None:
            return None
        theta = np.ldexp(self.neuron.theta, k).astype(np.int32)
        v = np.floor(np.ldexp(self.neuron.v_init, k)).astype(np.int32)[None]
        return Grid(k, current, theta, v)

    def _in_bits(self, now: Stretch, frozen: int, grid: Grid) -> Spikes:
        """Neurons that fire at most once a step."""
        channels = self.channels
        lead, words = (now.samples, now.steps, self.positions), -(-channels // 64) * 4
        # Blocks write all numbers but those that make up 64 channels.
        make = memory.zeros if channels % 64 else memory.empty
        out = make((*lead, words), np.uint16)
        way = self._way(now)
        n = way.total.abreast
        before, v, _ = self._potentials(now, grid, n)
        current, theta, _ = grid.beside(n)
        head, rest = (beside(out, n), before, v), (current, theta, way.places, frozen)
        kernel = bit_kernels.fire_binary if self.sums else bit_kernels.fire_steady
        way.call(kernel, now, head, *rest, scratch=_at_hand)
        return Spikes(bits=out, channels=channels)

    def _on_grid(self, now: Stretch, frozen: int, grid: Grid) -> Spikes:
        n = self.neuron
        out = self._counts(now)
        shift = (grid.k + np.log2(n.theta)).astype(np.int32)
        way = self._way(now)
        side = way.total.abreast
        head = (beside(out, side), out.reshape(-1), *self._potentials(now, grid, side))
        limits = (int(n.gamma), int(n.gamma_neg))
        rest = (grid.beside(side)[0], np.tile(shift, side), limits, frozen)

        def scratch(crew: Crew, hands: int, size: int) -> tuple[Array, ...]:
            (numbers,) = _at_hand(crew, hands, size)
            count = crew.room("count", numbers.shape, np.int32)
            return numbers, count, crew.room("spikes", (hands, size), out.dtype)

        way.call(kernels.fire_on_grid, now, head, *rest, scratch=scratch)
        return Spikes(out)

    def _way(self, now: Stretch) -> Synapses:
        """The quickest of the ways to compute the same, at the activity there is."""
        return min(self.ways, key=lambda way: way.cost(now)) if self.ways[1:] else self.ways[0]

    def _potentials(self, now: Stretch, grid: Grid, n: int) -> tuple[Array, Array, Array]:
        """V before the stretch, room for V after it, and what was sent, of n outputs side by side.

        In units of 2^-k, [B or 1, P or 1, C]; what does not matter is empty.
        """
        whole = (now.samples, self.positions, self.channels)
        ends = now.before + now.steps == now.timesteps
        if self.node in now.states:
            v, sent = now.states[self.node]
            before, after = beside(v, n), _NOBODY if ends else v
        else:
            before = grid.beside(n)[2]
            sent = memory.zeros(whole, np.int32) if self.neuron.gamma_neg else _NOBODY
            after = _NOBODY if ends else memory.empty(whole, np.int32)
        now.states[self.node] = after, sent
        return before, beside(after, n), beside(sent, n)

    def _counts(self, now: Stretch) -> Array:
        """Room for counts."""
        kind = small(self.neuron.most)
        return memory.empty((now.samples, now.steps, self.positions, self.channels), kind)

    def _anyhow(self, now: Stretch, frozen: int) -> Spikes:
        n, out = self.neuron, self._counts(now)
        shape_ = (now.samples, *out.shape[2:])
        if self.node not in now.states:
            v = memory.full(shape_, n.v_init, np.float64)
            sent = memory.zeros(shape_ if n.gamma_neg else (0, 0, 0), np.float64)
            now.states[self.node] = v, sent
        constant = self._steady(now).current()
        extra: Array = _NO_CURRENT
        if self.current.dense or len(self.sums) > 1:
            extra = memory.zeros(out.shape, np.float64)
        for value in self.current.dense:
            extra += channels_last(now.values(value)).reshape(extra.shape)
        for synapses in self.sums[1:]:
            synapses.call(
                kernels.sum_currents, now, (extra,), synapses.unit, scratch=synapses.sum_scratch
            )
        neuron_ = (n.theta, n.gamma, n.gamma_neg, n.alpha)
        rest = (self.first.unit, constant, extra, neuron_, frozen)
        head = (out, *now.states[self.node])
        wide = self.first.total.wide

        def scratch(crew: Crew, hands: int, size: int) -> tuple[Array, ...]:
            others = crew.room("neurons", (4, hands, size), np.float64)
            return crew.room("wide", (hands, size), wide), *others

        self.first.call(kernels.fire, now, head, *rest, scratch=scratch)
        v = now.states[self.node][0]
        if not np.isfinite(v).all():
            raise not_finite(self.node)
        return Spikes(out)

    def _steady(self, now: Stretch) -> Steady:
        """What flows at every step alike."""
        return Steady(self.bias, [now.static[value] for value in self.current.static])

    @cached_property
    def _is_simple(self) -> bool:
        n = self.neuron
        powers = (np.log2(n.theta) % 1 == 0).all() and not n.alpha.size
        whole = all(float(g).is_integer() and g < 2**20 for g in (n.gamma, n.gamma_neg))
        return bool(powers) and whole and not self.current.dense

    @cached_property
    def _is_binary(self) -> bool:
        """Whether spikes are bits, 16 channels of which no two blocks share."""
        return self.neuron.gamma == 1 and not self.neuron.gamma_neg and self.first.apart

    def _constants(self) -> list[Array]:
        return [self.bias, self.neuron.theta]


def _at_hand(crew: Crew, hands: int, size: int) -> tuple[Array, ...]:
    """Scratch for a chunk of positions: potentials, constants; for a block: its thresholds.

    A chunk is a few kilobytes, so that it stays at hand while time goes by.
    """
    chunk = max(1, _CHUNK // size) * size
    return (crew.room("numbers", (hands, 2 * chunk + size), np.int32),)


def not_finite(node: ir.Node) -> InputError:
    """The error for a potential that is NaN or infinite."""
    return refuse(
        clean(f"the membrane potential of '{node.name}' is not finite"),
        f"its current overflows ({clean('+'.join(sources(node)))})",
        "look at the weights and at the samples",
    )
