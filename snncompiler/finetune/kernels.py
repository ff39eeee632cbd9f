"""What `spiking.Fire` and `activation.QuantiseClip` compute, reading memory once. Numba alone.

Written as operations of torch they take some ten passes over memory (a neuron: in every step), and
longer than the convolution before them. Here as many neurons as stay in the cache go through all
their steps at once. Backward, all is computed again rather than remembered.

Arrays are [T, N, S]: steps, samples, a sample's neurons in the order of memory; of activations
[N, S]. They hold float32, or bfloat16, the upper half of a float32, as the uint16 of the same bits.
What is computed is float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

# Indices of neurons are unsigned: those that may be negative keep loops from being vectorised.
#: Neurons that go through their steps together, and samples whose gradients of thresholds add up.
_TOGETHER, SUMMED = 256, 8

_kernel = njit(nogil=True, cache=True, error_model="numpy", parallel=True)
_part = njit(nogil=True, cache=True, error_model="numpy", forceinline=True)


def _read(x):
    """The float32 that x keeps."""


def _kept(y, like):
    """What keeps the float32 y where `like` is kept: the nearest, of two the even one."""


@overload(_read)
def _(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@overload(_kept)
def _(y, like):
    if isinstance(like, types.Float):
        return lambda y, like: y

    def upper_half(y, like):
        bits = np.float32(y).view(np.uint32)
        odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return upper_half


@_part
def _below(total, y, slope):
    """y, or slope y where the current so far is below zero."""
    steep = slope * y  # computed in any case: a loop without branches is vectorised
    return y if total > np.float32(0) else steep


@_part
def _spikes(w, back):
    """clip(floor(w), -back, 1); no number stays none, so that training that diverges is seen."""
    s = np.floor(w)
    s = np.float32(1) if s > np.float32(1) else s
    return -back if s < -back else s


@_part
def _step(now, count, k, x, slope, lowest, signed):
    """One step of neuron k, by the current x: its spikes, and whether (1 or 0) gradients pass.

    now: the current so far. count: the spikes so far.
    """
    now[k] += x
    back = lowest if signed or count[k] > lowest else count[k]
    w = _below(now[k], now[k], slope) + np.float32(0.5) - count[k]
    spikes = _spikes(w, back)
    count[k] += spikes
    within = (w > np.float32(0.5) - back) & (w < np.float32(1.5))
    return spikes, np.float32(1) if within else np.float32(0)


@_kernel
def fire(current, theta, slope, lowest, signed, sent):
    """What neurons send, theta s.

    Args:
        current: [T, N, S].
        theta: [S] float32.
        slope: [S] float32, f(X) / X below zero.
        lowest: float32, the most spikes taken back.
        signed: whether that many may be, or only what was sent before.
        sent: [T, N, S], written.
    """
    steps, samples, neurons = current.shape
    for n in prange(samples):
        now, count = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        for first in range(np.uint64(0), np.uint64(neurons), np.uint64(_TOGETHER)):
            size = min(np.uint64(_TOGETHER), np.uint64(neurons) - first)
            now[:] = 0
            count[:] = 0
            for t in range(steps):
                for k in range(size):
                    j = first + k
                    x = _read(current[t, n, j]) / theta[j]
                    s, _ = _step(now, count, k, x, slope[j], lowest, signed)
                    sent[t, n, j] = _kept(s * theta[j], sent[t, n, j])


@_kernel
def fire_backward(current, theta, slope, lowest, signed, gradient, by_current, by_theta):
    """Its gradients, as told at the top of `spiking.py`; here A is one theta smaller.

    Args:
        current: [T, N, S], and all up to `signed` as of `fire`.
        theta: see there.
        slope: see there.
        lowest: see there.
        signed: see there.
        gradient: [T, N, S] dLoss/d(theta s).
        by_current: [T, N, S], written.
        by_theta: [ceil(N / SUMMED), S] float32, written: to be summed along the first axis.
    """
    steps, samples, neurons = current.shape
    for part in prange(len(by_theta)):
        now, count = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        fired, later = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        spikes = np.empty(_TOGETHER, np.float32)
        total = np.empty((steps, _TOGETHER), np.float32)
        share = np.empty((steps, _TOGETHER), np.float32)
        inside = np.empty((steps, _TOGETHER), np.float32)
        by_theta[part] = 0
        for n in range(part * SUMMED, min((part + 1) * SUMMED, samples)):
            for first in range(np.uint64(0), np.uint64(neurons), np.uint64(_TOGETHER)):
                size = min(np.uint64(_TOGETHER), np.uint64(neurons) - first)
                now[:] = 0
                count[:] = 0
                for t in range(steps):
                    for k in range(size):
                        j = first + k
                        x = _read(current[t, n, j]) / theta[j]
                        s, seen = _step(now, count, k, x, slope[j], lowest, signed)
                        spikes[k], inside[t, k] = s, seen
                    for k in range(size):
                        share[t, k] = _read(gradient[t, n, first + k])
                        by_theta[part, first + k] += share[t, k] * spikes[k]
                        total[t, k] = now[k]
                fired[:] = 0
                later[:] = 0
                for t in range(steps - 1, -1, -1):
                    for k in range(size):
                        share[t, k] = (share[t, k] - fired[k]) * inside[t, k]
                        fired[k] += share[t, k]
                    for k in range(size):
                        a, x = share[t, k], total[t, k]
                        later[k] += _below(x, a, slope[first + k])
                        by_theta[part, first + k] -= a * _below(x, x, slope[first + k])
                    for k in range(size):
                        by_current[t, n, first + k] = _kept(later[k], by_current[t, n, first + k])


@_part
def _quantised(x, levels, plain):
    """The nearest multiple of 1 / levels, or x as it is."""
    q = np.floor(x * levels + np.float32(0.5)) / levels
    return x if plain else q


@_part
def _clipped(q, lowest):
    """clip(q, lowest, 1); no number stays none."""
    q = np.float32(1) if q > np.float32(1) else q
    return lowest if q < lowest else q


@_kernel
def quantise(f, theta, levels, lowest, chance, share, y):
    """What activations are, rounded and clipped.

    Args:
        f: [N, S].
        theta: [S] float32.
        levels: float32, T.
        lowest: float32, 0 or -1.
        chance: [N, S] uint8, or [1, S] for all samples; below `share`, f stays as it is.
        share: see there.
        y: [N, S], written.
    """
    for n in prange(len(f)):
        m = min(np.int64(n), len(chance) - 1)
        for j in range(np.uint64(len(theta))):
            q = _quantised(_read(f[n, j]) / theta[j], levels, chance[m, j] < share)
            y[n, j] = _kept(theta[j] * _clipped(q, lowest), y[n, j])


@_kernel
def quantise_backward(f, theta, levels, lowest, chance, share, gradient, by_f, by_theta):
    """Its gradients, as told at the top of `activation.py`.

    Args:
        f: [N, S], and all up to `share` as of `quantise`.
        theta: see there.
        levels: see there.
        lowest: see there.
        chance: see there.
        share: see there.
        gradient: [N, S] dLoss/dy.
        by_f: [N, S], written.
        by_theta: [ceil(N / SUMMED), S] float32, written: to be summed along the first axis.
    """
    for part in prange(len(by_theta)):
        by_theta[part] = 0
        for n in range(part * SUMMED, min((part + 1) * SUMMED, len(f))):
            m = min(np.int64(n), len(chance) - 1)
            for j in range(np.uint64(len(theta))):
                x = _read(f[n, j]) / theta[j]
                q = _quantised(x, levels, chance[m, j] < share)
                inside = np.float32(1) if (q >= lowest) & (q <= np.float32(1)) else np.float32(0)
                g = _read(gradient[n, j])
                by_theta[part, j] += g * (_clipped(q, lowest) - x * inside)
                by_f[n, j] = _kept(g * inside, by_f[n, j])
