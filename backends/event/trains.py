"""Kernels on spike trains x[B, T, P, C]: listing events, pooling, calibrating, moving, summing.

One more turns the layout of the network, [C, P], into this one. What an event list is, and how
kernels are compiled, is told in `currents`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event.counts import add_up, bits_of, lowest_bit, ones, pool_windows
from backends.event.sharing import body, together

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
def count_events(board, tasks, given):
    """Count the events of channels first..last: ends[b t]; summed up to each q in starts[b, t, 1:].

    given: x, channels, starts, ends, plain. plain[b, t]: whether every event is one positive spike.
    A task: some [b, t], numbered through.
    """
    together(board, _count_events, tasks, given)


@body
def _count_events(_hand, task, x, channels, starts, ends, plain):
    first, last = channels
    positions, width = x.shape[2:]
    for row in range(task[0], task[1]):
        n, more, start = np.uint64(0), np.uint64(0), row * (positions + 1)
        for q in range(positions):
            at, c = (row * positions + q) * width, first
            while c < last:
                bits, used = _bits(x, at + c, last - c, False)
                n += ones(bits)
                more |= _bits(x, at + c, last - c, True)[0]
                c += used
            starts.flat[start + q + 1] = n
        ends[row] = n
        plain.flat[row] = more == 0


@_kernel
def add_up_sizes(ends):
    """Sizes of lists to where they end, one after the other: the sums of ends[:i + 1]; the last."""
    total = np.int64(0)
    for i in range(ends.size):
        total += ends[i]
        ends[i] = total
    return total


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
def list_events(board, tasks, given):
    """Write the codes of all events, and their counts unless they are plain, to their starts.

    given: x, channels, starts, ends, plain, codes, counts; starts of a list from 0 on become those
    in all lists, which end at ends[b t]. Tasks as above.
    """
    together(board, _list_events, tasks, given)


@body
def _list_events(_hand, task, x, channels, starts, ends, plain, codes, counts):
    first, last = channels
    positions, width = x.shape[2:]
    for row in range(task[0], task[1]):
        start, begin = row * (positions + 1), ends[row - 1] if row else np.int64(0)
        starts.flat[start] = begin
        for q in range(positions):
            starts.flat[start + q + 1] += begin
        for q in range(positions):
            i = np.int64(starts.flat[start + q])
            if i == starts.flat[start + q + 1]:
                continue
            at, c = (row * positions + q) * width, first
            while c < last:
                bits, used = _bits(x, at + c, last - c, False)
                code = q * (last - first) + c - first
                while bits:
                    codes[i] = code + np.int64(lowest_bit(bits))
                    bits &= bits - np.uint64(1)
                    i += 1
                c += used
        if not plain.flat[row]:
            for q in range(positions):
                at = (row * positions + q) * width + first
                for i in range(starts.flat[start + q], starts.flat[start + q + 1]):
                    counts[i] = x.flat[at + _channel(codes, i, q * (last - first))]


@_kernel
def append(board, tasks, given):
    """Put a list of events to end at ends[b t], its positions from `offset` on.

    With counts, unless there all are `plain`. given: codes, counts, starts, plain, ends, offset,
    and the list. A task: samples.
    """
    together(board, _append, tasks, given)


@body
def _append(
    _hand, task, codes, counts, starts, plain, ends, offset, own_codes, own_counts, own, own_plain
):
    positions = own.shape[2] - 1
    for b in range(task[0], task[1]):
        for t in range(own.shape[1]):
            first, last = own[b, t, 0], own[b, t, positions]
            to = ends[b * own.shape[1] + t] - last
            for q in range(positions + 1):  # where the next list begins, this one ends
                starts[b, t, offset + q] = own[b, t, q] + to
            for e in range(first, last):
                codes[to + e] = own_codes[e]
            if not plain[b, t]:
                for e in range(first, last):
                    counts[to + e] = 1 if own_plain[b, t] else own_counts[e]


@_kernel
def pool(board, tasks, given):
    """MLI pooling: totals += x;  M = max of totals over the window;  out = M - M before.

    given: out, x, totals, top, sizes, pointers, taps, channels. totals [B, P C], top [B, Q C]: the
    states C and M. out [B, T, Q C], x [B, T, P C], all flat. sizes: T, P, Q. A window never lies
    wholly outside. A task: samples.
    """
    together(board, _pool, tasks, given)


@body
def _pool(_hand, task, out, x, totals, top, sizes, pointers, taps, channels):
    steps, inputs, outputs = sizes
    size = inputs * channels
    whole = size // 16 * 16
    for b in range(task[0], task[1]):
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
def calibrate(board, tasks, given):
    """TwinSynapse. given: out, x, ratio, (F, L, N), before, gamma, allowance. A task: samples.

    F, L, N: states, [B, P, C] each. ratio: unit of x over threshold, per channel. before: steps
    before the first one here.
    """
    together(board, _calibrate, tasks, given)


@body
def _calibrate(_hand, task, out, x, ratio, state, before, gamma, allowance):
    events, latest, net = state
    for b in range(task[0], task[1]):
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
def bring(board, tasks, given):
    """out[b, p, c] = (x[b, c, p] + bias[p, c]) scale[c], bias [1 or P, C]; exact[b]: all are whole.

    given: out, exact, x, bias, scale, tiles [hands, C, TILE]: computed along positions, in
    vectors, then turned. A task: samples.
    """
    together(board, _bring, tasks, given)


@body
def _bring(hand, task, out, exact, x, bias, scale, tiles):
    tile = tiles[hand]
    channels, positions = x.shape[1:]
    for b in range(task[0], task[1]):
        wrong = 0
        for begin in range(0, positions, TILE):
            n = min(TILE, positions - begin)
            for c in range(channels):
                wrong += _bring_row(tile[c], x[b, c, begin : begin + n], bias, scale[c], begin, c)
            for p in range(n):
                for c in range(channels):
                    out[b, begin + p, c] = tile[c, p]
        exact[b] = wrong == 0


@_part
def _bring_row(tile, x, bias, unit, begin, c):
    """tile[p] = (x[p] + bias[begin + p, c]) unit; how many are not whole numbers."""
    wrong = np.int32(0)
    if bias.shape[0] == 1:
        same = bias[0, c]
        for p in range(x.size):
            scaled = (x[p] + same) * unit
            tile[p] = np.int32(scaled)
            wrong += np.int32(tile[p] != scaled)
    else:
        for p in range(x.size):
            scaled = (x[p] + bias[begin + p, c]) * unit
            tile[p] = np.int32(scaled)
            wrong += np.int32(tile[p] != scaled)
    return wrong
