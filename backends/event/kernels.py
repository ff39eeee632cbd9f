"""Kernels of neurons with counts, and of currents: one sample after the other, without the GIL.

Layout, work and arithmetic are told in `currents`.
"""

from __future__ import annotations

import numpy as np

from backends.event.currents import (
    copy,
    cut_up,
    fetch_next,
    first_of,
    gather,
    kernel,
    parts_of,
    pass_on,
)
from backends.event.sharing import body, together
from backends.event.vectors import fire_block


@kernel
def fire_on_grid(board, tasks, given):
    """IF neurons, all in integers: v[B, P, C] int32, in units of 2^-k; thresholds 2^shift units.

    U = V + I;  s = clip(floor(U / theta), -gamma_neg, gamma), at least -C;  V = U - theta s.
    given: what `_fire_on_grid` takes.
    before: V at the begin, [B or 1, P or 1, C]; v: V at the end, empty if nobody will need it.
    bias: [B or 1, P or 1, C]. limits: gamma, gamma_neg. delay: how many of these steps are frozen.
    sent: C, [B, P, C], empty if gamma_neg is 0. flat: `out` without its axes.
    scratch: a row for every hand, but of the type of narrow sums.
    """
    together(board, _fire_on_grid, tasks, given)


@body
def _fire_on_grid(
    hand,
    task,
    out,
    flat,
    before,
    v,
    sent,
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
    (first, last), (start, end), (c0, width), synapse = parts_of(task, synapse)
    gamma, gamma_neg = limits
    numbers, narrow, rows, factors, count, spikes = scratch
    length = 16 * len(lanes)
    u, constant, bits = cut_up(numbers[hand], length, width)
    rows, factors, count, spikes = rows[hand], factors[hand], count[hand], spikes[hand]
    steps, positions, channels = out.shape[1:]
    chunk = u.size // length
    for j in range(width):
        bits[j] = shift[c0 + j]
    for b in range(first, last):
        for begin in range(start, end, chunk):
            upto = min(begin + chunk, end)
            for p in range(begin, upto):
                here = (p - begin) * length
                copy(u, here, before, first_of(before, b, p) + c0, width)
                copy(constant, here, bias, first_of(bias, b, p) + c0, width)
                if gamma_neg:
                    copy(count, here, sent, (b * positions + p) * channels + c0, width)
            for t in range(steps):
                fetch_next(out, synapse, lists, b, t, begin, upto)
                for p in range(begin, upto):
                    here = (p - begin) * length
                    at = ((b * steps + t) * positions + p) * channels + c0
                    if t < delay:
                        for j in range(width):
                            flat[at + j] = 0
                        continue
                    if synapse[1].size:
                        gather(u, here, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                    if tap[1].size:
                        pass_on(u, here, tap, x, b, t, p, c0, width, lanes)
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
                    copy(v, at, u, here, width)
                if gamma_neg:
                    copy(sent, at, count, here, width)


@kernel
def fire(board, tasks, given):
    """Every neuron; potentials in float64, the current is (rows + taps) unit + constant + extra.

    given: what `_fire` takes. neuron: (theta, gamma, gamma_neg, alpha) of an IF, alpha empty, or of
    a LeakyIF. v: potential of an IF, accumulated current of a LeakyIF. constant: [B or 1, P or 1,
    C]; extra: [B, T, P, C] or empty. The rest as above; the equations are those of `numpy_ops`.
    """
    together(board, _fire, tasks, given)


@body
def _fire(
    hand,
    task,
    out,
    v,
    sent,
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
    (first, last), (start, end), (c0, width), synapse = parts_of(task, synapse)
    theta, gamma, gamma_neg, alpha = neuron
    wide, narrow, rows, factors, current, total, count, spikes = scratch
    wide, rows, factors = wide[hand], rows[hand], factors[hand]
    current, total, count, spikes = current[hand], total[hand], count[hand], spikes[hand]
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
                    gather(wide, 0, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    pass_on(wide, 0, tap, x, b, t, p, c0, width, lanes)
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


@kernel
def sum_currents(board, tasks, given):
    """out[b, t, p, c] += (rows + taps) unit, in the type of `out`: no neuron.

    given: what `_sum_currents` takes.
    """
    together(board, _sum_currents, tasks, given)


@body
def _sum_currents(hand, task, out, synapse, lists, tap, x, unit, scratch, lanes):
    (first, last), (start, end), (c0, width), synapse = parts_of(task, synapse)
    wide, narrow, rows, factors = scratch
    wide, rows, factors = wide[hand], rows[hand], factors[hand]
    for b in range(first, last):
        for p in range(start, end):
            for t in range(out.shape[1]):
                for j in range(16 * len(lanes)):
                    wide[j] = 0
                if synapse[1].size:
                    gather(wide, 0, narrow, rows, factors, synapse, lists, b, t, p, lanes)
                if tap[1].size:
                    pass_on(wide, 0, tap, x, b, t, p, c0, width, lanes)
                for j in range(width):
                    out[b, t, p, c0 + j] += wide[j] * unit[c0 + j]
