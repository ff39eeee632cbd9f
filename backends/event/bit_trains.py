"""Kernels on the spikes of binary neurons, bits as `Spikes` tells: listing, pooling, summing.

As `trains`, which has the same for counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from backends.event import masks
from backends.event.vectors import lowest_bit, ones

_kernel = njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_part = njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)


@_part
def _word(bits, b, t, q, c, first, last):
    """The bits of channels c .. c + 63, c a multiple of 64, without those outside first .. last."""
    word = np.uint64(0)
    for i in range(4):
        word |= np.uint64(bits[b, t, q, c // 16 + i]) << np.uint64(16 * i)
    if c < first:
        word &= ~np.uint64(0) << np.uint64(first - c)
    if c + 64 > last:
        word &= ~np.uint64(0) >> np.uint64(c + 64 - last)
    return word


@_kernel
def unpack(out, bits, channels):
    """out[r channels + c] = bit c of bits[r], c < channels; 15 elements beyond are written, too."""
    words = (channels + 15) // 16
    for r in range(bits.shape[0]):
        masks.spread_bits(out, r * channels, bits, r * bits.shape[1], words)


@_kernel
def count_events(bits, channels, span, starts):
    """Count the events of channels first..last, summed up into starts[b, t, 1:]; from 0 on.

    span: samples and steps, (first, last) each.
    """
    first, last = channels
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3]):
            n = np.uint64(0)
            starts[b, t, 0] = 0
            for q in range(bits.shape[2]):
                for c in range(first // 64 * 64, last, 64):
                    n += ones(_word(bits, b, t, q, c, first, last))
                starts[b, t, q + 1] = n


@_kernel
def list_events(bits, channels, span, starts, codes):
    """Write the codes of all events to their starts.

    The first four of a word are written whether there are as many or not, which the branch
    predictor cannot know; what is too much the next ones overwrite.
    """
    first, last = channels
    width = last - first
    for b in range(span[0], span[1]):
        end = starts[b, span[3] - 1, bits.shape[2]]  # what follows may be another thread's
        for t in range(span[2], span[3]):
            i = np.int64(starts[b, t, 0])
            for q in range(bits.shape[2]):
                for c in range(first // 64 * 64, last, 64):
                    word = _word(bits, b, t, q, c, first, last)
                    code = q * width + c - first
                    n = np.int64(ones(word))
                    if i + 4 <= end and n <= 4:
                        for j in range(4):
                            codes[i + j] = code + np.int64(lowest_bit(word))
                            word &= word - np.uint64(1)
                    else:
                        for j in range(n):
                            codes[i + j] = code + np.int64(lowest_bit(word))
                            word &= word - np.uint64(1)
                    i += n


@_kernel
def add_bits(bits, span, totals):
    """totals[P 16 words] += bits, for samples and steps of the span."""
    line = totals.size // 16
    for b in range(span[0], span[1]):
        for t in range(span[2], span[3], 255):
            n = min(255, span[3] - t)
            at = (b * bits.shape[1] + t) * line
            for i in range(0, line, 4):
                masks.count_bits(totals, 16 * i, bits, at + i, line, n)


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
            masks.add_bits(totals, b * size, bits, at, inputs * words)
            for p in range(outputs):
                here = (b * outputs + p) * channels
                to = ((b * steps + t) * outputs + p) * words
                begin, end = pointers[p], pointers[p + 1]
                masks.rise_bits(out, to, totals, b * size, top, here, taps, begin, end, channels)
