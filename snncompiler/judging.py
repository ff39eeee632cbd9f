"""Judge outputs batch by batch: metrics at each step, of the trained network too, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from snncompiler.files import write_whole
from snncompiler.graph import Array
from snncompiler.pictures import photograph, side_by_side
from snncompiler.tasks import Metrics, Scorer, Task

#: How many samples are drawn, and at how many steps.
_DRAWN, _MOMENTS = 4, 4


@dataclass
class Judge:
    """Sees all samples in order.

    steps: time steps of the readouts. trained: outputs of the trained network by name, from
    samples; None without. folder: for pictures, if they are wanted.
    """

    task: Task
    steps: tuple[int, ...]
    trained: Callable[[Array], Mapping[str, Array]] | None = None
    folder: Path | None = None
    seen: int = 0
    scorers: dict[int, Scorer] = field(default_factory=dict)
    reference: Scorer | None = None
    squared: dict[int, float] = field(default_factory=dict)
    norm: float = 0.0

    def __post_init__(self) -> None:
        self.scorers = {t: self.task.scorer() for t in self.steps}
        self.reference = None if self.trained is None else self.task.scorer()
        self.squared = dict.fromkeys(self.steps, 0.0)

    def see(self, x: Array, readout: Mapping[str, Array]) -> None:
        """Judge the next samples; x: [N, ...], readout: [S, N, ...] by output."""
        truth = None if self.trained is None else self.trained(x)
        if truth is not None and self.reference is not None:
            self.reference.add(truth)
            self.norm += sum(_energy(a) for a in truth.values())
        for i, t in enumerate(self.steps):
            outputs = {name: values[i] for name, values in readout.items()}
            self.scorers[t].add(outputs)
            if truth is not None:
                self.squared[t] += sum(_energy(outputs[k] - a) for k, a in truth.items())
        if self.folder is not None:
            for i in range(min(len(x), _DRAWN - self.seen)):
                self._draw(self.folder, x, i, readout, truth)
        self.seen += len(x)

    def metrics_at(self) -> dict[str, Metrics]:
        """The metrics at each step."""
        return {str(t): scorer.metrics() for t, scorer in self.scorers.items()}

    def ann_metrics(self) -> Metrics:
        """Those of the trained network, empty without one."""
        return {} if self.reference is None else self.reference.metrics()

    def output_error_at(self) -> dict[str, float]:
        """||o - a|| / ||a|| over all outputs and samples, a the trained network's raw outputs."""
        if self.trained is None:
            return {}
        norm = self.norm**0.5 or 1.0
        return {str(t): squared**0.5 / norm for t, squared in self.squared.items()}

    def _draw(
        self,
        folder: Path,
        x: Array,
        i: int,
        readout: Mapping[str, Array],
        truth: Mapping[str, Array] | None,
    ) -> None:
        """One file: the sample, its labels, what the trained and the spiking network say of it."""
        panels = [("input", photograph(x[i]))]
        labelled = self.task.truth(x[i], self.seen + i)
        if labelled is not None:
            panels.append(("labels", labelled))
        if truth is not None:
            said = {name: a[i] for name, a in truth.items()}
            panels.append(("ANN", self.task.draw(x[i], said)))
        # From the last step backwards by factors of four: most of the change is early.
        for s in range(len(self.steps))[::-2][:_MOMENTS][::-1]:
            said = {name: values[s, i] for name, values in readout.items()}
            panels.append((f"SNN, T = {self.steps[s]}", self.task.draw(x[i], said)))
        name = f"{self.task.name}_{self.seen + i}.png"
        write_whole(folder / name, side_by_side(panels))


def _energy(a: Array) -> float:
    return float(np.square(a.astype(np.float64)).sum())
