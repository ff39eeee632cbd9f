"""Outputs side by side as one: for layers of few channels.

To collect the events of a window takes as long for 16 channels as for 128, and a row of 16 weights
fills half a vector. Windows of neighbouring outputs see mostly the same inputs. So n outputs side
by side, each of C channels, may be computed as one of n C channels, whose kernel is wider: a
window has somewhat more events, each of them a row that is n times as long (zeros where an output
does not see it), and there are n times fewer windows. States, currents and spikes lie in memory as
before. What is best depends on how many events there are: see `Synapses.cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backends.event import dyadic, geometry
from backends.event.layers import Rows, Sum, nothing, taps_of
from backends.event.synapses import LANES, Connection, blocks, count_blocks
from snncompiler.graph import Array

#: Channels of outputs side by side together: enough for full vectors, and for their windows.
_ENOUGH = 64


def abreast(total: Sum) -> Sum | None:
    """The same sum for some outputs at a time, where that can be computed at all.

    One other way is enough: every number of channels is a version of the kernels to compile.
    """
    enough = max(2, _ENOUGH // total.channels)
    found = (side_by_side(total, n) for n in (enough, 2))
    return next((one for one in found if one is not None), None)


def alone(channels: int, positions: int) -> Sum:
    """No connection at all, for as many outputs at a time as there is room for."""
    fits = range(LANES[0] // channels if channels % 16 == 0 else 0, 1, -1)
    n = next((n for n in fits if positions % n == 0), 1)
    return replace(nothing(positions // n, n * channels), abreast=n)


def side_by_side(total: Sum, n: int) -> Sum | None:
    """The sum for n neighbouring outputs at a time: of convolutions in integers, in one block."""
    rows, channels = total.rows, total.channels
    if rows is None or count_blocks(rows.blocks) > 1 or total.wide != np.int32:
        return None
    if channels % 16 or n * channels > LANES[0]:
        return None
    if total.single is not None and not _passes_on(total.single):
        return None
    wider = [c.convolution and c.convolution.abreast(n) for c in total.full]
    parts, full = [], []
    for c, convolution in zip(total.full, wider, strict=True):
        if convolution is None:
            return None
        w = _shifted(dyadic.scaled(c.w, total.k), c, convolution.kernel, n)
        parts.append(w)
        full.append(replace(c, windows=convolution.windows(), convolution=convolution))
    w = np.concatenate(parts, 1)
    cut = blocks(w.astype(dyadic.narrowest(w)), 1, rows.narrow)
    if count_blocks(cut) > 1:
        return None
    pointers, runs = geometry.joined([(c.windows, c.w.shape[1]) for c in full])
    taps = total.taps
    if total.single is not None:
        taps = taps_of(np.tile(taps.w, n), geometry.one_to_one(total.positions // n), n)
    return replace(
        total,
        full=tuple(full),
        rows=Rows(cut, pointers, runs, rows.limit, rows.narrow),
        taps=taps,
        channels=n * channels,
        positions=total.positions // n,
        abreast=n,
    )


def beside(array: Array, n: int) -> Array:
    """[..., P, C] as [..., P / n, n C]; where P is 1, one for all positions, [..., 1, n C]."""
    *lead, positions, channels = array.shape
    if n == 1:
        return array
    if positions == 1:
        return np.tile(array, n)
    return array.reshape(*lead, positions // n, n * channels)


def _passes_on(c: Connection) -> bool:
    """Whether every output sees the input at its own place alone."""
    return c.windows.taps == 1 and c.windows.inputs == c.windows.outputs


def _shifted(w: Array, c: Connection, wider: Sequence[int], n: int) -> Array:
    """Weights [taps, C, M] of one output as those of n, [1, wider taps C, n M]."""
    assert c.convolution is not None
    kernel, step = c.convolution.kernel, c.convolution.strides[-1]
    inputs, outputs = w.shape[1:]
    given = w.reshape(*kernel, inputs, outputs)
    out = np.zeros((*wider, inputs, n, outputs), w.dtype)
    for i in range(n):
        out[..., i * step : i * step + kernel[-1], :, i, :] = given
    return out.reshape(1, -1, n * outputs)
