"""Run a compiled network on samples and put the numbers together."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir

import backends
from snncompiler.data import Samples
from snncompiler.diagnostics import refuse
from snncompiler.driver import import_network
from snncompiler.dump import write_whole
from snncompiler.graph import shape
from snncompiler.metrics import (
    accuracy_at,
    agreement_at,
    output_error_at,
    power_steps,
    synaptic_operations,
    top1,
)
from snncompiler.ops import NEURONS
from snncompiler.text import record_of
from snncompiler.trace import Observe, Trace, join


@dataclass
class Evaluation:
    """What one run measured; see `as_json` for the units."""

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
        for name in ("accuracy_at", "ann_accuracy", "agreement_at", "output_error_at", "warnings"):
            value = getattr(self, name)
            if value or value == 0:
                result[name] = value
        return result


def evaluate(
    model: ir.Model,
    data: Samples,
    *,
    timesteps: int | None = None,
    backend: str = "numpy",
    reference: str | Path | None = None,
    batch: int = 100,
    threads: int | None = None,
    layers: bool = False,
    trace_file: str | Path | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Evaluation:
    """Run a compiled network and compare it with labels and with the trained network.

    Raises:
        InputError: T, backend or reference do not fit.
    """
    started = time.perf_counter()
    record = record_of(model)
    steps = timesteps if timesteps is not None else int(str(record.get("timesteps", 32)))
    if steps < 1 or batch < 1:
        what = f"T = {steps}" if steps < 1 else f"batches of {batch}"
        raise refuse(f"cannot run with {what}", "at least one is needed", "choose a larger number")
    if threads is not None and threads < 1:
        raise refuse(f"cannot run on {threads} threads", "one is needed", "choose --threads 1")
    settings = {"threads": threads} if threads is not None and backend == "onnxruntime" else {}
    settings |= {"layers": True} if layers and backend == "lava" else {}
    program = backends.load(backend, **settings).build(model)
    observe = Observe(steps=power_steps(steps), spikes=trace_file is not None)
    traces, seconds = [], 0.0
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
    trace = join(traces)
    result = Evaluation(backend, steps, len(data.x), seconds, 0.0, trace)
    neurons = {str(n.name) for n in model.graph if n.op_type in (*NEURONS, "TwinSynapse")}
    result.firing_rate = trace.firing_rate()
    result.spikes_per_sample = (
        sum(float(c.sum()) for k, c in trace.counts.items() if k in neurons) / trace.samples
    )
    operations = synaptic_operations(model, trace.counts, steps, trace.samples)
    result.synaptic_operations = {**operations, "total": sum(operations.values())}
    result.ann_macs_per_sample = int(str(record.get("ann_macs", 0)))
    if data.y is not None:
        result.accuracy_at = accuracy_at(trace, data.y)
    if reference is not None:
        _compare(model, data, reference, record, result)
    if trace_file is not None:
        save_trace(trace, Path(trace_file))
    result.seconds_total = time.perf_counter() - started
    return result


def _compare(
    model: ir.Model,
    data: Samples,
    reference: str | Path,
    record: dict[str, object],
    result: Evaluation,
) -> None:
    network = import_network(reference)
    if network.input_shape != shape(model.graph.inputs[0]):
        raise refuse(
            f"'{reference}' does not take the samples that the spiking network takes",
            f"its input is {list(network.input_shape)} per sample",
            "give the trained network that was compiled",
        )
    names = [str(v.name) for v in model.graph.outputs]
    outputs = network.outputs(data.x)
    sizes = [(len(data.x), *shape(v)) for v in model.graph.outputs]
    if [a.shape for a in outputs] != sizes:
        raise refuse(
            f"the outputs of '{reference}' are not those of the spiking network",
            f"they have shapes {[list(a.shape[1:]) for a in outputs]}",
            "give the trained network that was compiled",
        )
    if record.get("source") not in (None, network.digest):
        result.warnings.append(f"the network was compiled from another file than '{reference}'")
    result.agreement_at = agreement_at(result.trace, outputs[0])
    result.output_error_at = output_error_at(result.trace, dict(zip(names, outputs, strict=True)))
    if data.y is not None:
        result.ann_accuracy = float((top1(outputs[0]) == data.y).mean())


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
