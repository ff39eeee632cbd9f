"""Threshold rules as pure functions: arrays in, numbers out.

The p-norm threshold is the order statistic number min(floor(n p), n - 1), counted from 0 in
ascending order over all n values *including zeros*, of the whole calibration set
(Rueckauer et al. 2017; per channel: Kim et al. 2020).

Rules that weigh all values work on histograms, which are streaming, small, and the same for any
order and batch size of the calibration data.
"""

from __future__ import annotations

import numpy as np

from snncompiler.graph import Array


class LargestValues:
    """The largest values of a stream, exactly, per row: enough for one order statistic.

    n: how many values each row will see in all. p: the percentile as a share in [0, 1].

    >>> tail = LargestValues(rows=1, n=5, p=0.5)
    >>> tail.add(np.array([[3.0, 1.0, 0.0]]))
    >>> tail.add(np.array([[2.0, 5.0]]))
    >>> tail.order_statistic()
    array([2.])
    """

    def __init__(self, rows: int, n: int, p: float) -> None:
        rank = min(int(np.floor(n * p + 1e-9 * n)), n - 1)
        self._keep = n - rank
        self._values = np.full((rows, 0), 0.0, np.float32)

    def add(self, values: Array) -> None:
        """Take in [rows, any number] more values."""
        joined = np.concatenate([self._values, values], 1)
        surplus = joined.shape[1] - self._keep
        if surplus > 0:
            joined = np.partition(joined, surplus, axis=1)[:, surplus:]
        self._values = joined

    def order_statistic(self) -> Array:
        """The smallest of the kept values, [rows]: the percentile, once all n have been seen."""
        result: Array = self._values.min(1)
        return result


class Histogram:
    """How often each row's positive values fall into `BINS` equal bins between 0 and its top.

    top: [rows], the largest value of each row. Zeros and negative values are only counted: an
    activation of zero is sent without error, whatever the threshold.
    """

    BINS = 4096

    def __init__(self, top: Array) -> None:
        self.top = np.maximum(top.astype(np.float64), np.finfo(np.float32).tiny)
        self.counts = np.zeros((len(top), self.BINS))
        self.total = 0

    def add(self, values: Array) -> None:
        """Take in [rows, any number] more values, none above its row's top."""
        positive = values > 0
        many = np.count_nonzero(positive, axis=1)
        bins = (values[positive] * np.repeat(self.BINS / self.top, many)).astype(np.int64)
        flat = np.minimum(bins, self.BINS - 1, out=bins)
        flat += np.repeat(np.arange(len(values)) * self.BINS, many)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        self.total += values.shape[1]

    @property
    def centres(self) -> Array:
        """The middle of each bin as a share of the row's top, [BINS]."""
        return (np.arange(self.BINS) + 0.5) / self.BINS

    def merged(self) -> Histogram:
        """All rows as one (its bins are as wide as those of the largest row)."""
        result = Histogram(self.top.max(keepdims=True))
        values = self.top[:, None] * self.centres
        bins = np.minimum(values * (self.BINS / result.top[0]), self.BINS - 1).astype(np.int64)
        result.counts[0] = np.bincount(
            bins.reshape(-1), weights=self.counts.reshape(-1), minlength=self.BINS
        )
        result.total = self.total * len(self.top)
        return result


def quantised(x: Array, theta: Array | float, timesteps: int, gamma: float, offset: float) -> Array:
    """What a neuron without residual error makes of an activation x in T steps.

        (theta / T) clip(floor(T x / theta + offset), 0, gamma T)

    offset: initial potential in units of theta; 1/2 rounds instead of flooring.
    """
    counts = np.clip(np.floor(x * (timesteps / theta) + offset), 0, gamma * timesteps)
    result: Array = counts * (theta / timesteps)
    return result


def least_squares_thresholds(
    seen: Histogram, timesteps: int, gamma: float = 1, offset: float = 0.5, grid: int = 100
) -> Array:
    """MMSE (Li, Deng et al. 2021, section 4.2, with the neuron's own rounding and burst size).

        theta = argmin mean[(x - quantised(x; theta))^2]   over a grid on (0, top]

    The largest minimiser on the grid. It depends on T: one set of thresholds per T.

    Returns:
        [rows], in the units of the values.
    """
    x = seen.centres
    best, error = np.ones(len(seen.top)), np.full(len(seen.top), np.inf)
    for share in np.geomspace(1, 0.05 / gamma, grid):
        squares = (x - quantised(x, share, timesteps, gamma, offset)) ** 2
        found = seen.counts @ squares
        better = found < error
        best[better], error[better] = share, found[better]
    result: Array = best * seen.top
    return result


def balanced_thresholds(seen: Histogram, rounds: int) -> Array:
    """Local threshold balancing (Bu, Li and Yu, CVPR 2025): inference only, no labels.

        theta <- theta + 2 mean[max(x - theta, 0)],  from 0

    The paper's step on the clipping error, here with the mean over all calibration data instead
    of one batch, so that the order of the data does not matter; zeros count.

    Returns:
        [rows], in the units of the values.
    """
    x, share = seen.centres, seen.counts / max(seen.total, 1)
    tail = share[:, ::-1].cumsum(1)[:, ::-1]  # how many are as large
    mass = (share * x)[:, ::-1].cumsum(1)[:, ::-1]  # and their sum
    theta, rows = np.zeros(len(seen.top)), np.arange(len(seen.top))
    for _ in range(rounds):
        first = np.searchsorted(x, theta)
        inside = first < seen.BINS
        at = np.minimum(first, seen.BINS - 1)
        overflow = np.where(inside, mass[rows, at] - theta * tail[rows, at], 0.0)
        theta = theta + 2 * overflow
    result: Array = theta * seen.top
    return result


def with_floor(per_channel: Array, layer: float, share: float) -> Array:
    """Keep thresholds of nearly dead channels above a share of the layer's own.

    A dead channel has no largest activation; dividing its weights by a tiny number would let
    them explode. A layer that is dead altogether gets 1.

    >>> with_floor(np.array([0.0, 2.0]), 2.0, 0.01)
    array([0.02, 2.  ])
    """
    if layer <= 0:
        return np.ones_like(per_channel)
    return np.maximum(per_channel, share * layer)
