"""The event-driven kernels: Numba alone, one sample after the other, without the GIL.

Layout. Spike counts over time are small integers x[B, T, P, C]: samples, steps, positions of the
map in row-major order, channels last. An event is a count that is not zero. Its code is
f = q C + c, position and channel in one; the events of a sample and step lie in one list, sorted by
code, and starts[b, t, q] .. starts[b, t, q + 1] are those of position q.

Synapses. Output p sees input q through tap k of the kernel. The weights of tap k and channel c for
a block of L output channels are one row, number k C + c, L contiguous numbers. Where neighbouring
taps meet neighbouring inputs (k - q constant, as along a row of an image) the rows of all their
events are f + (k - q) C. So a window is a few runs (first q, last q, shift), the same for every
sample and step, and its current is the sum of the rows f + shift of the events in its runs.

Work. For each block of outputs, each sample, each position and each step: collect the rows, add
them with the block kept in vector registers, then integrate, compare, reset. Nothing is spent on
inputs that are silent, and weights stay in the cache for all steps and samples of a task.

Arithmetic. On a grid (see `passes/grid.py`) weights are integers times 2^-k, k per output channel.
Then all this happens in integers: rows of int8, int16 or int32, added in the type of `narrow`,
which at most `limit` rows cannot overflow (0: any number), then in int32. Else rows, currents and potentials are float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event.vectors import (
    add_rows,
    add_up,
    fire_block,
    lowest_bit,
    ones,
    pool_windows,
)

# Without NRT, Numba counts no references, which would cost more than the work of a quiet window;
# the price: kernels allocate nothing, all their scratch comes from the caller.
_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)


_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH = np.uint64(0x8080808080808080)
_MORE = np.uint64(0xFEFEFEFEFEFEFEFE)
_COLLECT = np.uint64(0x0102040810204080)  # the lowest bits of eight bytes, into one byte


@_kernel
def count_events(x, flat, words, channels, span, starts, plain, totals):  # type: ignore[no-untyped-def]
    """Count the events of channels first..last, summed up into starts[b, t, 1:]; from 0 on.

    words: x, eight counts of one byte in each, or empty. span: samples and steps, (first, last)
    each. plain[b, t]: whether every event is one positive spike. totals [P C] grows by |x|, unless empty.
    flat: x without its axes.
    """
    first, last = channels
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            n = np.uint64(0)
            more = np.uint64(0)
            starts[b, t, 0] = 0
            for q in range(x.shape[2]):
                if words.size:
                    for g in range(first // 8, last // 8):
                        word = words[b, t, q, g]
                        n += ones((((word & _LOW) + _LOW) | word) & _HIGH)
                        more |= word & _MORE
                else:
                    for c in range(first, last):
                        n += np.uint64(x[b, t, q, c] != 0)
                        more |= np.uint64(x[b, t, q, c] & ~1)
                starts[b, t, q + 1] = n
            plain[b, t] = more == 0
            if totals.size:
                at = (b * x.shape[1] + t) * totals.size
                whole = totals.size // 16 * 16
                add_up(totals, 0, flat, at, whole, True)
                for f in range(whole, totals.size):
                    totals[f] += abs(np.int32(flat[at + f]))


@_kernel
def list_events(x, words, channels, span, starts, plain, codes, counts):  # type: ignore[no-untyped-def]
    """Write the codes of all events, and their counts unless they are plain, to their starts."""
    first, last = channels
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            for q in range(x.shape[2]):
                i = starts[b, t, q]
                if i == starts[b, t, q + 1]:
                    continue
                if words.size:
                    for g in range(first // 8, last // 8, 8):
                        mask = np.uint64(0)  # a bit for each of 64 channels
                        for h in range(g, min(g + 8, last // 8)):
                            word = words[b, t, q, h]
                            word = (((word & _LOW) + _LOW) | word) & _HIGH
                            bits = ((word >> np.uint64(7)) * _COLLECT) >> np.uint64(56)
                            mask |= bits << np.uint64(8 * (h - g))
                        code = q * (last - first) + 8 * g - first
                        while mask:
                            codes[i] = code + np.int64(lowest_bit(mask))
                            mask &= mask - np.uint64(1)
                            i += 1
                else:
                    for c in range(first, last):
                        if x[b, t, q, c] != 0:
                            codes[i] = q * (last - first) + c - first
                            i += 1
            if not plain[b, t]:
                for q in range(x.shape[2]):
                    for i in range(starts[b, t, q], starts[b, t, q + 1]):
                        counts[i] = x[b, t, q, codes[i] - q * (last - first) + first]


@_part
def _gather(wide, at, narrow, segments, synapse, lists, b, t, p, lanes):  # type: ignore[no-untyped-def]
    """Add to wide[at:] the rows of all events in the window of output p."""
    w, pointers, runs, limit = synapse
    codes, counts, starts, plain = lists
    scaled = not plain[b, t]
    n = 0
    room = limit
    for r in range(pointers[p], pointers[p + 1]):
        begin = np.int64(starts[b, t, runs[r, 0]])
        end = np.int64(starts[b, t, runs[r, 1]])
        while limit and end - begin > room:
            segments[n] = begin
            segments[n + 1] = begin + room
            segments[n + 2] = runs[r, 2]
            add_rows(wide, at, narrow, w, codes, counts, segments, n // 3 + 1, scaled, lanes)
            begin += room
            n = 0
            room = limit
        if begin < end:
            segments[n] = begin
            segments[n + 1] = end
            segments[n + 2] = runs[r, 2]
            room -= end - begin
            n += 3
    if n:
        add_rows(wide, at, narrow, w, codes, counts, segments, n // 3, scaled, lanes)


@_part
def _pass_on(wide, at, tap, x, b, t, p, c0, width):  # type: ignore[no-untyped-def]
    """Add to wide[at:] what reaches output p channel by channel: depthwise, or one to one."""
    w, pointers, taps = tap
    for r in range(pointers[p], pointers[p + 1]):
        q = taps[r, 0]
        k = taps[r, 1]
        for j in range(width):
            wide[at + j] += w[k, c0 + j] * x[b, t, q, c0 + j]


@_kernel
def fire_on_grid(  # type: ignore[no-untyped-def]
    out, flat, v, sent, span, block, synapse, lists, tap, x, bias, shift, limits, delay, scratch,
    lanes,
):
    """IF neurons, all in integers: v[B, P, C] int32, in units of 2^-k; thresholds 2^shift units.

    U = V + I;  s = clip(floor(U / theta), -gamma_neg, gamma), at least -C;  V = U - theta s.
    span: samples and positions, (first, last) each. block: first output channel and their number.
    bias: [B or 1, P or 1, C]. limits: gamma, gamma_neg. delay: how many of these steps are frozen.
    sent: C, [B, P, C], empty if gamma_neg is 0. flat: `out` without its axes.
    """
    first, last, start, end = span
    c0, width = block
    gamma, gamma_neg = limits
    u, narrow, segments, constant, count, bits, spikes = scratch
    length = 16 * len(lanes)
    steps, positions, channels = out.shape[1:]
    chunk = u.size // length
    for j in range(width):
        bits[j] = shift[c0 + j]
    for b in range(first, last):
        for begin in range(start, end, chunk):
            upto = min(begin + chunk, end)
            for p in range(begin, upto):
                here = (p - begin) * length
                b_, p_ = min(b, bias.shape[0] - 1), min(p, bias.shape[1] - 1)
                for j in range(width):
                    u[here + j] = v[b, p, c0 + j]
                    constant[here + j] = bias[b_, p_, c0 + j]
                    if gamma_neg:
                        count[here + j] = sent[b, p, c0 + j]
            for t in range(steps):
                for p in range(begin, upto):
                    here = (p - begin) * length
                    at = ((b * steps + t) * positions + p) * channels + c0
                    if t < delay:
                        for j in range(width):
                            flat[at + j] = 0
                        continue
                    if synapse[1].size:
                        _gather(u, here, narrow, segments, synapse, lists, b, t, p, lanes)
                    if tap[1].size:
                        _pass_on(u, here, tap, x, b, t, p, c0, width)
                    two = gamma_neg > 0
                    if width == length:
                        fire_block(
                            u, here, constant, bits, count, flat, at, -gamma_neg, gamma, two, lanes
                        )
                    else:
                        fire_block(
                            u, here, constant, bits, count, spikes, 0, -gamma_neg, gamma, two, lanes
                        )
                        for j in range(width):
                            flat[at + j] = spikes[j]
            for p in range(begin, upto):
                here = (p - begin) * length
                for j in range(width):
                    v[b, p, c0 + j] = u[here + j]
                    if gamma_neg:
                        sent[b, p, c0 + j] = count[here + j]


@_kernel
def fire(  # type: ignore[no-untyped-def]
    out, v, sent, span, block, synapse, lists, tap, x, unit, constant, extra, neuron, delay,
    scratch, lanes,
):
    """Every neuron; potentials in float64, the current is (rows + taps) unit + constant + extra.

    neuron: (theta, gamma, gamma_neg, alpha) of an IF, alpha empty, or of a LeakyIF. v: potential
    of an IF, accumulated current of a LeakyIF. constant: [B or 1, P or 1, C]; extra: [B, T, P, C] or
    empty. The rest as above; the equations are those of `numpy_ops`.
    """
    first, last, start, end = span
    c0, width = block
    theta, gamma, gamma_neg, alpha = neuron
    wide, narrow, segments, current = scratch
    steps = out.shape[1]
    for b in range(first, last):
        fixed = min(b, constant.shape[0] - 1)
        for p in range(start, end):
            place = min(p, constant.shape[1] - 1)
            for t in range(delay):
                for j in range(width):
                    out[b, t, p, c0 + j] = 0
            for t in range(delay, steps):
                for j in range(16 * len(lanes)):
                    wide[j] = 0
                if synapse[1].size:
                    _gather(wide, 0, narrow, segments, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    _pass_on(wide, 0, tap, x, b, t, p, c0, width)
                for j in range(width):
                    current[j] = wide[j] * unit[c0 + j] + constant[fixed, place, c0 + j]
                if extra.size:
                    for j in range(width):
                        current[j] += extra[b, t, p, c0 + j]
                if alpha.size:
                    for j in range(width):
                        c = c0 + j
                        total = v[b, p, c] + current[j]
                        f = max(total, 0.0) + min(total, 0.0) * alpha[c]
                        s = np.floor(f / theta[c] + 0.5) - sent[b, p, c]
                        s = min(max(s, -gamma), gamma)
                        v[b, p, c] = total
                        sent[b, p, c] += s
                        out[b, t, p, c] = s
                else:
                    for j in range(width):
                        c = c0 + j
                        total = v[b, p, c] + current[j]
                        s = min(max(np.floor(total / theta[c]), -gamma_neg), gamma)
                        if gamma_neg > 0.0:
                            s = max(s, -sent[b, p, c])
                            sent[b, p, c] += s
                        v[b, p, c] = total - theta[c] * s
                        out[b, t, p, c] = s


@_kernel
def sum_currents(  # type: ignore[no-untyped-def]
    out, span, block, synapse, lists, tap, x, unit, scratch, lanes
):
    """out[b, t, p, c] += (rows + taps) unit, in the type of `out`: no neuron."""
    first, last, start, end = span
    c0, width = block
    wide, narrow, segments, _ = scratch
    for b in range(first, last):
        for p in range(start, end):
            for t in range(out.shape[1]):
                for j in range(16 * len(lanes)):
                    wide[j] = 0
                if synapse[1].size:
                    _gather(wide, 0, narrow, segments, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    _pass_on(wide, 0, tap, x, b, t, p, c0, width)
                for j in range(width):
                    out[b, t, p, c0 + j] += wide[j] * unit[c0 + j]


@_kernel
def pool(out, x, totals, top, span, pointers, taps, channels):  # type: ignore[no-untyped-def]
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
def calibrate(out, x, ratio, state, span, before, gamma, allowance):  # type: ignore[no-untyped-def]
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
def move(out, x, places, offset):  # type: ignore[no-untyped-def]
    """Each out[b, t, i] whose places[i] - offset lies in x[b, t] is that element."""
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for i in range(places.size):
                f = places[i] - offset
                if 0 <= f < x.shape[2]:
                    out[b, t, i] = x[b, t, f]


@_kernel
def sum_steps(out, x, upto):  # type: ignore[no-untyped-def]
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
