"""Kernels on the spikes of binary neurons, bits as `Spikes` tells: listing, pooling, summing.

As `trains`, which has the same for counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event import masks
from backends.event.counts import lowest_bit, ones

_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)

#: Events of a word below which there are few.
_FEW = 2
#: As many words of 64 bits as it has.
_CACHE_LINE = (0,) * 8


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
def count_events(words, channels, span, starts):
    """Count the events of channels first..last, summed up into starts[b, t, 1:]; from 0 on.

    words: 64 channels each, [B, T, P, C / 64]. span: samples and steps, (first, last) each.
    """
    first, last = channels
    begin, end = first // 64, (last + 63) // 64
    all_there = first % 64 == 0 and last % 64 == 0
    positions, each = words.shape[2:]
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            n = np.uint64(0)
            starts[b, t, 0] = 0
            here = (b * words.shape[1] + t) * positions * each
            for q in range(positions):
                if all_there:
                    for i in range(begin, end):
                        n += ones(words.flat[here + i])
                else:
                    for i in range(begin, end):
                        n += ones(_word(words, here, i, first, last))
                starts[b, t, q + 1] = n
                here += each


@_kernel
def list_events(words, channels, span, starts, codes):
    """Write the codes of all events to their starts.

    How many bits of a word are set, the branch predictor cannot know. So where there are few, the
    first four of a word are written whether there are as many or not; else eight for every byte.
    What is too much, the next ones overwrite.
    """
    first, last = channels
    width, positions = last - first, words.shape[2]
    first_word, last_word = first // 64, (last + 63) // 64
    for b in range(span[0], span[1]):
        end = starts[b, span[3] - 1, positions]  # what follows may be another thread's
        for t in range(span[2], span[3]):
            at = np.int64(starts[b, t, 0])
            few = starts[b, t, positions] - at < _FEW * positions * (last_word - first_word)
            for q in range(positions):
                here = ((b * words.shape[1] + t) * positions + q) * words.shape[3]
                for i in range(first_word, last_word):
                    word = _word(words, here, i, first, last)
                    code = q * width + 64 * i - first
                    n = np.int64(ones(word))
                    if at + n + 8 > end or (few and n > 4):
                        for j in range(n):
                            codes[at + j] = code + np.int64(lowest_bit(word))
                            word &= word - np.uint64(1)
                    elif few:
                        for j in range(4):
                            codes[at + j] = code + np.int64(lowest_bit(word))
                            word &= word - np.uint64(1)
                    else:
                        to = at
                        for k in range(min(8, (last - 64 * i + 7) // 8)):
                            byte = word & np.uint64(255)
                            masks.list_byte(codes, to, byte, code + 8 * k)
                            to += np.int64(ones(byte))
                            word >>= np.uint64(8)
                    at += n


@_kernel
def add_bits(bits, span, totals):
    """totals[P 16 words] += bits, for samples and steps of the span."""
    line = totals.size // 16
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3], 255):
            n = min(255, span[3] - t)
            at = (b * bits.shape[1] + t) * line
            whole = line // 32 * 32
            for i in range(0, whole, 32):
                masks.count_bits(totals, 16 * i, bits, at + i, line, n, _CACHE_LINE)
            for i in range(whole, line, 4):
                masks.count_bits(totals, 16 * i, bits, at + i, line, n, (0,))


@_kernel
def pool(out, bits, totals, top, span, pointers, taps, words):
    """MLI pooling: totals += bits;  M = max of totals over the window;  out = M > M before.

    M rises by one at most. totals [B, P 16 words], top [B, Q 16 words]: the states C and M.
    """
    first, last, steps, inputs, outputs = span
    channels = 16 * words
    size = inputs * channels
    for b in range(first, last):
        for t in range(steps):
            at = (b * steps + t) * inputs * words
            masks.add_bits(totals, b * size, bits, at, inputs * words // 4)
            for p in range(outputs):
                here = (b * outputs + p) * channels
                to = ((b * steps + t) * outputs + p) * words
                begin, end = pointers[p], pointers[p + 1]
                masks.rise_bits(out, to, totals, b * size, top, here, taps, begin, end, channels)
