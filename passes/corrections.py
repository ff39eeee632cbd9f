"""The mathematics of calibration, on arrays: what to change so that a layer errs less.

Every function takes what a layer receives and should send, and returns the change; none knows of
networks. Rows are samples (and positions), columns channels or weights.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from passes.descent import Adam
from snncompiler.graph import Array


def channel_mean(error: Array) -> Array:
    """Mean of [N, C, ...] over samples and space, [C]."""
    mean: Array = error.mean(axis=(0, *range(2, error.ndim)), dtype=np.float64)
    return mean


def moved_potential(
    v: Array, error: Array, timesteps: int, shared: Literal["channel", "neuron"]
) -> Array:
    """Initial potentials that send what was missing on average (Li, Deng et al. 2021; "advanced").

        V(0) <- V(0) + T mean(a - sent)

    Args:
        v: [C] or [C, ...] initial potentials.
        error: [N, C, ...] what should be sent per step minus what is.
        timesteps: T.
        shared: one correction per channel, or per neuron, in space, too.

    Returns:
        [C] or [C, ...].
    """
    if shared == "neuron":
        delta = error.mean(0, dtype=np.float64)
        v = v.reshape(v.shape + (1,) * (delta.ndim - v.ndim))
    else:
        delta = channel_mean(error).reshape(-1, *[1] * (v.ndim - 1))
    moved: Array = v + timesteps * delta
    return moved


def least_squares(x: Array, z: Array, w: Array, b: Array, ridge: float) -> tuple[Array, Array]:
    """Weights that give the wanted currents for the inputs that really come, in closed form.

        min over W, b of  mean |W x + b - z|^2 + ridge s |W - W0|^2,   s = mean |x_k|^2

    Args:
        x: [R, K] what the synapse really receives.
        z: [R, M] the currents wanted.
        w: [M, K] the present weights.
        b: [M] the present bias.
        ridge: how dear a change is.

    Returns:
        (W [M, K], b [M]).
    """
    x, z = x.astype(np.float64), z.astype(np.float64)
    middle, wanted = x.mean(0), z.mean(0)
    centred = x - middle
    gram = centred.T @ centred / len(x)
    missing = (z - wanted) - centred @ w.T
    penalty = ridge * float(np.trace(gram)) / len(gram) + 1e-12
    change = np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ missing / len(x))
    new = w + change.T
    return new, wanted - new @ middle


def straight_through_gradient(
    x: Array, a: Array, w: Array, b: Array, theta: Array, v: Array, timesteps: int, gamma: float
) -> tuple[float, Array]:
    """Loss of a layer in T steps, and its gradient by the weights (Li, Deng et al. 2021, WC).

        y = W x + b;  q = (T y + v) / theta;  f = theta clip(floor(q), 0, gamma T) / T
        L = mean over rows of |f - a|^2;   dL/dy = 2 (f - a) [0 <= q <= gamma T] / R

    The derivative of floor counts as 1 (straight-through estimator).

    Args:
        x: [R, K] mean inputs.
        a: [R, M] wanted activations.
        w: [M, K] weights.
        b: [M] bias.
        theta: [M] thresholds.
        v: [M] initial potentials.
        timesteps: T.
        gamma: most spikes per step.

    Returns:
        (L, dL/dW [M, K]).
    """
    q = ((x @ w.T + b) * timesteps + v) / theta
    f = np.clip(np.floor(q), 0, gamma * timesteps) * (theta / timesteps)
    open_ = (q >= 0) & (q <= gamma * timesteps)
    g = 2 * (f - a) * open_ / len(x)
    return float(((f - a) ** 2).sum(1).mean()), g.T @ x


def descend(
    x: Array,
    a: Array,
    w: Array,
    b: Array,
    theta: Array,
    v: Array,
    timesteps: int,
    gamma: float,
    *,
    iterations: int,
    rate: float,
    batch: int,
    rng: np.random.Generator,
) -> Array:
    """Weights after Adam on `straight_through_gradient`; the last quarter of the rows is held out.

    rate: step as a share of the weights' root mean square, falling to zero as a half cosine. The
    weights with the best loss on the held-out rows are returned, the given ones included.
    """
    cut = max(1, len(x) * 3 // 4)
    fixed = (theta, v, timesteps, gamma)
    best, least = w, straight_through_gradient(x[cut:], a[cut:], w, b, *fixed)[0]
    adam = Adam([w], [rate * float(np.sqrt((w**2).mean()))], iterations)
    for i in range(1, iterations + 1):
        rows = rng.integers(0, cut, min(batch, cut))
        _, g = straight_through_gradient(x[rows], a[rows], w, b, *fixed)
        adam.step([g])
        (w,) = adam.parameters
        if i % 20 == 0 or i == iterations:
            loss = straight_through_gradient(x[cut:], a[cut:], w, b, *fixed)[0]
            if loss < least:
                best, least = w, loss
    return best
