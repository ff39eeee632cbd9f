"""The two models of a whole network: one process for all, or one process per node.

Both leave the same spikes on disk. As one process the network has no latency and little to
synchronise; as one process per node it is the pipeline that a chip would run.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from backends.lava.spiking import dynamics
from backends.lava.spiking.dynamics import Node
from backends.lava.spiking.on_lava import processes
from backends.lava.spiking.on_lava.processes import SpikingNetwork

POPULATIONS = {
    "IF": processes.IntegrateAndFire,
    "LeakyIF": processes.LeakyIntegrateAndFire,
    "MLIPool": processes.MLIPooling,
    "TwinSynapse": processes.TwinSynapse,
}


class _Fused(PyLoihiProcessModel):
    """The whole network in one process, without latency."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.p = proc_params
        self.simulation = dynamics.Simulation(self.p["network"])

    def run_spk(self) -> None:
        """One time step of all layers, in their order."""
        run, readout = self.p["run"], self.p["network"].readouts()[0]
        if self.time_step <= run.steps:
            rows, t = run.place(self.time_step)
            if t == 1:
                self.simulation.start({k: np.array(c[rows]) for k, c in self.p["drive"].items()})
            values = self.simulation.step(t)
            for name, record in self.p["heard"].items():
                record.write(self.time_step, values[name])
            heard = np.zeros((run.batch, *readout.shape))
            heard[: rows.stop - rows.start] = values[readout.name]
            self.v_out.send(heard)
        else:
            self.v_out.send(np.zeros((run.batch, *readout.shape)))


@implements(proc=SpikingNetwork, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyFusedFloat(_Fused):
    """One process, floating_pt."""

    v_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.float64)


@implements(proc=SpikingNetwork, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFusedFixed(_Fused):
    """One process, fixed_pt."""

    v_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)


@implements(proc=SpikingNetwork, protocol=LoihiProtocol)
@tag("floating_pt", "fixed_pt")
class Pipeline(AbstractSubProcessModel):
    """One process per node, each as late as there are synapses before it."""

    def __init__(self, proc: AbstractProcess) -> None:
        self.p = proc.proc_params._parameters
        self.outputs: dict[str, Any] = {}
        self.connected: set[tuple[str, Any]] = set()
        self.numbers = count()
        constants = dynamics.Simulation(self.p["network"]).constants
        for node in self.p["network"].steps:
            made = self.make(node, constants)
            self.keep(made)
            self.outputs[node.name] = next(iter(made.out_ports))
            if node.op != "Encode":
                for position, source in enumerate(a for a in node.arguments if a in self.outputs):
                    self.connect(node, position, source, made.a_in, constants)
            self.record(node)
        self.outputs[self.p["network"].readouts()[0].name].connect(proc.v_out)

    def keep(self, made: AbstractProcess) -> AbstractProcess:
        """Lava finds sub-processes among the attributes of their model."""
        setattr(self, f"process_{next(self.numbers)}", made)
        return made

    def make(self, node: Node, constants: dict[str, Any]) -> AbstractProcess:
        """The process of a node, not yet connected."""
        network, run = self.p["network"], self.p["run"]
        known = [constants[a] for a in node.arguments if a in constants]
        if node.op == "Encode":
            return processes.ConstantCurrent(
                current=self.p["drive"][node.name], run=run, name=node.name
            )
        start = node.hop if self.p["late"] else 0
        settings = {"node": node, "run": run, "integer": network.integer, "name": node.name}
        if node.op == "Readout":
            return processes.Accumulator(start=start, **settings)
        if node.op in POPULATIONS:
            return POPULATIONS[node.op](constants=known, start=start, **settings)
        arguments = [constants.get(a) for a in node.arguments]
        if node.op in dynamics.SYNAPSES:
            source = next(a for a in node.arguments if a not in constants)
            shape = self.outputs[source].shape[1:]
            working = "float64" if network.arithmetic == "float64" else "float32"
            return processes.Synapses(
                node=node,
                constants=arguments,
                shape=shape,
                batch=run.batch,
                working=working,
                name=node.name,
            )
        joined = node.op == "Move" or sum(a is None for a in arguments) > 1
        return processes.Relay(
            node=node, constants=None if joined else arguments, batch=run.batch, name=node.name
        )

    def connect(
        self, node: Node, position: int, source: str, port: Any, constants: dict[str, Any]
    ) -> None:
        """Lead the output of a node to the input of another, through an axon if need be."""
        output, index, shift = self.outputs[source], None, None
        wait = node.waits[position] if node.waits else 0
        shape_out = output.shape[1:]
        if node.op == "Move":
            index, shape_out = self.picked(node, position, constants), node.shape
        if node.op == "Add" and len(node.arguments) == 4:
            shift = constants[node.arguments[2 + position]]
        edge = (source, port)
        if index is not None or shift is not None or wait or edge in self.connected:
            axon = processes.Axon(
                shape=output.shape[1:],
                shape_out=shape_out,
                batch=self.p["run"].batch,
                index=index,
                shift=shift,
                wait=wait,
                name=f"{node.name}:axon{position}",
            )
            self.keep(axon)
            output.connect(axon.a_in)
            output = axon.a_out
        self.connected.add(edge)
        output.connect(port)

    def picked(self, node: Node, position: int, constants: dict[str, Any]) -> Any:
        """Where the elements of a Move come from that this input contributes; -1: from others."""
        sizes = [
            int(np.prod(self.outputs[a].shape[1:])) for a in node.arguments if a in self.outputs
        ]
        start = sum(sizes[:position])
        index = constants[node.arguments[-1]].astype(np.int64)
        mine = (index >= start) & (index < start + sizes[position])
        return np.where(mine, index - start, -1)

    def record(self, node: Node) -> None:
        """Let what a layer sends be written to disk."""
        if node.name in self.p["heard"]:
            recorder = processes.Recorder(
                record=self.p["heard"][node.name],
                shape=node.shape,
                start=node.hop,
                name=f"{node.name}:recorder",
            )
            self.keep(recorder)
            self.outputs[node.name].connect(recorder.s_in)
