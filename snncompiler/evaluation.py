"""Run a compiled network on samples and put the numbers together."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx_ir as ir

import backends
from snncompiler.data import Samples
from snncompiler.diagnostics import refuse
from snncompiler.files import write_whole
from snncompiler.graph import Array, shape
from snncompiler.judging import Judge
from snncompiler.metrics import (
    accuracy_at,
    agreement_at,
    output_error_at,
    power_steps,
    synaptic_operations,
    top1,
)
from snncompiler.ops import NEURONS
from snncompiler.progress import Progress, silent
from snncompiler.record import choose_timesteps, record_of
from snncompiler.tasks import Classification, Metrics, Task
from snncompiler.trace import Observe, Trace, join, move_counts

if TYPE_CHECKING:
    from snncompiler.frontend import Network


@dataclass
class Evaluation:
    """What one run measured; see `as_json` for the units.

    exact: what the same network says without rounding its weights, on the first samples:
    `samples`, `agreement` (of the top-1), and `accuracy` and `accuracy_rounded` if there are
    labels. mean_timesteps: steps until the answer, if samples could end early. metrics_at,
    ann_metrics: what the task measures; for classification the accuracies say it. The trace of
    another task has no readout, which may be large, unless it was saved.
    """

    backend: str
    timesteps: int
    samples: int
    seconds: float
    seconds_total: float
    trace: Trace
    accuracy_at: dict[str, float] = field(default_factory=dict)
    ann_accuracy: float | None = None
    agreement_at: dict[str, float] = field(default_factory=dict)
    output_error_at: dict[str, float] = field(default_factory=dict)
    firing_rate: dict[str, float] = field(default_factory=dict)
    spikes_per_sample: float = 0.0
    synaptic_operations: dict[str, float] = field(default_factory=dict)
    ann_macs_per_sample: int = 0
    precision: str = "exact"
    exact: dict[str, float] = field(default_factory=dict)
    task: str = "classification"
    metrics_at: dict[str, Metrics] = field(default_factory=dict)
    ann_metrics: Metrics = field(default_factory=dict)
    mean_timesteps: float | None = None
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Rates: mean spikes per neuron and step; operations: per sample over the whole run."""
        result: dict[str, object] = {
            "backend": self.backend,
            "timesteps": self.timesteps,
            "samples": self.samples,
            "seconds": self.seconds,
            "seconds_total": self.seconds_total,
            "firing_rate": self.firing_rate,
            "spikes_per_sample": self.spikes_per_sample,
            "synaptic_operations": self.synaptic_operations,
            "ann_macs_per_sample": self.ann_macs_per_sample,
        }
        if self.task != "classification":
            result["task"] = self.task
        if self.precision != "exact":
            result |= {"precision": self.precision, "exact": self.exact}
        if self.mean_timesteps is not None:
            result["mean_timesteps"] = self.mean_timesteps
        for name in (
            "accuracy_at",
            "ann_accuracy",
            "agreement_at",
            "output_error_at",
            "metrics_at",
            "ann_metrics",
            "warnings",
        ):
            value = getattr(self, name)
            if value or value == 0:
                result[name] = value
        return result


