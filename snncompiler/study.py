"""All that the report tells about one or more compiled networks, gathered from few runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

import backends
from backends.base import size
from backends.reference import NumpyBackend
from snncompiler.ann import run
from snncompiler.data import Samples
from snncompiler.doctor import Diagnosis, Site, diagnose
from snncompiler.driver import import_network
from snncompiler.energy import Energy, estimate
from snncompiler.evaluation import Evaluation, evaluate
from snncompiler.figures import spread
from snncompiler.graph import Array, attribute, scale_of, weights
from snncompiler.operations import Census, Operations, count
from snncompiler.ops import NEURONS
from snncompiler.progress import Progress, silent
from snncompiler.record import record_of
from snncompiler.trace import Observe

_BYTES = 400 << 20  # spike trains and potentials of the samples looked at closely
_POINTS, _RASTER, _MEMBRANES, _LAYERS = 1500, 60, 3, 24


@dataclass
class Close:
    """A layer looked at closely, on a few samples.

    rates: net spikes per neuron and step. train: [T, neurons] of some neurons that fire, of one
    sample; potential: [T, neurons] of fewer, in thresholds, with their spikes in potential_train.
    truth, told: the trained network's activation and the rate in its units, for some neurons.
    limit: the most that a neuron can tell.
    """

    name: str
    rates: Array
    train: Array
    potential: Array
    potential_train: Array
    truth: Array
    told: Array
    limit: float


@dataclass
class Entry:
    """One compiled network: its accuracy over time, operations and energy."""

    label: str
    record: Mapping[str, object]
    evaluation: Evaluation
    operations: Operations
    energy: Energy

    def curve(self) -> dict[int, float]:
        """Accuracy, or without labels the agreement with the trained network, by T."""
        points = self.evaluation.accuracy_at or self.evaluation.agreement_at
        return {int(t): share for t, share in points.items()}

    def latency(self) -> int | None:
        """The first step kept from which on the accuracy stays within a point of the ANN's."""
        goal = self.evaluation.ann_accuracy if self.evaluation.accuracy_at else 1.0
        if goal is None:
            return None
        good = None
        for t, share in self.curve().items():
            good = (good or t) if share >= goal - 0.01 else None
        return good


@dataclass
class Study:
    """What the report tells. The first entry is the network it is about."""

    model: ir.Model
    entries: list[Entry]
    diagnosis: Diagnosis | None
    close: list[Close]
    thresholds: dict[str, Array]
    examined: int

    @property
    def sites(self) -> list[Site]:
        """The doctor's sites, if there was a trained network to compare with."""
        return [] if self.diagnosis is None else self.diagnosis.sites

    def as_json(self) -> dict[str, object]:
        """The numbers of the report as plain data."""
        return {
            "networks": [
                {
                    "label": e.label,
                    "run": e.evaluation.as_json(),
                    "operations": e.operations.as_json(),
                    "energy": e.energy.as_json(),
                }
                for e in self.entries
            ],
            "doctor": None if self.diagnosis is None else self.diagnosis.as_json(),
        }


def gather(
    networks: Mapping[str, ir.Model],
    data: Samples,
    *,
    reference: str | Path | None = None,
    timesteps: int | None = None,
    backend: str = "event",
    examined: int = 16,
    progress: Progress = silent,
) -> Study:
    """Run compiled networks and collect what the report needs.

    Args:
        networks: label -> compiled network; the report is about the first.
        data: samples; accuracy is measured on all of them.
        reference: the trained network; without it there is no decomposition.
        timesteps: T; by default each network's own.
        backend: what measures accuracy; close looks are the reference backend's.
        examined: samples for the doctor and the operations.
        progress: called with (what, done, total).

    Raises:
        InputError: samples, T, backend or reference do not fit.
    """
    few = Samples(data.x[:examined], None if data.y is None else data.y[:examined])
    entries: list[Entry] = []
    diagnosis = None
    first = next(iter(networks.values()))
    for label, model in networks.items():
        evaluation = evaluate(
            model,
            data,
            timesteps=timesteps,
            backend=backend,
            reference=reference,
            progress=progress,
        )
        steps = evaluation.timesteps
        if model is first and reference is not None:
            census = Census(NumpyBackend().build(model))
            diagnosis = diagnose(
                reference, model, few, timesteps=steps, watch=[census], progress=progress
            )
            operations = census.total(model)
        else:
            operations = count(model, few.x, steps)
        energy = estimate(operations, evaluation.ann_macs_per_sample)
        entries.append(Entry(label, record_of(model), evaluation, operations, energy))
    steps = entries[0].evaluation.timesteps
    truth = None if reference is None else import_network(reference).model
    return Study(
        first,
        entries,
        diagnosis,
        _look(first, truth, few.x, steps),
        {str(n.name): s for n in _neurons(first) if (s := _threshold(first, n)) is not None},
        len(few.x),
    )


def _neurons(model: ir.Model) -> list[ir.Node]:
    return [n for n in model.graph if n.op_type in NEURONS]


def _threshold(model: ir.Model, node: ir.Node) -> Array | None:
    """What one spike stands for, per channel."""
    if record_of(model).get("form") == "physical":
        return weights(node.inputs[1]).astype(np.float64).reshape(-1)
    return scale_of(node.outputs[0])


def _look(model: ir.Model, ann: ir.Model | None, x: Array, steps: int) -> list[Close]:
    nodes = [_neurons(model)[i] for i in spread(len(_neurons(model)), _LAYERS)]
    per_sample = 12 * steps * sum(size(n.outputs[0]) for n in _neurons(model))
    x = x[: max(1, min(4, _BYTES // max(1, per_sample)))]
    trace = backends.load("numpy").build(model).run(x, steps, Observe((steps,), True, True))
    names = [str(n.outputs[0].name) for n in nodes]
    truth = {} if ann is None else run(ann, x, names)
    result = []
    for node in nodes:
        train = trace.trains[str(node.name)].reshape(steps, len(x), -1)
        theta = np.broadcast_to(
            np.reshape(
                weights(node.inputs[1]), (-1, *[1] * (len(node.outputs[0].shape or ()) - 2))
            ),
            trace.membranes[str(node.name)].shape[2:],
        )
        membrane = trace.membranes[str(node.name)] / theta
        membrane = membrane.reshape(steps, len(x), -1)
        active = np.flatnonzero(np.abs(train[:, 0]).sum(0))
        shown = active[list(spread(len(active), _RASTER))]
        traced = active[list(spread(len(active), _MEMBRANES))]
        scale = _threshold(model, node)
        rates = train.mean(0)
        points = list(spread(rates.size, 40 * _POINTS))
        a = truth[str(node.outputs[0].name)].reshape(-1) if truth else np.zeros(0)
        told = np.zeros(0)
        limit = 0.0
        if truth and scale is not None:
            whole = trace.trains[str(node.name)].mean(0)
            told = (whole * scale.reshape(-1, *[1] * (whole.ndim - 2))).reshape(-1)
            limit = float(scale.max()) * float(attribute(node, "gamma", 1.0))
            # Neurons silent in both say nothing and would hide the others.
            points = [i for i in points if a[i] > 0 or told[i] != 0]
            points = [points[i] for i in spread(len(points), _POINTS)]
        result.append(
            Close(
                str(node.name),
                rates,
                train[:, 0, shown],
                membrane[:, 0, traced],
                train[:, 0, traced],
                a[points] if len(a) else a,
                told[points] if len(told) else told,
                limit,
            )
        )
    return result
