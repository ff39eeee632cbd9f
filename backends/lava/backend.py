"""Run a network on Lava: write its bundle to a folder, run that, read what it leaves."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from backends.base import READOUT, Network, Progress, take_apart
from backends.lava import guard, interpreter
from backends.lava.bundle import files
from backends.lava.fixed import to_integers
from backends.lava.plan import plan
from backends.lava.spiking import dynamics
from backends.lava.spiking.records import Run, records
from snncompiler.diagnostics import Diagnostic, Problem, clean_lines, refuse
from snncompiler.graph import Array
from snncompiler.trace import Observe, Trace

#: Samples that Lava is shown at a time.
_BATCH = 8


class LavaBackend:
    """Builds programs that run on Lava's CPU simulator, in a process of their own.

    layers: one Lava process per layer instead of one for the whole network. patience: seconds
    that Lava may be silent, that is, for its start and for the T steps of a batch.
    """

    name = "lava"

    def __init__(self, layers: bool = False, patience: float = 300.0) -> None:
        self.layers, self.patience = layers, patience

    def build(self, model: ir.Model) -> LavaProgram:
        """Make the plan of the network.

        Raises:
            InputError: the network has what Lava has not.
        """
        network = take_apart(model)
        planned = plan(network)
        if network.record.get("target", "ideal") != "ideal":
            planned = to_integers(planned, network)
        return LavaProgram(network, planned, self.layers, self.patience)


class LavaProgram:
    """A network as a bundle.

    start_delay False starts every layer at step 1, whatever the pipeline has brought by then.
    """

    start_delay = True

    def __init__(
        self,
        network: Network,
        planned: dynamics.Network,
        layers: bool,
        patience: float,
    ) -> None:
        self.network, self.plan = network, planned
        self.layers, self.patience = layers, patience
        self.seconds = 0.0

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = READOUT,
        progress: Progress | None = None,
    ) -> Trace:
        """Show the samples x, float32 [N, ...], for `timesteps` steps, from the initial state.

        Raises:
            InputError: membranes are wanted; there is no Python with Lava.
            Diagnostic: Lava failed or hung.
        """
        self.network.check(x, timesteps)
        if observe.membranes:
            raise refuse(
                "the backend 'lava' cannot show membrane potentials",
                "they stay in Lava's processes",
                "use --backend numpy, which computes the same ones",
            )
        if self.plan.integer and timesteps > self.plan.timesteps:
            raise refuse(
                f"cannot run this network of integers for {timesteps} steps",
                f"its potentials are proven to fit for the {self.plan.timesteps} it was made for",
                "compile it with a larger --timesteps, or use --backend numpy",
            )
        python = interpreter.find()
        with tempfile.TemporaryDirectory(prefix="snnc-lava-") as name:
            folder = Path(name)
            for path, content in files(self.plan, "network", "").items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            np.savez(folder / "data.npz", x=x)
            batch = min(_BATCH, len(x))
            run = Run(folder / "record", len(x), batch, timesteps, observe.spikes)
            self._run(python, folder, run, progress)
            return self._trace(run, observe)

    def _run(self, python: str, folder: Path, run: Run, progress: Progress | None) -> None:
        command = [python, str(folder / "run.py"), str(folder / "data.npz"), "--guarded"]
        command += ["--timesteps", str(run.timesteps), "--batch", str(run.batch)]
        command += ["--record", str(run.folder)]
        command += ["--trains"] * run.trains + ["--layers"] * self.layers
        command += ["--no-start-delay"] * (not self.start_delay)

        def heard(done: int, total: int) -> None:
            if progress is not None:
                progress(done * run.samples * run.timesteps // total, run.samples * run.timesteps)

        try:
            guard.run(command, self.patience, heard)
        except guard.Silent as error:
            text = f"nothing was heard of it for {self.patience:g} s; it was ended. {error}"
            raise _failed(text, "if it needs longer, choose a smaller network or T") from None
        except guard.Failed as error:
            raise _failed(str(error), "see the last lines; --backend numpy needs no Lava") from None
        self.seconds = float(json.loads((run.folder / "seconds.json").read_text()))

    def _trace(self, run: Run, observe: Observe) -> Trace:
        kept = observe.kept_steps(run.timesteps)
        trace = Trace(run.timesteps, run.samples, kept, {}, {})
        heard = records(self.plan, run)
        dtype = np.float32 if self.network.gridded else np.float64
        for layer in self.network.layers:
            record = heard[layer.name]
            trace.counts[layer.name] = np.load(record.counts)
            if run.trains:
                trace.trains[layer.name] = np.load(record.train).astype(np.int32)
        for output, node in zip(self.network.outputs, self.plan.readouts(), strict=True):
            totals = np.load(heard[node.name].train, mmap_mode="r")
            exponent = self.plan.exponent(node)
            said = [dynamics.outputs(node, totals[t - 1], t, exponent) for t in kept]
            whole = np.array(said, dtype).reshape(len(kept), *totals.shape[1:])
            trace.readout[output.name] = whole
        return trace


def _failed(why: str, do: str) -> Diagnostic:
    return Diagnostic(Problem("Lava did not finish", clean_lines(why.split("\n")), do))