def evaluate(
    model: ir.Model,
    data: Samples,
    *,
    timesteps: int | None = None,
    backend: str = backends.DEFAULT,
    reference: str | Path | None = None,
    batch: int = 256,
    threads: int | None = None,
    memory: int | None = None,
    precision: str = "exact",
    early_exit: float | None = None,
    layers: bool = False,
    task: Task | None = None,
    pictures: Path | None = None,
    trace_file: str | Path | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Run a compiled network and compare it with labels and with the trained network.

    threads, memory (bytes), precision and early_exit are for the backend, as far as it has them.
    task: what the network is for; by default to classify, with the labels of the data. pictures: a
    folder for drawings of the first samples.

    Raises:
        InputError: T, backend, its settings or reference do not fit.
    """
    started = time.perf_counter()
    record = record_of(model)
    steps = choose_timesteps(record, timesteps)
    if batch < 1:
        what = f"cannot run in batches of {batch}"
        raise refuse(what, "at least one sample is needed", "choose --batch 1 or more")
    settings = _settings(backend, threads, memory, precision, early_exit)
    settings |= {"layers": True} if layers and backend == "lava" else {}
    program = backends.load(backend, **settings).build(model)
    if backend == "event":  # kernels for types and sizes not met before are compiled now
        progress("preparing the kernels", 0, 1)
        program.run(data.x[:1], steps)
        progress("preparing the kernels", 1, 1)
    observe = Observe(steps=power_steps(steps), spikes=trace_file is not None)
    task = task or Classification(data.y)
    network = None if reference is None else _trained(model, reference)
    ann = None if network is None else partial(_speak, model, network, reference)
    streamed = task.name != "classification"
    if streamed and early_exit is not None:
        why = "a sample ends when its largest output is safe, which says nothing about the others"
        raise refuse(f"{task.name} cannot end early", why, "leave out --early-exit")
    judge = None
    if streamed or pictures is not None:
        judge = Judge(task, power_steps(steps), ann, pictures)
    if streamed:
        # All outputs at all kept steps, float64: half a gigabyte at a time will do.
        kept = len(power_steps(steps)) * sum(prod(shape(v)) for v in model.graph.outputs)
        batch = max(1, min(batch, (1 << 26) // kept))
    traces, counts, seconds = [], dict[str, Array](), 0.0
    for start in range(0, len(data.x), batch):
        block = data.x[start : start + batch]

        def report(done: int, total: int, start: int = start, size: int = len(block)) -> None:
            progress(
                "simulating",
                start * steps + done * size * steps // max(total, 1),
                len(data.x) * steps,
            )

        before = time.perf_counter()
        traces.append(program.run(block, steps, observe, report))
        seconds += time.perf_counter() - before
        move_counts(counts, traces[-1])
        if judge is not None:
            judge.see(block, traces[-1].readout)
        if streamed and trace_file is None:
            traces[-1].readout = {}
    trace = join(traces)
    trace.counts = counts
    result = Evaluation(backend, steps, len(data.x), seconds, 0.0, trace)
    neurons = {str(n.name) for n in model.graph if n.op_type in (*NEURONS, "TwinSynapse")}
    result.firing_rate = trace.firing_rate()
    result.spikes_per_sample = (
        sum(float(c.sum()) for k, c in trace.counts.items() if k in neurons) / trace.samples
    )
    result.precision = precision
    if early_exit is not None and trace.taken is not None:
        result.mean_timesteps = float(trace.taken.mean())
    if precision != "exact" and not streamed:
        result.exact = _without_rounding(model, data, steps, trace)
    operations = synaptic_operations(model, trace.counts, steps, trace.samples)
    result.synaptic_operations = {**operations, "total": sum(operations.values())}
    result.ann_macs_per_sample = int(str(record.get("ann_macs", 0)))
    result.task = task.name
    if streamed and judge is not None:
        result.metrics_at = {t: m for t, m in judge.metrics_at().items() if m}
        result.ann_metrics = judge.ann_metrics()
        result.output_error_at = judge.output_error_at()
    elif data.y is not None:
        result.accuracy_at = accuracy_at(trace, data.y)
    if network is not None and ann is not None:
        if record.get("source") not in (None, network.digest):
            result.warnings.append(f"the network was compiled from another file than '{reference}'")
        if not streamed:
            _compare(data, ann(data.x), result)
    if trace_file is not None:
        save_trace(trace, Path(trace_file))
    result.seconds_total = time.perf_counter() - started
    return result


def _settings(
    backend: str,
    threads: int | None,
    memory: int | None,
    precision: str,
    early_exit: float | None,
) -> dict[str, Any]:
    """What to tell the backend; raises InputError for what it cannot do."""
    if threads is not None and threads < 1:
        raise refuse(f"cannot run on {threads} threads", "one is needed", "choose --threads 1")
    if memory is not None and memory < 1:
        raise refuse("cannot run without memory", "values need room", "choose --memory 256")
    if precision not in ("exact", "int8"):
        do = "choose exact (the default) or int8"
        raise refuse(f"there is no precision '{precision}'", "two are known", do)
    if early_exit is not None and not early_exit > 0:
        do = "choose --early-exit 10, or more to be safer"
        raise refuse(f"cannot end at a margin of {early_exit}", "it has to be positive", do)
    asked: dict[str, Any] = {"memory": memory, "early_exit": early_exit}
    asked |= {"precision": precision if precision != "exact" else None}
    wanted = {name: value for name, value in asked.items() if value is not None}
    if wanted and backend != "event":
        options = ", ".join("--" + name.replace("_", "-") for name in wanted)
        why = "only the backend 'event' has them"
        raise refuse(f"backend '{backend}' does not know {options}", why, "use --backend event")
    if threads is not None and backend in ("event", "onnxruntime"):
        wanted["threads"] = threads
    return wanted


def _without_rounding(
    model: ir.Model, data: Samples, timesteps: int, rounded: Trace, limit: int = 200
) -> dict[str, float]:
    """What the rounding of weights costs, seen on the first samples."""
    program = backends.load("event").build(model)
    exact = top1(program.run(data.x[:limit], timesteps, Observe(steps=(timesteps,))).output)
    ours = top1(rounded.output)[:limit]
    result = {"samples": float(len(exact)), "agreement": float((exact == ours).mean())}
    if data.y is not None:
        y = data.y[:limit]
        result["accuracy"] = float((exact == y).mean())
        result["accuracy_rounded"] = float((ours == y).mean())
    return result


def _trained(model: ir.Model, reference: str | Path) -> Network:
    """The trained network; raises InputError if it takes other samples."""
    from snncompiler.driver import import_network  # slow to load, and not always needed

    network = import_network(reference)
    if network.input_shape != shape(model.graph.inputs[0]):
        raise refuse(
            f"'{reference}' does not take the samples that the spiking network takes",
            f"its input is {list(network.input_shape)} per sample",
            "give the trained network that was compiled",
        )
    return network


def _speak(
    model: ir.Model, network: Network, reference: str | Path | None, x: Array
) -> dict[str, Array]:
    """Outputs of the trained network by name; raises InputError if they are not the model's."""
    outputs = network.outputs(x)
    sizes = [(len(x), *shape(v)) for v in model.graph.outputs]
    if [a.shape for a in outputs] != sizes:
        raise refuse(
            f"the outputs of '{reference}' are not those of the spiking network",
            f"they have shapes {[list(a.shape[1:]) for a in outputs]}",
            "give the trained network that was compiled",
        )
    return {str(v.name): a for v, a in zip(model.graph.outputs, outputs, strict=True)}


def _compare(data: Samples, outputs: dict[str, Array], result: Evaluation) -> None:
    first = next(iter(outputs.values()))
    result.agreement_at = agreement_at(result.trace, first)
    result.output_error_at = output_error_at(result.trace, outputs)
    if data.y is not None:
        result.ann_accuracy = float((top1(first) == data.y).mean())


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as .npz: steps, readout/NAME, counts/LAYER, spikes/LAYER."""
    arrays: dict[str, np.ndarray] = {"steps": np.array(trace.steps)}  # type: ignore[type-arg]
    arrays |= {f"readout/{k}": v for k, v in trace.readout.items()}
    arrays |= {f"counts/{k}": v for k, v in trace.counts.items()}
    for name, train in trace.trains.items():
        small = np.abs(train).max(initial=0) < 128
        arrays[f"spikes/{name}"] = train.astype(np.int8) if small else train
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast(Any, arrays))
    write_whole(path, buffer.getvalue())
