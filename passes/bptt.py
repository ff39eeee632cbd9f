"""Back-propagation through time for one layer of spiking neurons, by hand (Wang et al. 2023).

    u[t] = v[t-1] + I[t],   s[t] = clip(floor(u[t] / theta), -n, gamma),   v[t] = u[t] - theta s[t]
    r = (1 / T) sum of s[t],   n = min(gamma_neg, spikes sent so far)

Spikes jump where u passes a multiple k theta, 1 - n <= k <= gamma. The surrogate lets the rectangle
around each stand for the jump (eq. 20):

    h[t] = theta ds/du = (how many k with |u[t] - k theta| < alpha theta / 2) / alpha

and with L[t] = theta dLoss/du[t], g = dLoss/dr, T + 1 counting as 0 (eq. 21):

    L[t] = (g / T) h[t] + L[t+1] (1 - h[t]),     dLoss/dI[t] = L[t] / theta = dLoss/dv[t-1]

The neuron of a LeakyRelu fires by u[t] / theta = f(X[t]) / theta + 1/2 - C[t-1], X and C the
current and the spikes so far. With A[t] = theta dLoss/du[t] of this u alone:

    A[t] = (g / T - sum of A after t) h[t]
    dLoss/dI[t] = sum of A[t'] f'(X[t']) / theta over t' >= t

which for f(X) = X is the same. Arrays are [T, R, M]: steps, rows (samples and places), channels.
"""

from __future__ import annotations

import numpy as np

from snncompiler.graph import Array
from snncompiler.metrics import log_softmax


def surrogate(x: Array, low: Array | float, high: float, alpha: float) -> Array:
    """How many whole numbers k, low <= k <= high, have |x - k| < alpha / 2; over alpha.

    >>> surrogate(np.array([0.4, 0.6, 1.4, 1.6]), 1, 1, 1.0)
    array([0., 1., 1., 0.])
    """
    first = np.maximum(np.floor(x - alpha / 2) + 1, low)
    last = np.minimum(np.ceil(x + alpha / 2) - 1, high)
    result: Array = np.maximum(last - first + 1, 0) / alpha
    return result


def fire(
    current: Array, v: Array, theta: Array, gamma: float, gamma_neg: float, alpha: float
) -> tuple[Array, Array]:
    """An IF layer over all steps.

    Args:
        current: [T, R, M].
        v: [R, M] or [M] initial potentials.
        theta: [M] thresholds.
        gamma: most spikes per step.
        gamma_neg: most spikes taken back per step.
        alpha: width of the surrogate's rectangles, in thresholds.

    Returns:
        (sum of s [R, M], h [T, R, M]).
    """
    count = np.zeros(current.shape[1:], current.dtype)
    potential = np.broadcast_to(v / theta, count.shape).astype(current.dtype)
    h = np.empty_like(current)
    for t, i in enumerate(current):
        potential += i / theta
        back = np.minimum(count, gamma_neg) if gamma_neg else 0.0
        s = np.clip(np.floor(potential), -back, gamma)
        h[t] = surrogate(potential, 1 - back, gamma, alpha)
        potential -= s
        count += s
    return count, h


def fire_leaky(
    current: Array, slope: Array, theta: Array, gamma: float, alpha: float
) -> tuple[Array, Array, Array]:
    """A LeakyIF layer over all steps; slope: [M] or [1], below zero.

    Returns:
        (sum of s [R, M], h [T, R, M], f' [T, R, M]).
    """
    count = np.zeros(current.shape[1:], current.dtype)
    total = np.zeros_like(count)
    h, steep = np.empty_like(current), np.empty_like(current)
    for t, i in enumerate(current):
        total += i / theta
        steep[t] = np.where(total > 0, 1, slope)
        u = total * steep[t] + 0.5 - count
        h[t] = surrogate(u, 1 - gamma, gamma, alpha)
        count += np.clip(np.floor(u), -gamma, gamma)
    return count, h, steep


def backward(g: Array, h: Array, theta: Array, steep: Array | None = None) -> Array:
    """dLoss/dI of all steps, [T, R, M]; that of the first step is also dLoss/dv[0] of an IF.

    Args:
        g: [R, M] dLoss/dr.
        h: [T, R, M] from the forward pass.
        theta: [M] thresholds.
        steep: f' from the forward pass of a LeakyIF.
    """
    result, share = np.empty_like(h), g / len(h)
    fired, later = np.zeros_like(g), np.zeros_like(g)
    for t in range(len(h) - 1, -1, -1):
        a = (share - fired) * h[t]
        fired += a
        later = fired if steep is None else later + a * steep[t]
        result[t] = later / theta
    return result


def squared_error(rate: Array, target: Array) -> tuple[float, Array]:
    """Mean of (r - a)^2 over everything, and its gradient by r."""
    error = rate - target
    return float(np.square(error, dtype=np.float64).mean()), 2 / error.size * error


def divergence(rate: Array, target: Array) -> tuple[float, Array]:
    """KL(softmax(a) || softmax(r)) over the features, mean over the samples (eq. 19).

    Args:
        rate: [B, F] what the layer sends per step.
        target: [B, F] what it should send, in the same units.

    Returns:
        (loss, its gradient by r [B, F]).
    """
    log_r, log_a = log_softmax(rate), log_softmax(target)
    a = np.exp(log_a)
    loss = float((a * (log_a - log_r)).sum(1, dtype=np.float64).mean())
    return loss, (np.exp(log_r) - a) / len(rate)
