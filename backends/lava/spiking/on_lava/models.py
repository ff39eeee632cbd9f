"""The ProcessModels, on the CPU: floating_pt in float64 ports, fixed_pt in int32.

A model computes one time step in `run_spk`, with the functions of `dynamics`; both tags share
everything but the types of their ports and states.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from numpy.typing import NDArray

from backends.lava.spiking import dynamics
from backends.lava.spiking.on_lava import processes

Array = NDArray[Any]
IN = LavaPyType(PyInPort.VEC_DENSE, np.float64)
OUT = LavaPyType(PyOutPort.VEC_DENSE, np.float64)
STATE = LavaPyType(np.ndarray, np.float64)
IN_24 = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
OUT_24 = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
STATE_24 = LavaPyType(np.ndarray, np.int32, precision=24)


class _Model(PyLoihiProcessModel):
    """What all models share: their parameters as attributes."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.p = proc_params


class _ConstantCurrent(_Model):
    def run_spk(self) -> None:
        run = self.p["run"]
        step = min(self.time_step, run.steps)  # the pipeline runs empty
        rows, _t = run.place(step)
        current = self.p["current"][rows]
        if len(current) < run.batch:  # the last batch is filled up with nothing
            rest = np.zeros((run.batch - len(current), *current.shape[1:]), current.dtype)
            current = np.concatenate([current, rest])
        self.a_out.send(current)


class _Synapses(_Model):
    def run_spk(self) -> None:
        # First what arrived a step ago, then listen: one step of latency, and no deadlock.
        node, x = self.p["node"], getattr(self, "arrived", None)
        if x is None:
            self.a_out.send(np.zeros((self.p["batch"], *node.shape)))
        else:
            arguments = [x if a is None else a for a in self.p["constants"]]
            self.a_out.send(dynamics.synapse(node, arguments, x.dtype == np.int32))
        self.arrived = self.a_in.recv()
        if self.arrived.dtype != np.int32:
            self.arrived = self.arrived.astype(self.p["working"])


class _Axon(_Model):
    def run_spk(self) -> None:
        x = self.a_in.recv()
        if self.p["index"] is not None:
            x = dynamics.move([x], self.p["index"])
        if self.p["shift"] is not None:
            x = x << self.p["shift"]
        if self.p["wait"]:
            if not hasattr(self, "queue"):
                self.queue = deque([np.zeros_like(x)] * self.p["wait"])
            self.queue.append(x.copy())
            x = self.queue.popleft()
        self.a_out.send(x)


class _Relay(_Model):
    def run_spk(self) -> None:
        x = self.a_in.recv()
        if self.p["constants"] is not None:
            arguments = [x if a is None else a for a in self.p["constants"]]
            x = dynamics.evaluate(self.p["node"], arguments)
        self.a_out.send(x)


class _Population(_Model):
    def run_spk(self) -> None:
        node, run, x = self.p["node"], self.p["run"], self.a_in.recv()
        step = self.time_step - self.p["start"]
        if step < 1:  # nothing has come through the pipeline yet
            self.s_out.send(np.zeros((run.batch, *node.shape)))
            return
        _rows, t = run.place(step)
        if t == 1:
            self.state = dynamics.initial(node, self.p["constants"], run.batch, self.p["integer"])
        sent, self.state = dynamics.advance(
            node, x, self.p["constants"], self.state, t, self.p["integer"]
        )
        self.show()
        self.s_out.send(sent)

    def show(self) -> None:
        """Let the Vars hold the state."""


class _IntegrateAndFire(_Population):
    def show(self) -> None:
        self.v, self.count = self.state


class _Accumulator(_Model):
    def run_spk(self) -> None:
        run, x = self.p["run"], self.a_in.recv()
        step = self.time_step - self.p["start"]
        if step >= 1:
            _rows, t = run.place(step)
            if t == 1:
                self.v = np.zeros_like(x)
            if t > self.p["node"].settings["start"]:
                self.v = self.v + x
        self.v_out.send(self.v)


class _Recorder(_Model):
    def run_spk(self) -> None:
        self.p["record"].write(self.time_step - self.p["start"], self.s_in.recv())


# Lava wants one class per process and tag, with its ports and Vars spelled out.


