"""Some samples from the first step to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from backends.definitions import Values, evaluate
from backends.event.crew import Crew
from backends.event.stretch import Stretch
from backends.event.tail import Sums
from snncompiler.graph import Array
from snncompiler.trace import Observe, Trace

if TYPE_CHECKING:
    from backends.event.program import EventProgram


class Episode:
    """One part of the samples x, run stretch by stretch by a crew."""

    def __init__(
        self,
        program: EventProgram,
        x: Array,
        timesteps: int,
        observe: Observe,
        crew: Crew,
    ) -> None:
        self.program, self.x, self.timesteps, self.observe = program, x, timesteps, observe
        self.crew = crew
        self.kept = observe.kept_steps(timesteps)
        self.rows: Array = np.arange(len(x))  # the samples that still run
        self.taken = np.full(len(x), timesteps)
        self.readout: dict[str, Array] = {}
        self.counts: dict[str, Array] = {}
        self.trains: dict[str, Array] = {}

    def run(self) -> Trace:
        """From the initial state to the last step."""
        static, states = self._static(), dict[ir.Node, Any]()
        grids: dict[ir.Node, Array | None] = {}
        sums = self.program.tail.listen(self.kept)
        before, program = 0, self.program
        while before < self.timesteps and len(self.rows):
            ahead = program.steps_at_once(len(self.rows), self.timesteps)
            steps = min(ahead, self.timesteps - before)
            now = Stretch(
                len(self.rows),
                before,
                steps,
                self.timesteps,
                program.dtype,
                static,
                states,
                grids,
                program.plan.units,
                self.crew,
            )
            for stage in program.stages:
                if self.crew.stop.is_set():
                    raise KeyboardInterrupt
                stage.run(now)
            sums.hear(now)
            self._record(now)
            before += steps
            self._read(sums, before - steps, before)
            if program.early_exit is not None and before < self.timesteps:
                going = self._undecided(sums, before)
                self.taken[self.rows[~going]] = before
                self.rows = self.rows[going]
                states = {n: tuple(_rows(a, going) for a in s) for n, s in states.items()}
                static = {v: _rows(a, going) for v, a in static.items()}
                sums.keep(going)
        return Trace(
            timesteps=self.timesteps,
            samples=len(self.x),
            steps=self.kept,
            readout=self.readout,
            counts=self.counts,
            trains=self.trains,
            taken=self.taken,
        )

    def _static(self) -> dict[ir.Value, Array]:
        """What is the same at every step."""
        program = self.program
        image = self.x.astype(program.dtype)
        values: Values = {**program.constants, program.network.image: image}
        for node in program.plan.static:
            encoded = node.op_type == "Encode"
            settings = program.parameters[node]
            values[node.outputs[0]] = (
                values[node.inputs[0]] if encoded else evaluate(node, values, settings)
            )
        found = {v: a for v, a in values.items() if v is not None and v in program.timed}
        return {v: a for v, a in found.items() if v not in program.constants}

    def _record(self, now: Stretch) -> None:
        for layer, value, dims in self.program.layers:
            name = layer.name
            if value in now.spikes:
                spikes = now.spikes[value]
                counts = spikes.totals(self.crew).T
                trains = spikes.x.transpose(1, 0, 3, 2) if self.observe.spikes else None
            else:
                dense = now.dense[value].reshape(now.samples, now.steps, *dims)
                trains = np.rint(dense / layer.unit).swapaxes(0, 1)
                counts = np.abs(trains).sum((0, 1)).astype(np.int64)
            if name in self.counts:
                self.counts[name] += counts.reshape(dims)
            else:
                self.counts[name] = counts.reshape(dims)
            if trains is not None and self.observe.spikes:
                whole = (self.timesteps, len(self.x), *dims)
                kept = self.trains.setdefault(name, np.zeros(whole, np.int32))
                steps = slice(now.before, now.before + now.steps)
                kept[steps, self.rows] = trains.reshape(now.steps, now.samples, *dims)

    def _read(self, sums: Sums, before: int, now: int) -> None:
        """Fill in the readouts of these steps."""
        here = [i for i, t in enumerate(self.kept) if before < t <= now]
        if not here:
            return
        found = sums.readouts([self.kept[i] for i in here], self.program.dtype)
        for name, values in found.items():
            whole = (len(self.kept), len(self.x), *values.shape[2:])
            kept = self.readout.setdefault(name, np.zeros(whole, self.program.dtype))
            for i, value in zip(here, values, strict=True):
                kept[i, self.rows] = value

    def _undecided(self, sums: Sums, t: int) -> Array:
        """Whether each sample needs more steps; those that do not keep this readout."""
        found = sums.readouts([t], np.dtype(np.float64))
        output = self.program.network.outputs[0]
        z = found[output.name].reshape(len(self.rows), -1)
        if z.shape[1] < 2 or t <= output.start:
            return np.ones(len(z), bool)
        second, first = np.partition(z, -2, 1)[:, -2:].T
        assert self.program.early_exit is not None
        # Not the other way round: while nothing has arrived, all outputs are equal.
        safe = (first - second) * (t - output.start) > self.program.early_exit * z.std(1)
        going: Array = ~safe
        for name, (values,) in found.items():
            whole = (len(self.kept), len(self.x), *values.shape[1:])
            kept = self.readout.setdefault(name, np.zeros(whole, self.program.dtype))
            for i in (i for i, step in enumerate(self.kept) if step > t):
                kept[i, self.rows[~going]] = values[~going]
        return going


def _rows(array: Array, keep: Array) -> Array:
    """The samples to keep; a state that no sample needs is empty."""
    return np.ascontiguousarray(array[keep]) if array.size else array
