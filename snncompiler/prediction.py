"""What a compiled network will output, without simulating it: the QC and ReLU1 predictors.

One pass over values summed over time (`backends/sweep.py`) gives the output after t steps of a
network of perfect neurons: those whose activations are the trained network's, quantised to t
levels and clipped at gamma thresholds. Signed neurons come as close as the cap on the spikes of a
single step lets them, neurons that take turns reach it exactly, plain ones stay below. As t grows,
only the clipping is left: the ReLU1 bound of Mueller et al. 2021.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from backends.base import take_apart
from backends.sweep import Sweep
from snncompiler.graph import Array
from snncompiler.metrics import power_steps, top1

#: So many steps that only clipping is left.
_ENDLESS = 1 << 20
#: Multiply-accumulates that all predictions of one compilation may cost.
_BUDGET = 2e10
#: Samples below which a prediction says nothing.
_FEWEST = 4


@dataclass(frozen=True)
class Prediction:
    """Of one T ('inf': the ReLU1 bound), on calibration samples.

    accuracy: of the labels, if known. agreement: share of samples with the trained network's
    top-1, if its first output is a vector of several numbers. output_error: squared error as a
    share of the variance of the trained network's first output. capped: share of neurons at the
    cap of gamma spikes per step.
    """

    accuracy: float | None
    agreement: float | None
    output_error: float
    capped: float

    def as_json(self) -> dict[str, Any]:
        """Only what is known."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def samples_for(model: ir.Model, timesteps: int, macs: int) -> int:
    """How many samples the predictions of a network of so many multiply-accumulates can afford.

    0 if the network is too large for as many as would say something.
    """
    most = int(_BUDGET / max(macs, 1) / (len(_steps(model, timesteps)) + 1))
    return most if most >= _FEWEST else 0


def predict(
    model: ir.Model, x: Array, truth: Array, timesteps: int, labels: Array | None
) -> dict[str, Prediction]:
    """Predictions at T = 1, 2, 4, ... and in the limit ('inf').

    Args:
        model: a compiled network.
        x: [N, ...] samples.
        truth: [N, ...] the trained network's first output on them.
        timesteps: the longest T.
        labels: [N] classes, if known.
    """
    return {
        "inf" if t == _ENDLESS else str(t): _one(model, x, truth, t, labels)
        for t in [*_steps(model, timesteps), _ENDLESS]
    }


def _steps(model: ir.Model, timesteps: int) -> list[int]:
    window = take_apart(model).window
    return [window] if window else list(power_steps(timesteps))


def _one(model: ir.Model, x: Array, truth: Array, t: int, labels: Array | None) -> Prediction:
    parts, capped, neurons = [], 0, 0
    for start in range(0, len(x), 64):
        sweep = Sweep(model, x[start : start + 64], t, predicted=True, dtype=np.float32)
        parts.append(next(iter(sweep.run().values())))
        capped, neurons = capped + sweep.capped, neurons + sweep.fired
    output = np.concatenate(parts)
    several = truth.ndim == 2 and truth.shape[1] > 1
    return Prediction(
        None if labels is None else float((top1(output) == labels).mean()),
        float((top1(output) == top1(truth)).mean()) if several else None,
        float(
            np.square(output - truth, dtype=np.float64).mean()
            / max(float(truth.var(dtype=np.float64)), 1e-30)
        ),
        capped / max(neurons, 1),
    )
