"""Threshold rules as pure functions: arrays in, numbers out.

The p-norm threshold is the order statistic number min(floor(n p), n - 1), counted from 0 in
ascending order over all n values *including zeros*, of the whole calibration set
(Rueckauer et al. 2017; per channel: Kim et al. 2020).
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
