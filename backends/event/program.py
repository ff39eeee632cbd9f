"""The event-driven simulator: layer by layer over all steps, at the cost of the events.

    static part once; then, for a stretch of steps at a time, stage after stage of the plan; the
    outputs need no steps at all: what flows into them is linear, so it is computed for the sums

Samples are cut into parts that fit the memory, and each thread takes parts of its own; a single
sample is cut into blocks of neurons instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Event
from typing import Any
from weakref import finalize

import numpy as np
import onnx_ir as ir

from backends.base import READOUT, Network, Progress, size, take_apart, unsupported
from backends.definitions import Values, is_known, parameters_of
from backends.event import plan as plans
from backends.event.crew import Crew, cut
from backends.event.dense import Definition, Summed
from backends.event.episode import Episode
from backends.event.int8 import to_int8
from backends.event.memory import release
from backends.event.populations import Neurons
from backends.event.stages import Order, Pool, Stage, Twin
from backends.event.tail import Tail
from backends.event.windowed import Turns, Wait
from backends.reference import NumpyProgram
from backends.workers import available_cores, one_blas_thread
from snncompiler.graph import Array, constant, shape
from snncompiler.trace import Observe, Trace, join, move_counts

#: Steps between two looks at the outputs, where samples may end early.
_CHECK = 4
#: Bytes that the values of samples taken at once may use: enough of them to reuse weights, few
#: enough to stay in the caches; and how many samples at least and at most.
_PART, _FEWEST, _MOST = 48 << 20, 16, 64


class EventBackend:
    """Builds programs.

    threads: all cores by default. memory: bytes for values over time. precision: 'exact', or
    'int8' for 8-bit weights (`int8.to_int8`). early_exit: see `EventProgram`.
    """

    name = "event"

    def __init__(
        self,
        threads: int | None = None,
        memory: int = 1 << 30,
        precision: str = "exact",
        early_exit: float | None = None,
    ) -> None:
        self.threads = threads or available_cores()
        self.memory, self.precision, self.early_exit = memory, precision, early_exit

    def build(self, model: ir.Model) -> EventProgram:
        """Take the network apart; refuse, by name, what has no rule here."""
        network = take_apart(to_int8(model) if self.precision == "int8" else model)
        for node in (*network.static, *network.steps):
            if not is_known(node):
                raise unsupported(node, self.name)
        return EventProgram(network, self.threads, self.memory, self.early_exit)


class EventProgram:
    """A network as stages, its weights laid out for the kernels.

    early_exit: a sample has its answer once the two largest outputs are further apart than so
    many standard deviations of all its outputs, over the steps read: the error of a readout falls
    as 1 / T. It is looked at every few steps; None: all samples run to the end.
    """

    def __init__(
        self, network: Network, threads: int, memory: int, early_exit: float | None = None
    ) -> None:
        self.network, self.threads, self.memory = network, threads, memory
        finalize(self, release)  # memory is used again as long as there are runs to come
        self._crews: deque[Crew] = deque()  # and threads
        finalize(self, _dismiss, self._crews)
        self.early_exit = early_exit
        self.dtype = np.dtype(np.float32 if network.gridded else np.float64)
        self.plan = plans.make_plan(network)
        self.parameters = {n: parameters_of(n) for n in self.plan.static}
        self.constants = constants(self.plan.static, self.dtype)
        self.stages = _stages(self.plan, self.dtype)
        self._each_step, self._held = self._bytes()
        #: Values that are looked at over time; layers, what they send, and its shape.
        self.timed = {*self.plan.heard, *(v for node in network.steps for v in node.inputs)}
        sent = [(layer, layer.node.outputs[0]) for layer in network.layers]
        self.layers = [(layer, value, shape(value)) for layer, value in sent]
        self.tail = Tail(self.plan, constants(self.plan.tail, np.dtype(np.float64)))

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
            return NumpyProgram(self.network, self.dtype).run(x, timesteps, observe, progress)
        parts = self._parts(len(x), timesteps)
        traces: dict[int, Trace] = {}
        counts: dict[str, Array] = {}

        def finish(i: int, trace: Trace) -> None:
            move_counts(counts, trace)
            traces[i] = trace
            if progress is not None:
                progress(sum(t.samples for t in traces.values()) * timesteps, len(x) * timesteps)

        def episode(i: int, crew: Crew) -> Trace:
            return Episode(self, x[parts[i]], timesteps, observe, crew).run()

        with one_blas_thread():
            if len(parts) == 1 or self.threads == 1:
                with self._crew() as crew:
                    for i in range(len(parts)):
                        finish(i, episode(i, crew))
            else:
                self._side_by_side(len(parts), episode, finish)
        result = join([traces[i] for i in range(len(parts))])
        result.counts = counts
        return result

    @contextmanager
    def _crew(self) -> Iterator[Crew]:
        """A crew that nobody else has."""
        try:
            crew = self._crews.pop()
        except IndexError:
            # More of them than cores, all awake, would be in each other's way.
            crew = Crew(threads=min(self.threads, available_cores()))
        try:
            yield crew
        except BaseException:
            crew.close()
            raise
        self._crews.append(crew)

    def _side_by_side(
        self,
        parts: int,
        episode: Callable[[int, Crew], Trace],
        finish: Callable[[int, Trace], None],
    ) -> None:
        """Parts of the samples, each by a thread of its own."""
        stop = Event()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                futures = {pool.submit(episode, i, Crew(stop)): i for i in range(parts)}
                for future in as_completed(futures):
                    finish(futures[future], future.result())
            finally:
                stop.set()  # whoever still works gives up at the next stage
                pool.shutdown(wait=False, cancel_futures=True)

    def _parts(self, samples: int, timesteps: int) -> list[slice]:
        """Cut the samples so that every thread has work and its values fit the memory."""
        one = self._each_step * min(timesteps, self.network.window or timesteps)
        wanted = min(_MOST, max(_FEWEST, _PART // one))
        fitting = self.memory // (self.threads * (one + self._held))
        most = max(1, min(wanted, fitting, -(-samples // self.threads)))
        count = -(-samples // most)
        return [slice(*ends) for ends in cut(samples, count).tolist()]

    def _bytes(self) -> tuple[int, int]:
        """What one sample takes: its values per step, all layers together, and what is held.

        Held are potentials, and what is the same at every step.
        """
        values = 1
        for stage in self.plan.stages:
            dense = isinstance(stage, plans.Dense)
            values += size(stage.node.outputs[0]) * (16 if dense else 3)
        neurons = [s.node for s in self.plan.stages if isinstance(s, plans.Population)]
        held = sum(size(n.outputs[0]) for n in (*neurons, *self.plan.static))
        return values, self.dtype.itemsize * held

    def steps_at_once(self, samples: int, timesteps: int) -> int:
        """For how many steps the values of so many samples fit the memory.

        For no more than a window where layers take turns: most of them are silent during it.
        """
        left = self.memory // (self.threads * samples) - self._held
        fitting = left // self._each_step
        look = timesteps if self.early_exit is None else _CHECK
        return int(min(timesteps, max(1, fitting), look, self.network.window or timesteps))


def _dismiss(crews: deque[Crew]) -> None:
    for crew in crews:
        crew.close()


def constants(nodes: Iterable[ir.Node], dtype: np.dtype[Any]) -> Values:
    """The constant inputs of these nodes."""
    found = {v: constant(v) for node in nodes for v in node.inputs}
    return {v: a.astype(dtype) for v, a in found.items() if a is not None}


def _stages(plan: plans.Plan, dtype: np.dtype[Any]) -> list[Stage]:
    most: dict[ir.Value, float] = {}  # the largest |count| of every spiking value
    result: list[Stage] = []
    for stage in plan.stages:
        value = stage.node.outputs[0]
        match stage:
            case plans.Population() if stage.node.op_type == "WindowedIF":
                turns = Turns(stage, most)
                most[value] = turns.gamma
                result.append(turns)
            case plans.Population():
                neurons = Neurons(stage, most)
                most[value] = neurons.neuron.most
                result.append(neurons)
            case plans.Moved():
                most[value] = max(most[root] for root in stage.roots)
                result.append(Order(stage, most[value]))
            case plans.Unit() if stage.node.op_type == "MLIPool":
                most[value] = most[stage.source]
                result.append(Pool(stage, most[value]))
            case plans.Unit() if stage.node.op_type == "Delay":
                most[value] = most[stage.source]
                result.append(Wait(stage, most[value]))
            case plans.Unit():
                carried = plan.units[stage.source]
                twin = Twin(stage, carried, most[stage.source])
                most[value] = twin.most
                result.append(twin)
            case plans.Dense() if stage.current is not None:
                result.append(Summed(stage.node, stage.current, most))
            case plans.Dense():
                result.append(Definition(stage, constants([stage.node], dtype)))
    return result
