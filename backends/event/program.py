"""The event-driven simulator: layer by layer over all steps, at the cost of the events.

    static part once; then, for a stretch of steps at a time, stage after stage of the plan; the
    outputs need no steps at all: what flows into them is linear, so it is computed for the sums

Samples are cut into parts that fit the memory, and each thread takes parts of its own; a single
sample is cut into blocks of neurons instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from threading import Event

import numpy as np
import onnx_ir as ir

from backends.base import READOUT, Network, Progress, Recorder, size, take_apart, unsupported
from backends.definitions import Values, evaluate, is_known, parameters
from backends.event import plan as plans
from backends.event.dense import Definition, Summed
from backends.event.populations import Neurons
from backends.event.stages import Order, Pool, Stage, Twin
from backends.event.stretch import Stretch
from backends.event.tail import Tail
from backends.reference import NumpyProgram
from snncompiler.graph import Array, constant, shape
from snncompiler.trace import Observe, Trace, join

#: Samples that one thread takes at once: enough to reuse weights, few enough to stay in the caches.
_PART = 8


class EventBackend:
    """Builds programs. threads: of this machine by default. memory: bytes for values over time."""

    name = "event"

    def __init__(self, threads: int | None = None, memory: int = 1 << 30) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.memory = memory

    def build(self, model: ir.Model) -> EventProgram:
        """Take the network apart; refuse, by name, what has no rule here."""
        network = take_apart(model)
        for node in (*network.static, *network.steps):
            if not is_known(node):
                raise unsupported(node, self.name)
        return EventProgram(network, self.threads, self.memory)


class EventProgram:
    """A network as stages, its weights laid out for the kernels."""

    def __init__(self, network: Network, threads: int, memory: int) -> None:
        self.network, self.threads, self.memory = network, threads, memory
        self.dtype = np.dtype(np.float32 if network.gridded else np.float64)
        self.plan = plans.make_plan(network)
        self.parameters = {n: parameters(n) for n in self.plan.static}
        self.constants = self._constants(self.dtype)
        self.stages = _stages(self.plan, self.constants)
        self.tail = Tail(self.plan, self._constants(np.dtype(np.float64)))
        self.reference = NumpyProgram(network, self.dtype)

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = READOUT,
        progress: Progress | None = None,
    ) -> Trace:
        """Show the samples x, float32 [N, ...], for `timesteps` steps, from the initial state."""
        self.network.check(x, timesteps)
        if observe.membranes:  # nothing to gain from events: every potential is written down
            return self.reference.run(x, timesteps, observe, progress)
        parts = self._parts(len(x), timesteps)
        traces: dict[int, Trace] = {}
        done = 0
        with ThreadPoolExecutor(self.threads) as pool:
            stop = Event()
            if len(parts) == 1 or self.threads == 1:
                inner = pool if self.threads > 1 else None
                for i, part in enumerate(parts):
                    traces[i] = self._run(x[part], timesteps, observe, inner, stop)
                    done += part.stop - part.start
                    if progress is not None:
                        progress(done * timesteps, len(x) * timesteps)
            else:
                futures = {
                    pool.submit(self._run, x[part], timesteps, observe, None, stop): i
                    for i, part in enumerate(parts)
                }
                try:
                    for future in as_completed(futures):
                        i = futures[future]
                        traces[i] = future.result()
                        done += parts[i].stop - parts[i].start
                        if progress is not None:
                            progress(done * timesteps, len(x) * timesteps)
                finally:
                    stop.set()
                    for future in futures:
                        future.cancel()
        return join([traces[i] for i in range(len(parts))])

    def _parts(self, samples: int, timesteps: int) -> list[slice]:
        """Cut the samples so that every thread has work and its values fit the memory."""
        fitting = self.memory // (self.threads * self._bytes() * timesteps)
        most = max(1, min(_PART, fitting, -(-samples // self.threads)))
        count = -(-samples // most)
        cuts = np.linspace(0, samples, count + 1).astype(int)
        return [slice(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    def _bytes(self) -> int:
        """What the values of one sample take per step, all layers together."""
        total = 1
        for stage in self.plan.stages:
            dense = isinstance(stage, plans.Dense)
            total += size(stage.node.outputs[0]) * (16 if dense else 3)
        return total

    def _stretches(self, samples: int, timesteps: int) -> Iterator[tuple[int, int]]:
        """(steps before, steps) of stretches that fit the memory."""
        fitting = self.memory // (self.threads * self._bytes() * samples)
        step = int(min(timesteps, max(1, fitting)))
        return ((t, min(step, timesteps - t)) for t in range(0, timesteps, step))

    def _run(
        self, x: Array, timesteps: int, observe: Observe, pool: Executor | None, stop: Event
    ) -> Trace:
        values: Values = {**self.constants, self.network.image: x.astype(self.dtype)}
        for node in self.plan.static:
            encoded = node.op_type == "Encode"
            values[node.outputs[0]] = (
                values[node.inputs[0]] if encoded else evaluate(node, values, self.parameters[node])
            )
        static = {v: a for v, a in values.items() if v is not None}
        recorder = Recorder(timesteps, len(x), observe, self.dtype)
        sums = self.tail.listen(recorder.kept, len(x))
        states: dict[ir.Node, object] = {}
        for before, steps in self._stretches(len(x), timesteps):
            now = Stretch(
                len(x), before, steps, timesteps, self.dtype, static, states,
                self.plan.units, pool, self.threads,
            )
            for stage in self.stages:
                if stop.is_set():
                    raise KeyboardInterrupt
                stage.run(now)
            sums.hear(now)
            self._record(recorder, now)
        for name, readout in sums.readouts(self.dtype).items():
            recorder.readout[name] = readout
        return recorder.trace()

    def _record(self, recorder: Recorder, now: Stretch) -> None:
        for layer in self.network.layers:
            value = layer.node.outputs[0]
            if value in now.spikes:
                spikes = now.spikes[value]
                counts = spikes.totals(now.each).T.reshape(shape(value))
                trains = spikes.x.transpose(1, 0, 3, 2) if recorder.observe.spikes else None
            else:
                sent = now.dense[value].reshape(now.samples, now.steps, *shape(value))
                trains = np.rint(sent / layer.unit).swapaxes(0, 1)
                counts = np.abs(trains).sum((0, 1)).astype(np.int64)
            recorder.counts[layer.name] = recorder.counts.get(layer.name, 0) + counts
            if recorder.observe.spikes and trains is not None:
                whole = (recorder.timesteps, now.samples, *shape(value))
                kept = recorder.trains.setdefault(layer.name, np.empty(whole, np.int32))
                kept[now.before : now.before + now.steps] = trains.reshape(-1, *whole[1:])

    def _constants(self, dtype: np.dtype[np.generic]) -> Values:
        nodes = (*self.network.static, *self.network.steps)
        found = {v: constant(v) for node in nodes for v in node.inputs}
        return {v: a.astype(dtype) for v, a in found.items() if a is not None}


def _stages(plan: plans.Plan, constants: Values) -> list[Stage]:
    most: dict[ir.Value, float] = {}  # the largest |count| of every spiking value
    result: list[Stage] = []
    for stage in plan.stages:
        value = stage.node.outputs[0]
        match stage:
            case plans.Population():
                result.append(Neurons(stage, most))
                most[value] = result[-1].neuron.most
            case plans.Moved():
                most[value] = max(most[root] for root in stage.roots)
                result.append(Order(stage, most[value]))
            case plans.Unit() if stage.node.op_type == "MLIPool":
                most[value] = most[stage.source]
                result.append(Pool(stage, most[value]))
            case plans.Unit():
                carried = plan.units[stage.source]
                twin = Twin(stage, carried, most[stage.source])
                most[value] = twin.most
                result.append(twin)
            case plans.Dense(current=None):
                result.append(Definition(stage, constants))
            case plans.Dense():
                result.append(Summed(stage.node, stage.current, most))
    return result
