"""What a run of a spiking network leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Observe:
    """What a backend shall keep of a run.

    steps: time steps (1-based) at which the readout is kept; None: every step.
    spikes, membranes: keep whole spike trains and membrane potentials of every layer.
    """

    steps: tuple[int, ...] | None = None
    spikes: bool = False
    membranes: bool = False

    def kept_steps(self, timesteps: int) -> tuple[int, ...]:
        """The steps at which the readout is kept in a run of `timesteps` steps, ascending."""
        steps = range(1, timesteps + 1) if self.steps is None else self.steps
        return tuple(sorted({t for t in steps if 1 <= t <= timesteps}))


@dataclass
class Trace:
    """The result of one run. Layers are named by their node, which bears the original name.

    readout: per output, [S, N, ...]: what the Readout op would return had the run ended at each
        of the S kept `steps`.
    counts: per spiking layer, [C, ...] int64: spikes (|count|) of each neuron, summed over
        steps and samples.
    trains: per layer, [T, N, C, ...] int32 counts; membranes: [T, N, C, ...] float64, the
        potential after reset. Both empty unless observed.
    taken: [N] steps after which each sample had its answer; None: all took all of them.
    """

    timesteps: int
    samples: int
    steps: tuple[int, ...]
    readout: dict[str, Array]
    counts: dict[str, NDArray[np.int64]]
    trains: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    taken: NDArray[np.int64] | None = None

    @property
    def output(self) -> Array:
        """The first output at the last kept step, [N, ...]."""
        last: Array = next(iter(self.readout.values()))[-1]
        return last

    def firing_rate(self) -> dict[str, float]:
        """Mean |count| per neuron and step taken, by layer."""
        runs = int(_taken(self).sum())
        return {name: float(c.sum()) / (runs * c.size) for name, c in self.counts.items()}


def move_counts(total: dict[str, NDArray[np.int64]], trace: Trace) -> None:
    """Add the counts of a trace to a total and drop them: of many traces, one copy is kept."""
    for name, counts in trace.counts.items():
        total[name] = total[name] + counts if name in total else counts
    trace.counts = {}


def join(traces: Sequence[Trace]) -> Trace:
    """One trace of several batches, in their order."""
    first = traces[0]
    return Trace(
        timesteps=first.timesteps,
        samples=sum(t.samples for t in traces),
        steps=first.steps,
        readout={k: np.concatenate([t.readout[k] for t in traces], 1) for k in first.readout},
        counts={k: sum((t.counts[k] for t in traces[1:]), first.counts[k]) for k in first.counts},
        trains={k: np.concatenate([t.trains[k] for t in traces], 1) for k in first.trains},
        membranes={k: np.concatenate([t.membranes[k] for t in traces], 1) for k in first.membranes},
        taken=None if first.taken is None else np.concatenate([_taken(t) for t in traces]),
    )


def _taken(trace: Trace) -> NDArray[np.int64]:
    return np.full(trace.samples, trace.timesteps) if trace.taken is None else trace.taken
