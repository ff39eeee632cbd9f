"""What flows into the neurons of a window: the parts that kernels have in common.

Layout. Spike counts over time are small integers x[B, T, P, C]: samples, steps, positions of the
map in row-major order, channels last. An event is a count that is not zero. Its code is
f = q C + c, position and channel in one; the events of a sample and step lie in one list, sorted by
code, and starts[b, t, q] .. starts[b, t, q + 1] are those of position q. Where there are at most
2^16 rows of weights, all this is modulo 2^16: lists are half as long.

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
for all steps and samples of a task. Events do not: what a window sees lies in another place at
every step, and no processor foresees where. So some outputs are computed at a step, one after the
other, before the same ones at the next, whose events are asked for meanwhile. Where channels are
few, a position may be several side by side: see `abreast`. A block of outputs, for some samples and
positions, is a task; `sharing` tells how threads share them.

Arithmetic. On a grid (see `passes/grid.py`) weights are integers times 2^-k, k per output channel.
Then all this happens in integers: rows of int8 (in pairs, see `rows`), int16 or int32, added in the
type of `narrow`, which at most `limit` rows cannot overflow (0: any number), then in int32. Else
rows, currents and potentials are float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event.rows import add_rows
from backends.event.vectors import add_taps, collect, collect_runs, fetch, fill

# Without NRT, Numba counts no references (more work than a quiet window), but may not allocate.
kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)


@part
def parts_of(task, synapse):
    """Of a task: samples, positions and channels, (first, last or number) each; its own rows."""
    table, pointers, runs, limit = synapse
    own = table[task[6]], pointers, runs, limit
    return (task[0], task[1]), (task[2], task[3]), (task[4], task[5]), own


@part
def cut_up(numbers, length, width):
    """Scratch for a chunk of positions twice, of `length` each, and once for a single one.

    Where `width` is less, zeros: nobody may fire beyond it.
    """
    chunk = (numbers.size - length) // 2
    if width < length:
        for i in range(numbers.size):
            numbers[i] = 0
    return numbers[:chunk], numbers[chunk : 2 * chunk], numbers[2 * chunk :]


@part
def collect_rows(rows, factors, synapse, lists, b, t, p):
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


@part
def fetch_next(out, synapse, lists, b, t, begin, upto):
    """Ask for what outputs begin .. upto need one step after t: their places in out, their events.

    And for where those events start that they see two steps later. out: [B, T, P, any].
    """
    steps, positions, width = out.shape[1:]
    if t + 1 < steps:
        here = (b * steps + t + 1) * positions
        fetch(out, (here + begin) * width, (here + upto) * width)
    if synapse[1].size:
        _, pointers, runs, _ = synapse
        codes, _, starts, _ = lists
        first, last = pointers[begin], pointers[upto - 1]
        same = min(pointers[begin + 1] - first, pointers[upto] - last)
        at, done = (b * steps + t + 1) * starts.shape[2], np.int64(0)
        for i in range(same):  # what neighbours see overlaps
            q, r = max(np.int64(runs[first + i, 0]), done), np.int64(runs[last + i, 1])
            if t + 1 < steps and q < r:
                fetch(codes, starts.flat[at + q], starts.flat[at + r])
            if t + 2 < steps and q < r:
                fetch(starts, at + starts.shape[2] + q, at + starts.shape[2] + r)
            done = max(done, r)


@part
def gather(wide, at, narrow, rows, factors, synapse, lists, b, t, p, lanes):
    """Add to wide[at:] the rows of all events in the window of output p."""
    n = collect_rows(rows, factors, synapse, lists, b, t, p)
    if n:
        w, limit, scaled = synapse[0], synapse[3], not lists[3][b, t]
        add_rows(wide, at, narrow, w, rows, factors, n, limit, scaled, lanes)


@part
def pass_on(wide, at, tap, x, b, t, p, c0, width, lanes):
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


@part
def copy(target, to, source, at, width):
    """target[to + j] = source[at + j], j < width, of the elements in their order."""
    if width % 16 == 0:  # else the last copy would go beyond
        collect(target, to, source, at, at + width, 0)
    else:
        for j in range(width):
            target.flat[to + j] = source.flat[at + j]


@part
def first_of(array, b, p):
    """The first element of [b, p] in an array [B or 1, P or 1, C]."""
    b, p = min(b, array.shape[0] - 1), min(p, array.shape[1] - 1)
    return (b * array.shape[1] + p) * array.shape[2]
