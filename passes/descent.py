"""Adam (Kingma and Ba 2015) with a half-cosine schedule, on a list of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snncompiler.graph import Array


class Adam:
    """Moves parameters down their gradients.

    rates: the first step of each parameter's elements, in its units. steps: after how many the
    rates have fallen to zero.
    """

    def __init__(self, parameters: Sequence[Array], rates: Sequence[float | Array], steps: int):
        self.parameters = [p.copy() for p in parameters]
        self._rates, self._steps, self._taken = rates, steps, 0
        self._first = [np.zeros_like(p) for p in parameters]
        self._second = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """One step; the parameters become new arrays, so that old ones may be kept."""
        self._taken += 1
        i = self._taken
        share = 0.5 * (1 + np.cos(np.pi * min(i / self._steps, 1.0)))
        for k, g in enumerate(gradients):
            self._first[k] = 0.9 * self._first[k] + 0.1 * g
            self._second[k] = 0.999 * self._second[k] + 0.001 * g**2
            mean, square = self._first[k] / (1 - 0.9**i), self._second[k] / (1 - 0.999**i)
            change = share * self._rates[k] * mean / (np.sqrt(square) + 1e-12)
            self.parameters[k] = self.parameters[k] - change
