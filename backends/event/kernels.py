"""Kernels of synapses and neurons: Numba alone, one sample after the other, without the GIL.

Layout. Spike counts over time are small integers x[B, T, P, C]: samples, steps, positions of the
map in row-major order, channels last. An event is a count that is not zero. Its code is
f = q C + c, position and channel in one; the events of a sample and step lie in one list, sorted by
code, and starts[b, t, q] .. starts[b, t, q + 1] are those of position q.

Synapses. Output p sees input q through tap k of the kernel. The weights of tap k and channel c for
a block of L output channels are one row, number k C + c, L contiguous numbers. Where neighbouring
taps meet neighbouring inputs (k - q constant, as along a row of an image) the rows of all their
events are f + (k - q) C. So a window is a few runs (first q, last q, shift), the same for every
sample and step, and its current is the sum of the rows f + shift of the events in its runs. Where
convolutions join, their rows make one table, and their events of a step one list.

Work. For each block of outputs, each sample, each position and each step: collect the numbers of
the rows in one list (short copies and one long loop mislead the branch predictor less than many
short loops), add the rows, eight at a time, with the block kept in vector registers, then
integrate, compare, reset. The list ends with numbers of a row of zeros, the last one of the
weights, to make eight. Nothing is spent on inputs that are silent, and weights stay in the cache
for all steps and samples of a task. Where channels are few, a position may be several side by side:
see `abreast`.

Arithmetic. On a grid (see `passes/grid.py`) weights are integers times 2^-k, k per output channel.
Then all this happens in integers: rows of int8 (in pairs, see `rows`), int16 or int32, added in the
type of `narrow`, which at most `limit` rows cannot overflow (0: any number), then in int32. Else
rows, currents and potentials are float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event.masks import fire_bits, fire_on
from backends.event.rows import add_rows
from backends.event.vectors import add_taps, collect, collect_runs, fetch, fill, fire_block

# Without NRT, Numba counts no references (more work than a quiet window), but may not allocate.
_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)


@_part
def _rows(rows, factors, synapse, lists, b, t, p):
    """Collect the numbers of the rows of all events in the window of output p; how many."""
    w, pointers, runs, _ = synapse
    codes, counts, starts, plain = lists
    at = (b * starts.shape[1] + t) * starts.shape[2]
    first, last = pointers[p], pointers[p + 1]
    n = collect_runs(rows, codes, starts, at, runs, first, last, True)
    if not plain[b, t]:
        collect_runs(factors, counts, starts, at, runs, first, last, False)
    fill(rows, n, w.shape[0] - 1)
    return n


@_part
def _fetch_events(synapse, lists, b, t, begin, upto):
    """Ask for the events that outputs begin .. upto see a step later, and where those start that
    they see two steps later.

    They lie where no processor foresees it, in the cache that is furthest.
    """
    _, pointers, runs, _ = synapse
    codes, _, starts, _ = lists
    steps = starts.shape[1]
    first, last = pointers[begin], pointers[upto - 1]
    same = min(pointers[begin + 1] - first, pointers[upto] - last)
    at, done = (b * steps + t + 1) * starts.shape[2], np.int64(0)
    for i in range(same):
        q, r = max(np.int64(runs[first + i, 0]), done), np.int64(runs[last + i, 1])
        if t + 1 < steps and q < r:
            fetch(codes, starts.flat[at + q], starts.flat[at + r])
        if t + 2 < steps and q < r:
            fetch(starts, at + starts.shape[2] + q, at + starts.shape[2] + r)
        done = r


@_part
def _gather(wide, at, narrow, rows, factors, synapse, lists, b, t, p, lanes):
    """Add to wide[at:] the rows of all events in the window of output p."""
    n = _rows(rows, factors, synapse, lists, b, t, p)
    if n:
        w, limit, scaled = synapse[0], synapse[3], not lists[3][b, t]
        add_rows(wide, at, narrow, w, rows, factors, n, limit, scaled, lanes)


@_part
def _pass_on(wide, at, tap, x, b, t, p, c0, width, lanes):
    """Add to wide[at:] what reaches output p channel by channel: depthwise, or one to one."""
    w, pointers, taps, places = tap
    here = (b * x.shape[1] + t) * x.shape[2] * x.shape[3]
    first, last = pointers[p], pointers[p + 1]
    if width == 16 * len(lanes) or x.itemsize == 2:  # bits beyond the channels are 0
        widths = (w.shape[1], x.shape[3])
        add_taps(wide, at, w, x, here, widths, taps, first, last, c0, places, lanes)
    else:
        for r in range(first, last):
            q, k = np.int64(taps[r, 0]), np.int64(taps[r, 1])
            for j in range(width):
                wide[at + j] += w[k, c0 + j] * x[b, t, q, c0 + j]


@_part
def _copy(target, to, source, at, width):
    """target[to + j] = source[at + j], j < width, of the elements in their order."""
    if width % 16 == 0:  # else the last copy would go beyond
        collect(target, to, source, at, at + width, 0)
    else:
        for j in range(width):
            target.flat[to + j] = source.flat[at + j]


@_part
def _place(array, b, p):
    """The first element of [b, p] in an array [B or 1, P or 1, C]."""
    b, p = min(b, array.shape[0] - 1), min(p, array.shape[1] - 1)
    return (b * array.shape[1] + p) * array.shape[2]


@_kernel
def fire_on_grid(
    out,
    flat,
    before,
    v,
    sent,
    span,
    block,
    synapse,
    lists,
    tap,
    x,
    bias,
    shift,
    limits,
    delay,
    scratch,
    lanes,
):
    """IF neurons, all in integers: v[B, P, C] int32, in units of 2^-k; thresholds 2^shift units.

    U = V + I;  s = clip(floor(U / theta), -gamma_neg, gamma), at least -C;  V = U - theta s.
    before: V at the begin, [B or 1, P or 1, C]; v: V at the end, empty if nobody will need it.
    span: samples and positions, (first, last) each. block: first output channel and their number.
    bias: [B or 1, P or 1, C]. limits: gamma, gamma_neg. delay: how many of these steps are frozen.
    sent: C, [B, P, C], empty if gamma_neg is 0. flat: `out` without its axes.
    """
    first, last, start, end = span
    c0, width = block
    gamma, gamma_neg = limits
    u, narrow, rows, factors, constant, count, bits, spikes = scratch
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
                _copy(u, here, before, _place(before, b, p) + c0, width)
                _copy(constant, here, bias, _place(bias, b, p) + c0, width)
                if gamma_neg:
                    _copy(count, here, sent, (b * positions + p) * channels + c0, width)
            for t in range(steps):
                if synapse[1].size:
                    _fetch_events(synapse, lists, b, t, begin, upto)
                if t + 1 < steps:
                    at = (b * steps + t + 1) * positions
                    fetch(flat, (at + begin) * channels, (at + upto) * channels)
                for p in range(begin, upto):
                    here = (p - begin) * length
                    at = ((b * steps + t) * positions + p) * channels + c0
                    if t < delay:
                        for j in range(width):
                            flat[at + j] = 0
                        continue
                    if synapse[1].size:
                        _gather(u, here, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                    if tap[1].size:
                        _pass_on(u, here, tap, x, b, t, p, c0, width, lanes)
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
                at = (b * positions + p) * channels + c0
                if v.size:
                    _copy(v, at, u, here, width)
                if gamma_neg:
                    _copy(sent, at, count, here, width)


@_kernel
def fire_binary(
    out, before, v, span, block, synapse, lists, tap, x, bias, theta, places, delay, scratch, lanes
):
    """IF neurons that fire at most once, all in integers, as `fire_on_grid`.

    U = V + I;  s = U >= theta;  V = U - theta s. out: bits [B, T, P, C / 16], see `Spikes`. theta
    [C], in units of 2^-k. places: where the numbers of a block go, from that of its first on.
    """
    first, last, start, end = span
    c0, width = block
    w, limit = synapse[0], synapse[3]
    u, narrow, rows, factors, constant, threshold = scratch
    length = 16 * len(lanes)
    steps, positions, words = out.shape[1:]
    channels = bias.shape[2]
    chunk = u.size // length
    for j in range(length):
        threshold[j] = theta[c0 + j] if j < width else np.int32(2147483647)  # nobody is there
    for b in range(first, last):
        for begin in range(start, end, chunk):
            upto = min(begin + chunk, end)
            for p in range(begin, upto):
                here = (p - begin) * length
                _copy(u, here, before, _place(before, b, p) + c0, width)
                _copy(constant, here, bias, _place(bias, b, p) + c0, width)
            for t in range(steps):
                if synapse[1].size:
                    _fetch_events(synapse, lists, b, t, begin, upto)
                if t + 1 < steps:
                    at = (b * steps + t + 1) * positions
                    fetch(out, (at + begin) * words, (at + upto) * words)
                for p in range(begin, upto):
                    here = (p - begin) * length
                    at = ((b * steps + t) * positions + p) * words + c0 // 16
                    if t < delay:
                        for j in range(len(lanes)):
                            out.flat[at + places[j]] = 0
                        continue
                    n, scaled = np.int64(0), False
                    if synapse[1].size:
                        n = _rows(rows, factors, synapse, lists, b, t, p)
                        scaled = not lists[3][b, t]
                    if tap[1].size:
                        _pass_on(u, here, tap, x, b, t, p, c0, width, lanes)
                    fire_bits(
                        u, here, constant, threshold, narrow, w, rows, factors, n, limit, scaled,
                        out, at, places, lanes,
                    )  # fmt: skip
            for p in range(begin, upto if v.size else begin):
                at = (b * positions + p) * channels + c0
                _copy(v, at, u, (p - begin) * length, width)


@_kernel
def fire_steady(
    out, before, v, span, block, synapse, lists, tap, x, bias, theta, places, delay, scratch, lanes
):
    """`fire_binary` where no spikes arrive: potentials stay in registers over all steps."""
    first, last, start, end = span
    c0, width = block
    u, _, _, _, constant, threshold = scratch
    steps, positions, words = out.shape[1:]
    channels = bias.shape[2]
    for j in range(16 * len(lanes)):
        threshold[j] = theta[c0 + j] if j < width else np.int32(2147483647)  # nobody is there
    for b in range(first, last):
        for p in range(start, end):
            _copy(u, 0, before, _place(before, b, p) + c0, width)
            _copy(constant, 0, bias, _place(bias, b, p) + c0, width)
            at, stride = (b * steps * positions + p) * words + c0 // 16, positions * words
            for t in range(delay):
                for j in range(len(lanes)):
                    out.flat[at + t * stride + places[j]] = 0
            fire_on(
                u, constant, threshold, out, at + delay * stride, stride, steps - delay, places,
                lanes,
            )  # fmt: skip
            if v.size:
                _copy(v, (b * positions + p) * channels + c0, u, 0, width)


@_kernel
def fire(
    out,
    v,
    sent,
    span,
    block,
    synapse,
    lists,
    tap,
    x,
    unit,
    constant,
    extra,
    neuron,
    delay,
    scratch,
    lanes,
):
    """Every neuron; potentials in float64, the current is (rows + taps) unit + constant + extra.

    neuron: (theta, gamma, gamma_neg, alpha) of an IF, alpha empty, or of a LeakyIF. v: potential
    of an IF, accumulated current of a LeakyIF. constant: [B or 1, P or 1, C]; extra: [B, T, P, C]
    or empty. The rest as above; the equations are those of `numpy_ops`.
    """
    first, last, start, end = span
    c0, width = block
    theta, gamma, gamma_neg, alpha = neuron
    wide, narrow, rows, factors, current, total, count, spikes = scratch
    steps = out.shape[1]
    mine = slice(c0, c0 + width)  # indices of slices are never negative, as vectors need
    unit, theta = unit[mine], theta[mine]
    leaky = alpha.size > 0
    if leaky:
        alpha = alpha[mine]
    for b in range(first, last):
        fixed = min(b, constant.shape[0] - 1)
        for p in range(start, end):
            place = min(p, constant.shape[1] - 1)
            steady, potential = constant[fixed, place, mine], v[b, p, mine]
            for j in range(width):
                total[j] = potential[j]
            if sent.size:
                for j in range(width):
                    count[j] = sent[b, p, c0 + j]
            for t in range(delay):
                for j in range(width):
                    out[b, t, p, c0 + j] = 0
            for t in range(delay, steps):
                for j in range(16 * len(lanes)):
                    wide[j] = 0
                if synapse[1].size:
                    _gather(wide, 0, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    _pass_on(wide, 0, tap, x, b, t, p, c0, width, lanes)
                for j in range(width):
                    current[j] = wide[j] * unit[j] + steady[j]
                if extra.size:
                    more = extra[b, t, p, mine]
                    for j in range(width):
                        current[j] += more[j]
                for j in range(width):
                    total[j] += current[j]
                if leaky:
                    for j in range(width):
                        f = max(total[j], 0.0) + min(total[j], 0.0) * alpha[j]
                        s = np.floor(f / theta[j] + 0.5) - count[j]
                        spikes[j] = min(max(s, -gamma), gamma)
                else:
                    for j in range(width):
                        s = np.floor(total[j] / theta[j])
                        spikes[j] = min(max(s, -gamma_neg), gamma)
                    if gamma_neg > 0.0:
                        for j in range(width):
                            spikes[j] = max(spikes[j], -count[j])
                    for j in range(width):
                        total[j] -= theta[j] * spikes[j]
                if sent.size:
                    for j in range(width):
                        count[j] += spikes[j]
                sending = out[b, t, p, mine]
                for j in range(width):
                    sending[j] = spikes[j]
            for j in range(width):
                potential[j] = total[j]
            if sent.size:
                for j in range(width):
                    sent[b, p, c0 + j] = count[j]


@_kernel
def sum_currents(out, span, block, synapse, lists, tap, x, unit, scratch, lanes):
    """out[b, t, p, c] += (rows + taps) unit, in the type of `out`: no neuron."""
    first, last, start, end = span
    c0, width = block
    wide, narrow, rows, factors = scratch
    for b in range(first, last):
        for p in range(start, end):
            for t in range(out.shape[1]):
                for j in range(16 * len(lanes)):
                    wide[j] = 0
                if synapse[1].size:
                    _gather(wide, 0, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    _pass_on(wide, 0, tap, x, b, t, p, c0, width, lanes)
                for j in range(width):
                    out[b, t, p, c0 + j] += wide[j] * unit[c0 + j]
