"""The doctor: which layer spoils a conversion, by how much, why, and what to do about it.

The trained network gives the truth at every site (`decomposition`); the compiled one is run step
by step by the reference backend, which sums what arrives at each site and what is sent. Two
questions are answered besides the decomposition:

    alone    error of the layer on the trained network's own activations (teacher-forced, constant
             current, so that nothing is uneven): clipping and quantisation by themselves
    effect   relative change of the trained network's outputs when only this layer's own error is
             added to its activations: what the layer costs in the end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from backends.reference import NumpyBackend
from snncompiler.advice import advise
from snncompiler.data import Samples
from snncompiler.decomposition import ErrorSum
from snncompiler.driver import import_network
from snncompiler.examination import Tally, Visit, Watcher
from snncompiler.graph import Array, shape, sources
from snncompiler.metrics import top1
from snncompiler.progress import Progress, silent
from snncompiler.record import choose_timesteps, record_of

#: A layer that changes the outputs by less than this share is no trouble.
HARMLESS = 0.01
_BATCH = 16


@dataclass
class Site:
    """What the doctor found in one layer; shares and errors are relative, see `decomposition`.

    parts sum to error. sizes: each part by itself. own: the error without what was inherited.
    alone, effect: see the module. rate: mean spikes per neuron and step. saturated: share of
    neurons whose mean current exceeds what they can tell. overfired, underfired: share that sent
    more, or fewer, than a perfect neuron. sin: share that fire though the trained network's
    activation is <= 0 (spikes of inactivated neurons).
    """

    name: str
    op: str
    sources: list[str]
    neurons: int
    error: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    own: float = 0.0
    cause: str = ""
    alone: float | None = None
    effect: float = 0.0
    rate: float | None = None
    saturated: float | None = None
    overfired: float | None = None
    underfired: float | None = None
    sin: float | None = None


@dataclass
class Diagnosis:
    """All sites in order, and the verdict: the first bad layer, its cause, what to do.

    also: the later layers whose effect is no smaller than half of the largest one.
    """

    timesteps: int
    samples: int
    sites: list[Site]
    output_error: float
    accuracy: float | None = None
    ann_accuracy: float | None = None
    first: str | None = None
    cause: str | None = None
    also: list[str] = field(default_factory=list)
    advice: str = ""
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """The JSON twin of the table."""
        return asdict(self)


def diagnose(
    source: str | Path | onnx.ModelProto,
    model: ir.Model,
    data: Samples,
    *,
    timesteps: int | None = None,
    watch: Sequence[Watcher] = (),
    progress: Progress = silent,
) -> Diagnosis:
    """Compare a compiled network with the trained one, layer by layer.

    Args:
        source: the trained network that was compiled.
        model: the compiled network.
        data: samples x, float32 [N, ...]; labels are optional.
        timesteps: T; by default the T it was compiled for.
        watch: called after every step of the compiled network (see `NumpyProgram.steps`).
        progress: called with (what, done, total).

    Raises:
        InputError: the two networks do not belong together, or T is below 1.
    """
    record = record_of(model)
    steps = choose_timesteps(record, timesteps)
    trained = import_network(source)
    program = NumpyBackend().build(model)
    visit = Visit(program, trained.model, steps, watch)
    outputs: list[Array] = []
    expected: list[Array] = []
    for start in range(0, len(data.x), _BATCH):
        said, meant = visit.see(data.x[start : start + _BATCH])
        outputs.append(said)
        expected.append(meant)
        progress("examining", min(start + _BATCH, len(data.x)), len(data.x))
    result = _diagnosis(visit, len(data.x))
    if data.y is not None:
        result.accuracy = float((top1(np.concatenate(outputs)) == data.y).mean())
        result.ann_accuracy = float((top1(np.concatenate(expected)) == data.y).mean())
    if record.get("source") not in (None, trained.digest):
        result.warnings.append("the network was compiled from another file than the one given")
    _conclude(result, record)
    return result


def _conclude(result: Diagnosis, record: dict[str, Any]) -> None:
    """Name the first site whose effect is at least half of the largest one."""
    worst = max((s.effect for s in result.sites), default=0.0)
    if worst < HARMLESS:
        result.advice = f"nothing to mend: no layer changes the outputs by {HARMLESS:.0%}"
        return
    first, *others = [s for s in result.sites if s.effect >= worst / 2]
    result.first, result.cause, result.also = first.name, first.cause, [s.name for s in others]
    result.advice = advise(first.cause, result.timesteps, record)


def _diagnosis(visit: Visit, samples: int) -> Diagnosis:
    norm = float(np.sqrt(visit.norm)) or 1.0
    sites = [_site(t, float(np.sqrt(t.effect)) / norm, visit.awake(t.node)) for t in visit.tallies]
    squared = 0.0
    for name, (output, errors) in visit.readouts.items():
        producer = output.current.producer()
        site = Site(name, "Readout", sources(producer) if producer else [], 0)
        _fill(site, errors)
        site.effect = errors.sizes["synapses"]
        squared += float(errors.gram.sum())
        sites.append(site)
    return Diagnosis(visit.steps, samples, sites, float(np.sqrt(max(squared, 0.0))) / norm)


def _site(tally: Tally, effect: float, steps: int) -> Site:
    value = tally.node.outputs[0]
    site = Site(
        str(tally.node.name), tally.node.op_type, sources(tally.node), int(np.prod(shape(value)))
    )
    _fill(site, tally.errors)
    site.effect = effect
    if tally.population is not None:
        n, norm = tally.neurons, float(np.sqrt(tally.errors.truth)) or 1.0
        site.alone = float(np.sqrt(tally.alone)) / norm
        site.rate = tally.spikes / (n * steps)
        site.saturated, site.sin = tally.saturated / n, tally.sin / n
        site.overfired, site.underfired = tally.over / n, tally.under / n
    return site


def _fill(site: Site, errors: ErrorSum) -> None:
    site.error, site.own, site.cause = errors.error, errors.own, errors.cause
    site.parts, site.sizes = errors.parts, errors.sizes
