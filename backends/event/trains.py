"""Kernels on spike trains x[B, T, P, C]: listing events, pooling, calibrating, moving, summing.

One more turns the layout of the network, [C, P], into this one. What an event list is, and how
kernels are compiled, is told in `currents`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event.counts import add_up, bits_of, lowest_bit, ones, pool_windows

_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)

_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)

#: Positions that `bring` takes at a time: few enough for their lines to stay in the cache.
TILE = 64


@_part
def _bits(x, at, left, beyond):
    """Bits of the counts from x[at] on (see `bits_of`), and how many: up to 64 of `left`."""
    if left >= 64:
        return bits_of(x, at, beyond, (0, 0, 0, 0, 0, 0, 0, 0)), 64
    bits, n = np.uint64(0), 0
    if left & 32:
        bits, n = bits_of(x, at, beyond, (0, 0, 0, 0)), 32
    if left & 16:
        bits |= bits_of(x, at + n, beyond, (0, 0)) << np.uint64(n)
        n += 16
    if left & 8:
        bits |= bits_of(x, at + n, beyond, (0,)) << np.uint64(n)
        n += 8
    for i in range(n, left):
        one = np.uint64(x.flat[at + i] < 0 or x.flat[at + i] > np.int64(beyond))
        bits |= one << np.uint64(i)
    return bits, left


@_kernel
def count_events(x, channels, span, starts, plain):
    """Count the events of channels first..last, summed up into starts[b, t, 1:]; from 0 on.

    span: samples and steps, (first, last) each. plain[b, t]: whether every event is one positive
    spike.
    """
    first, last = channels
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            n = np.uint64(0)
            more = np.uint64(0)
            starts[b, t, 0] = 0
            for q in range(x.shape[2]):
                at = ((b * x.shape[1] + t) * x.shape[2] + q) * x.shape[3]
                c = first
                while c < last:
                    bits, used = _bits(x, at + c, last - c, False)
                    n += ones(bits)
                    more |= _bits(x, at + c, last - c, True)[0]
                    c += used
                starts[b, t, q + 1] = n
            plain[b, t] = more == 0


@_kernel
def add_counts(x, totals):
    """totals[P C] += |x[b, t]| for all samples and steps."""
    whole = totals.size // 16 * 16
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            at = (b * x.shape[1] + t) * totals.size
            add_up(totals, 0, x, at, whole, True)
            for f in range(whole, totals.size):
                totals[f] += abs(np.int32(x.flat[at + f]))


@_kernel
def add_events(codes, counts, starts, plain, totals):
    """The same from the events of all channels."""
    positions = starts.shape[2] - 1
    channels = totals.size // positions
    for b in range(starts.shape[0]):
        for t in range(starts.shape[1]):
            for q in range(positions):
                for e in range(starts[b, t, q], starts[b, t, q + 1]):
                    f = q * channels + _channel(codes, e, q * channels)
                    totals[f] += 1 if plain[b, t] else abs(np.int32(counts[e]))


@_part
def _channel(codes, e, first):
    """The channel of an event, given the code of the first channel at its position."""
    return np.int64(codes[e]) - first & (1 << 8 * codes.itemsize) - 1


@_kernel
def list_events(x, channels, span, starts, plain, codes, counts):
    """Write the codes of all events, and their counts unless they are plain, to their starts."""
    first, last = channels
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            for q in range(x.shape[2]):
                i = starts[b, t, q]
                if i == starts[b, t, q + 1]:
                    continue
                at = ((b * x.shape[1] + t) * x.shape[2] + q) * x.shape[3]
                c = first
                while c < last:
                    bits, used = _bits(x, at + c, last - c, False)
                    code = q * (last - first) + c - first
                    while bits:
                        codes[i] = code + np.int64(lowest_bit(bits))
                        bits &= bits - np.uint64(1)
                        i += 1
                    c += used
            if not plain[b, t]:
                for q in range(x.shape[2]):
                    for i in range(starts[b, t, q], starts[b, t, q + 1]):
                        counts[i] = x[b, t, q, first + _channel(codes, i, q * (last - first))]


@_kernel
def append(codes, counts, plain, begins, own_codes, own_counts, starts, own_plain):
    """Copy a list of events to begins[b, t], with counts unless there all are `plain`."""
    for b in range(starts.shape[0]):
        for t in range(starts.shape[1]):
            first, last = starts[b, t, 0], starts[b, t, starts.shape[2] - 1]
            to = begins[b, t] - first
            for e in range(first, last):
                codes[to + e] = own_codes[e]
            if not plain[b, t]:
                for e in range(first, last):
                    counts[to + e] = 1 if own_plain[b, t] else own_counts[e]


@_kernel
def pool(out, x, totals, top, span, pointers, taps, channels):
    """MLI pooling: totals += x;  M = max of totals over the window;  out = M - M before.

    totals [B, P C], top [B, Q C]: the states C and M. out [B, T, Q C], x [B, T, P C], all flat. A
    window never lies wholly outside.
    """
    first, last, steps, inputs, outputs = span
    size = inputs * channels
    whole = size // 16 * 16
    for b in range(first, last):
        for t in range(steps):
            at = (b * steps + t) * size
            add_up(totals, b * size, x, at, whole, False)
            for f in range(whole, size):
                totals[b * size + f] += x[at + f]
            for p in range(outputs):
                begin, end = pointers[p], pointers[p + 1]
                here = (b * outputs + p) * channels
                to = ((b * steps + t) * outputs + p) * channels
                pool_windows(out, to, totals, b * size, top, here, taps, begin, end, channels)
                for c in range(channels // 16 * 16, channels):
                    largest = totals[b * size + taps[begin] * channels + c]
                    for r in range(begin + 1, end):
                        largest = max(largest, totals[b * size + taps[r] * channels + c])
                    out[to + c] = largest - top[here + c]
                    top[here + c] = largest


@_kernel
def calibrate(out, x, ratio, state, span, before, gamma, allowance):
    """TwinSynapse. state: (F, L, N), each [B, P, C]; ratio: unit of x over threshold, per channel.

    before: steps before the first one here.
    """
    first, last = span
    events, latest, net = state
    for b in range(first, last):
        for i in range(x.shape[1]):
            t = before + i + 1
            for p in range(x.shape[2]):
                for c in range(x.shape[3]):
                    s = np.rint(x[b, i, p, c] * ratio[c])
                    n = net[b, p, c]
                    if s > 0:
                        events[b, p, c] += 1
                        latest[b, p, c] = t
                    else:
                        silence = t - latest[b, p, c] - allowance
                        if silence * events[b, p, c] > latest[b, p, c] and n > 0:
                            s = -min(n, gamma)
                    s = max(s, -n)
                    net[b, p, c] = n + s
                    out[b, i, p, c] = s


@_kernel
def move(out, x, places, offset):
    """Each out[b, t, i] whose places[i] - offset lies in x[b, t] is that element."""
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for i in range(places.size):
                f = places[i] - offset
                if 0 <= f < x.shape[2]:
                    out[b, t, i] = x[b, t, f]


@_kernel
def sum_steps(out, x, upto):
    """out[b, k] += the sum of x[b, t] over t < upto[k]; ascending."""
    for b in range(x.shape[0]):
        t = 0
        for k in range(upto.size):
            if k:
                for i in range(x.shape[2]):
                    out[b, k, i] = out[b, k - 1, i]
            for t_ in range(t, upto[k]):
                for i in range(x.shape[2]):
                    out[b, k, i] += x[b, t_, i]
            t = max(t, upto[k])


@_kernel
def bring(out, x, bias, scale, tile):
    """out[p, c] = (x[c, p] + bias[p, c]) scale[c], bias [1 or P, C]; whether all are whole.

    tile [C, TILE]: computed along positions, in vectors, then turned.
    """
    channels, positions = x.shape
    wrong = 0
    for begin in range(0, positions, tile.shape[1]):
        n = min(tile.shape[1], positions - begin)
        for c in range(channels):
            unit, same = scale[c], bias[0, c]
            off = np.int32(0)
            if bias.shape[0] == 1:
                for p in range(n):
                    scaled = (x[c, begin + p] + same) * unit
                    tile[c, p] = np.int32(scaled)
                    off += np.int32(tile[c, p] != scaled)
            else:
                for p in range(n):
                    scaled = (x[c, begin + p] + bias[begin + p, c]) * unit
                    tile[c, p] = np.int32(scaled)
                    off += np.int32(tile[c, p] != scaled)
            wrong += off
        for p in range(n):
            for c in range(channels):
                out[begin + p, c] = tile[c, p]
    return wrong == 0
