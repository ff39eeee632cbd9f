"""Kernels of neurons that fire at most once a step, all in integers; spikes are bits.

As `kernels`, which has the others; bits are told in `Spikes`.
"""

from __future__ import annotations

import numpy as np

from backends.event.currents import (
    collect_rows,
    copy,
    cut_up,
    fetch_next,
    first_of,
    kernel,
    parts_of,
    pass_on,
)
from backends.event.masks import fire_bits, fire_on
from backends.event.sharing import body, together


@kernel
def fire_binary(board, tasks, given):
    """IF neurons that fire at most once, all in integers, as `fire_on_grid`.

    U = V + I;  s = U >= theta;  V = U - theta s. given: what `_fire_binary` takes. out: bits
    [B, T, P, C / 16], see `Spikes`. theta [C], in units of 2^-k. places: where the numbers of a
    block go, from that of its first on.
    """
    together(board, _fire_binary, tasks, given)


@body
def _fire_binary(
    hand, task, out, before, v, synapse, lists, tap, x, bias, theta, places, delay, scratch, lanes
):
    (first, last), (start, end), (c0, width), synapse = parts_of(task, synapse)
    w, limit = synapse[0], synapse[3]
    numbers, narrow, rows, factors = scratch
    length = 16 * len(lanes)
    u, constant, threshold = cut_up(numbers[hand], length, width)
    rows, factors = rows[hand], factors[hand]
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
                copy(u, here, before, first_of(before, b, p) + c0, width)
                copy(constant, here, bias, first_of(bias, b, p) + c0, width)
            for t in range(steps):
                fetch_next(out, synapse, lists, b, t, begin, upto)
                for p in range(begin, upto):
                    here = (p - begin) * length
                    at = ((b * steps + t) * positions + p) * words + c0 // 16
                    if t < delay:
                        for j in range(len(lanes)):
                            out.flat[at + places[j]] = 0
                        continue
                    n, scaled = np.int64(0), False
                    if synapse[1].size:
                        n = collect_rows(rows, factors, synapse, lists, b, t, p)
                        scaled = not lists[3][b, t]
                    if tap[1].size:
                        pass_on(u, here, tap, x, b, t, p, c0, width, lanes)
                    fire_bits(
                        u, here, constant, threshold, narrow, w, rows, factors, n, limit, scaled,
                        out, at, places, lanes,
                    )  # fmt: skip
            for p in range(begin, upto if v.size else begin):
                at = (b * positions + p) * channels + c0
                copy(v, at, u, (p - begin) * length, width)


@kernel
def fire_steady(board, tasks, given):
    """`fire_binary` where no spikes arrive: potentials stay in registers over all steps."""
    together(board, _fire_steady, tasks, given)


@body
def _fire_steady(
    hand, task, out, before, v, synapse, lists, tap, x, bias, theta, places, delay, scratch, lanes
):
    (first, last), (start, end), (c0, width), _ = parts_of(task, synapse)
    u, constant, threshold = cut_up(scratch[0][hand], 16 * len(lanes), width)
    steps, positions, words = out.shape[1:]
    channels = bias.shape[2]
    for j in range(16 * len(lanes)):
        threshold[j] = theta[c0 + j] if j < width else np.int32(2147483647)  # nobody is there
    for b in range(first, last):
        for p in range(start, end):
            copy(u, 0, before, first_of(before, b, p) + c0, width)
            copy(constant, 0, bias, first_of(bias, b, p) + c0, width)
            at, stride = (b * steps * positions + p) * words + c0 // 16, positions * words
            for t in range(delay):
                for j in range(len(lanes)):
                    out.flat[at + t * stride + places[j]] = 0
            fire_on(
                u, constant, threshold, out, at + delay * stride, stride, steps - delay, places,
                lanes,
            )  # fmt: skip
            if v.size:
                copy(v, (b * positions + p) * channels + c0, u, 0, width)
