"""Bayesian optimisation of one number: few expensive evaluations, a Gaussian process between them.

The percentile of a threshold rule is searched like this (Li et al. 2022, section 3.5): minimise
the divergence between the outputs of the spiking and the trained network over

    u = -log10(1 - p)  in [1, 5],  p the percentile as a share,

from 5 equidistant points on, then wherever the expected improvement of log f is largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from snncompiler.diagnostics import refuse

#: Limits of u: percentiles from 90 to 99.999 %.
LIMITS = (1.0, 5.0)
#: Points before the first suggestion.
INITIAL = 5


def percentile(u: float) -> float:
    """The percentile, in percent, that u stands for.

    >>> percentile(3.0)
    99.9
    """
    return float(round(100 * (1 - 10**-u), 6))


def require_package() -> None:
    """Fail before the work if the optimiser is missing.

    Raises:
        InputError: the package bayesian-optimization is not installed.
    """
    _process(0)


def suggest(history: Sequence[tuple[float, float]], seed: int = 0) -> float:
    """The next u to try.

    Args:
        history: (u, f(u)) of all evaluations so far, f > 0.
        seed: of the optimiser of the acquisition function.

    Raises:
        InputError: the package bayesian-optimization is not installed.
    """
    low, high = LIMITS
    if len(history) < INITIAL:
        return float(np.linspace(low, high, INITIAL)[len(history)])
    process = _process(seed)
    for u, f in history:
        process.register(params={"u": u}, target=-float(np.log(f + 1e-9)))
    return float(np.clip(process.suggest()["u"], low, high))


def minimise(
    f: Callable[[float], float], iterations: int = 10, seed: int = 0
) -> list[tuple[float, float]]:
    """All (u, f(u)) of a search with `INITIAL + iterations` evaluations, in their order."""
    history: list[tuple[float, float]] = []
    for _ in range(INITIAL + iterations):
        u = suggest(history, seed)
        history.append((u, f(u)))
    return history


def _process(seed: int) -> Any:
    try:
        from bayes_opt import BayesianOptimization
        from bayes_opt.acquisition import ExpectedImprovement
    except ImportError:
        raise refuse(
            "Bayesian optimisation is not available",
            "it needs the package bayesian-optimization",
            "install it: pip install 'snncompiler[tune]'",
        ) from None
    return BayesianOptimization(
        f=None,
        pbounds={"u": LIMITS},
        acquisition_function=ExpectedImprovement(xi=0.01),
        random_state=seed,
        verbose=0,
        allow_duplicate_points=True,
    )
