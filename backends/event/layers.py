"""What is known of a population before any sample comes: its numbers as the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from backends.event import dyadic, geometry
from backends.event.geometry import Windows
from backends.event.plan import Current
from backends.event.synapses import Blocks, Connection, blocks
from snncompiler.graph import Array, attribute, shape, weights

_NONE = np.zeros(0, np.int32)
#: Rows that are worth adding in 16 bits, rows to look at, weights beyond which not to look closely.
_FEW, _MANY, _SORTED = 16, 1024, 1 << 25


class Neuron(NamedTuple):
    """theta [C], v_init [1 or P, C], gamma, gamma_neg, alpha ([C]; empty: an IF), delay."""

    theta: Array
    v_init: Array
    gamma: float
    gamma_neg: float
    alpha: Array
    delay: int

    @property
    def most(self) -> float:
        """The largest |count| in a step."""
        return max(self.gamma, self.gamma_neg)


class Taps(NamedTuple):
    """A connection channel by channel, for the kernels; places: see `add_taps`."""

    w: Array
    pointers: Array
    taps: Array
    places: Array


class Rows(NamedTuple):
    """Full connections, for the kernels, their rows one after the other, cut into blocks.

    limit: rows that the type `narrow` can add, a multiple of 8; 0: no need of it.
    """

    blocks: list[Blocks]
    pointers: Array
    runs: Array
    limit: int
    narrow: np.dtype[np.generic]


def places(channels: int, abreast: int = 1) -> Array:
    """Where each 16 channels of outputs side by side are among their bits (see `Spikes`)."""
    words = -(-channels // 64) * 4
    first, more = words * np.arange(abreast), np.arange(-(-channels // 16))
    found: Array = (first[:, None] + more).reshape(-1)
    return found


NO_TAPS = Taps(np.zeros((0, 0), np.int32), _NONE, np.zeros((0, 2), np.int32), places(0))


@dataclass(frozen=True)
class Sum:
    """Full connections and up to one channel by channel, in common units of 2^-k [C].

    full: of the same number of groups; their events are joined (see `spikes.joined`).
    bound [C]: the largest |sum| of their weights over a window, in those units.
    wide: the type of the sum: int32, or float64 if the numbers are on no grid.
    abreast: so many outputs side by side are one of that many times the channels (`abreast.py`).
    """

    full: tuple[Connection, ...]
    single: Connection | None
    rows: Rows | None
    taps: Taps
    k: Array
    bound: Array
    wide: np.dtype[np.generic]
    channels: int
    positions: int
    abreast: int = 1


def layout(value: ir.Value) -> tuple[int, int]:
    """Channels and positions of a value, (C, P)."""
    channels, *space = shape(value) or (1,)
    return channels, int(np.prod(space))


def nothing(positions: int, channels: int) -> Sum:
    """No connection at all."""
    k = np.zeros(channels, np.int64)
    wide = np.dtype(np.int32)
    return Sum((), None, None, NO_TAPS, k, np.zeros(channels), wide, channels, positions)


def neuron(node: ir.Node) -> Neuron:
    """The parameters of a neuron, in the order of the kernels: channels last."""
    channels, positions = layout(node.outputs[0])

    def spread(array: Array) -> Array:
        return np.broadcast_to(array.reshape(-1).astype(np.float64), channels).copy()

    def number(name: str) -> float:
        # A file holds attributes in single precision.
        return float(np.float32(attribute(node, name, 0.0)))

    leaky = node.op_type == "LeakyIF"
    alpha = np.asarray(attribute(node, "alpha", []), np.float32).astype(np.float64)
    v: Array = np.zeros((1, channels))
    if not leaky:
        given = weights(node.inputs[2]).astype(np.float64)
        if given.ndim > 1:
            v = np.broadcast_to(given.reshape(channels, -1), (channels, positions)).T.copy()
        else:
            v = spread(given)[None]
    gamma = number("gamma")
    return Neuron(
        spread(weights(node.inputs[1])),
        v,
        gamma,
        gamma if leaky else number("gamma_neg"),
        spread(alpha) if leaky else np.zeros(0),
        attribute(node, "delay"),
    )


def summed(
    full: tuple[Connection, ...],
    single: Connection | None,
    others: list[Array],
    counts: dict[ir.Value, float],
) -> Sum:
    """Prepare a sum of connections.

    others: what the grid has to hold as well, [..., C]. counts: the largest |count| of every value.
    """
    given = [*full, *([single] if single else [])]
    most = max(int(counts[c.source]) for c in given)
    channels = given[0].w.shape[2]
    k: Array = np.zeros(channels, np.int64)
    for array in (*(c.w for c in given), *others):
        k = np.maximum(k, dyadic.bits(array))
    bound = sum((_bound(c) * most for c in given), np.zeros(channels)) * np.exp2(k)
    whole = bool((bound < 2.0**30).all() and (k < 31).all())
    wide = np.dtype(np.int32 if whole else np.float64)

    def numbers(c: Connection) -> Array:
        return dyadic.scaled(c.w, k) if whole else c.w

    rows, taps = None, NO_TAPS
    if full:
        w = np.concatenate([numbers(c).reshape(1, -1, channels) for c in full], 1)
        w = w.astype(dyadic.narrowest(w)) if whole else w
        limit, narrow = 0, wide
        if w.dtype in (np.int8, np.int16):
            room = rows_in_16_bits(w.reshape(-1, w.shape[2]), most)
            if room >= _FEW:
                limit, narrow = room // 8 * 8, np.dtype(np.int16)
        pointers, runs = geometry.joined([(c.windows, c.w.shape[1]) for c in full])
        rows = Rows(blocks(w, full[0].groups, narrow), pointers, runs, limit, narrow)
    if single is not None:
        taps = taps_of(numbers(single).reshape(-1, channels).astype(wide), single.windows)
    if not whole:
        k = np.zeros(channels, np.int64)
    return Sum(full, single, rows, taps, k, bound, wide, channels, given[0].windows.outputs)


def taps_of(w: Array, windows: Windows, abreast: int = 1) -> Taps:
    """Weights [taps, channels] and windows for the kernels, which read 15 weights more."""
    room = np.zeros(w.size + 15, w.dtype)
    room[: w.size] = w.reshape(-1)
    return Taps(
        room[: w.size].reshape(w.shape),
        windows.pointers.astype(np.int32),
        windows.pairs.astype(np.int32),
        places(w.shape[1] // abreast, abreast),
    )


def rows_in_16_bits(w: Array, most: int) -> int:
    """How many different rows of w, each up to `most` times, add up to a 16-bit number at worst.

    At worst they are the largest of a column, of the same sign.
    """
    highest = int(np.abs(w.astype(np.int32)).max(initial=1))
    room = 32767 // most
    if w.size > _SORTED or highest > room:
        return room // highest
    count = min(len(w), _MANY)
    fewest = count
    for sign in (1, -1):
        one_sided = np.maximum(sign * w.astype(np.int32), 0)
        largest = np.partition(one_sided, len(w) - count, 0)[len(w) - count :]
        totals = np.cumsum(np.sort(largest, 0)[::-1], 0).max(1)
        fewest = min(fewest, int(np.searchsorted(totals, room, "right")))
    return fewest


def _bound(c: Connection) -> Array:
    total: Array = np.abs(c.w).sum((0, 1))
    return total


def arrange(current: Current) -> list[tuple[tuple[Connection, ...], Connection | None]]:
    """Put connections together that one call of a kernel can sum."""
    full: dict[int, list[Connection]] = {}
    single = [c for c in current.connections if c.single]
    for c in current.connections:
        if not c.single:
            full.setdefault(c.groups, []).append(c)
    pairs = zip_longest(map(tuple, full.values()), single)
    return [(together or (), one) for together, one in pairs]


def bias(current: Current, value: ir.Value) -> Array:
    """The part of the current that no spike makes and no sample changes: [1 or P, C]."""
    channels, *space = shape(value) or (1,)
    total = sum((c.bias for c in current.connections), np.zeros(channels))[None]
    for array in current.constants:
        everywhere = np.broadcast_to(array, (1, channels, *space)).reshape(channels, -1).T
        varies = (everywhere != everywhere[:1]).any()
        total = total + (everywhere if varies else everywhere[:1])
    return np.ascontiguousarray(total)