@implements(proc=processes.ConstantCurrent, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyConstantCurrentFloat(_ConstantCurrent):
    """ConstantCurrent, floating_pt."""

    a_out: PyOutPort = OUT


@implements(proc=processes.ConstantCurrent, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyConstantCurrentFixed(_ConstantCurrent):
    """ConstantCurrent, fixed_pt."""

    a_out: PyOutPort = OUT_24


@implements(proc=processes.Synapses, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PySynapsesFloat(_Synapses):
    """Synapses, floating_pt."""

    a_in: PyInPort = IN
    a_out: PyOutPort = OUT


@implements(proc=processes.Synapses, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySynapsesFixed(_Synapses):
    """Synapses, fixed_pt."""

    a_in: PyInPort = IN_24
    a_out: PyOutPort = OUT_24


@implements(proc=processes.Axon, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyAxonFloat(_Axon):
    """Axon, floating_pt."""

    a_in: PyInPort = IN
    a_out: PyOutPort = OUT


@implements(proc=processes.Axon, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyAxonFixed(_Axon):
    """Axon, fixed_pt."""

    a_in: PyInPort = IN_24
    a_out: PyOutPort = OUT_24


@implements(proc=processes.Relay, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyRelayFloat(_Relay):
    """Relay, floating_pt."""

    a_in: PyInPort = IN
    a_out: PyOutPort = OUT


@implements(proc=processes.Relay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRelayFixed(_Relay):
    """Relay, fixed_pt."""

    a_in: PyInPort = IN_24
    a_out: PyOutPort = OUT_24


@implements(proc=processes.IntegrateAndFire, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyIntegrateAndFireFloat(_IntegrateAndFire):
    """IntegrateAndFire, floating_pt."""

    a_in: PyInPort = IN
    s_out: PyOutPort = OUT
    v: Array = STATE
    count: Array = STATE


@implements(proc=processes.IntegrateAndFire, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegrateAndFireFixed(_IntegrateAndFire):
    """IntegrateAndFire, fixed_pt."""

    a_in: PyInPort = IN_24
    s_out: PyOutPort = OUT_24
    v: Array = STATE_24
    count: Array = STATE_24


@implements(proc=processes.LeakyIntegrateAndFire, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyLeakyIntegrateAndFireFloat(_Population):
    """LeakyIntegrateAndFire, floating_pt."""

    a_in: PyInPort = IN
    s_out: PyOutPort = OUT


@implements(proc=processes.LeakyIntegrateAndFire, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLeakyIntegrateAndFireFixed(_Population):
    """LeakyIntegrateAndFire, fixed_pt."""

    a_in: PyInPort = IN_24
    s_out: PyOutPort = OUT_24


@implements(proc=processes.MLIPooling, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyMLIPoolingFloat(_Population):
    """MLIPooling, floating_pt."""

    a_in: PyInPort = IN
    s_out: PyOutPort = OUT


@implements(proc=processes.MLIPooling, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMLIPoolingFixed(_Population):
    """MLIPooling, fixed_pt."""

    a_in: PyInPort = IN_24
    s_out: PyOutPort = OUT_24


@implements(proc=processes.TwinSynapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyTwinSynapseFloat(_Population):
    """TwinSynapse, floating_pt."""

    a_in: PyInPort = IN
    s_out: PyOutPort = OUT


@implements(proc=processes.TwinSynapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTwinSynapseFixed(_Population):
    """TwinSynapse, fixed_pt."""

    a_in: PyInPort = IN_24
    s_out: PyOutPort = OUT_24


@implements(proc=processes.Accumulator, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyAccumulatorFloat(_Accumulator):
    """Accumulator, floating_pt."""

    a_in: PyInPort = IN
    v_out: PyOutPort = OUT
    v: Array = STATE


@implements(proc=processes.Accumulator, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyAccumulatorFixed(_Accumulator):
    """Accumulator, fixed_pt."""

    a_in: PyInPort = IN_24
    v_out: PyOutPort = OUT_24
    v: Array = STATE_24


@implements(proc=processes.Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyRecorderFloat(_Recorder):
    """Recorder, floating_pt."""

    s_in: PyInPort = IN


@implements(proc=processes.Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorderFixed(_Recorder):
    """Recorder, fixed_pt."""

    s_in: PyInPort = IN_24
