"""Kernels on the spikes of binary neurons, bits as `Spikes` tells: listing, pooling, summing.

As `trains`, which has the same for counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event import masks
from backends.event.counts import lowest_bit, ones
from backends.event.sharing import body, together

_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)

#: Events of a word below which there are few.
_FEW = 2
#: As many words of 64 bits as it has.
_CACHE_LINE = (0,) * 8
#: Rows of bits whose number fits a byte.
_COUNTED = 255


@_part
def _word(words, at, i, first, last):
    """Word i of the position that begins with word `at`, only of the channels first .. last."""
    word = words.flat[at + i]
    if 64 * i < first:
        word &= ~np.uint64(0) << np.uint64(first - 64 * i)
    if 64 * i + 64 > last:
        word &= ~np.uint64(0) >> np.uint64(64 * i + 64 - last)
    return word


@_kernel
def unpack(out, bits, channels):
    """out[r channels + c] = bit c of bits[r], c < channels; 15 elements beyond are written, too."""
    words = (channels + 15) // 16
    for r in range(bits.shape[0]):
        masks.spread_bits(out, r * channels, bits, r * bits.shape[1], words)


@_kernel
def count_events(board, tasks, given):
    """ends[b t] = number of the events of channels first..last. given: words, channels, ends.

    words: 64 channels each, [B, T, P, C / 64]. A task: some [b, t], numbered through.
    """
    together(board, _count_events, tasks, given)


@body
def _count_events(_hand, task, words, channels, ends):
    first, last = channels
    begin, end = first // 64, (last + 63) // 64
    positions, each = words.shape[2:]
    for row in range(task[0], task[1]):
        n = np.uint64(0)
        here = row * positions * each
        if first == 0 and last == 64 * each:
            for i in range(here, here + positions * each):
                n += ones(words.flat[i])
        else:
            for q in range(positions):
                for i in range(begin, end):
                    n += ones(_word(words, here + q * each, i, first, last))
        ends[row] = n


@_kernel
def list_events(board, tasks, given):
    """Write the codes of all events, those of [b, t] up to ends[b t], and where each q starts.

    given: words, channels, width, ends, starts, codes. Tasks as above. width: the number of
    channels; bits beyond them, up to the last, are 0.

    How many bits of a word are set, the branch predictor cannot know. So what is easy to write is
    written: `list_word`; or, where that takes long and bits are few, the first four of a word,
    whether there are as many or not. What is too much, the next ones overwrite.
    """
    together(board, _list_events, tasks, given)


@body
def _list_events(_hand, task, words, channels, width, ends, starts, codes):
    first, last = channels
    positions, each = words.shape[2:]
    first_word, last_word = first // 64, (last + 63) // 64
    end = ends[task[1] - 1]  # what follows may be another thread's
    for row in range(task[0], task[1]):
        start, here = row * (positions + 1), row * positions * each
        at = ends[row - 1] if row else np.int64(0)
        starts.flat[start] = at
        few = ends[row] - at < _FEW * positions * (last_word - first_word)
        few = few and not masks.compresses()
        if first == 0 and last == 64 * each and not few and ends[row] + 32 < end:
            for q in range(positions):
                for i in range(each):
                    word = words.flat[here + q * each + i]
                    masks.list_word(codes, at, word, q * width + 64 * i)
                    at += np.int64(ones(word))
                starts.flat[start + q + 1] = at
            continue
        for q in range(positions):
            for i in range(first_word, last_word):
                word = _word(words, here + q * each, i, first, last)
                code = q * width + 64 * i - first
                n = np.int64(ones(word))
                if at + n + 32 > end or (few and n > 4):
                    for j in range(n):
                        codes[at + j] = code + np.int64(lowest_bit(word))
                        word &= word - np.uint64(1)
                elif few:
                    for j in range(4):
                        codes[at + j] = code + np.int64(lowest_bit(word))
                        word &= word - np.uint64(1)
                else:
                    masks.list_word(codes, at, word, code)
                at += n
            starts.flat[start + q + 1] = at


@_kernel
def sum_bits(board, tasks, given):
    """totals[P 16 words] = sum of the bits over samples and steps. given: bits, counts, totals.

    counts: uint8, as many, 0. A task: some of the words of 64 bits of all positions. Some rows
    after the other, each from its first bit to its last, as it lies in memory.
    """
    together(board, _sum_bits, tasks, given)


@body
def _sum_bits(_hand, task, bits, counts, totals):
    line, rows = totals.size // 16, bits.shape[0] * bits.shape[1]
    first, last = 4 * task[0], 4 * task[1]
    whole = last - (last - first) % 32
    found, sums = counts[16 * first : 16 * last], totals[16 * first : 16 * last]
    for begin in range(0, rows, _COUNTED):
        end = min(begin + _COUNTED, rows)
        rest = end - (end - begin) % masks.TOGETHER
        for row in range(begin, rest, masks.TOGETHER):
            for i in range(first, whole, 32):
                masks.count_bits(counts, 16 * i, bits, row * line + i, line, _CACHE_LINE)
            for i in range(whole, last, 4):
                masks.count_bits(counts, 16 * i, bits, row * line + i, line, (0,))
        for row in range(rest, end):
            masks.add_bits(counts, 16 * first, bits, row * line + first, (last - first) // 4)
        for i in range(found.size):
            sums[i] = np.int64(found[i]) + (sums[i] if begin else 0)
            found[i] = 0


@_kernel
def pool(board, tasks, given):
    """MLI pooling: totals += bits;  M = max of totals over the window;  out = M > M before.

    given: out, bits, totals, top, sizes, pointers, taps, words. M rises by one at most. totals
    [B, P 16 words], top [B, Q 16 words]: the states C and M. sizes: T, P, Q. A task: samples.
    """
    together(board, _pool, tasks, given)


@body
def _pool(_hand, task, out, bits, totals, top, sizes, pointers, taps, words):
    steps, inputs, outputs = sizes
    channels = 16 * words
    size = inputs * channels
    for b in range(task[0], task[1]):
        for t in range(steps):
            at = (b * steps + t) * inputs * words
            masks.add_bits(totals, b * size, bits, at, inputs * words // 4)
            for p in range(outputs):
                here = (b * outputs + p) * channels
                to = ((b * steps + t) * outputs + p) * words
                begin, end = pointers[p], pointers[p + 1]
                masks.rise_bits(out, to, totals, b * size, top, here, taps, begin, end, channels)
