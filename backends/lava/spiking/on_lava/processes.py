"""The Lava Processes of a spiking network. Shapes are [batch, channels, height, width] or so.

All have one input and one output. Whatever joins branches is the sum at an input port; whatever
reorders, shifts or holds back what comes along one branch is an Axon on it.
"""

from __future__ import annotations

from typing import Any

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var

from backends.lava.spiking.dynamics import Network, Node
from backends.lava.spiking.records import Record, Run


class ConstantCurrent(AbstractProcess):
    """The current of each sample, the same for all its steps.

    current: [samples, ...], a memory map. start: steps to wait before the first sample.
    """

    def __init__(self, *, current: Any, run: Run, **settings: Any) -> None:
        super().__init__(current=current, run=run, **settings)
        self.a_out = OutPort(shape=(run.batch, *current.shape[1:]))


class Synapses(AbstractProcess):
    """Conv, ConvTranspose, Gemm, MatMul or Mul: what arrives at one step leaves at the next."""

    def __init__(
        self, *, node: Node, constants: Any, shape: tuple[int, ...], batch: int, **settings: Any
    ) -> None:
        super().__init__(node=node, constants=constants, batch=batch, **settings)
        self.a_in = InPort(shape=(batch, *shape))
        self.a_out = OutPort(shape=(batch, *node.shape))


class Axon(AbstractProcess):
    """One branch: picks values (index, -1: 0), shifts them left, holds them back `wait` steps."""

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        shape_out: tuple[int, ...],
        batch: int,
        index: Any = None,
        shift: Any = None,
        wait: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(index=index, shift=shift, wait=wait, **settings)
        self.a_in = InPort(shape=(batch, *shape))
        self.a_out = OutPort(shape=(batch, *shape_out))


class Relay(AbstractProcess):
    """A node without a state or synapses: the sum of what arrives, a bias, a rounding."""

    def __init__(self, *, node: Node, constants: Any, batch: int, **settings: Any) -> None:
        super().__init__(node=node, constants=constants, batch=batch, **settings)
        shape = node.settings.get("input_shape", node.shape)
        self.a_in = InPort(shape=(batch, *shape))
        self.a_out = OutPort(shape=(batch, *node.shape))


class Population(AbstractProcess):
    """A node with a state. It starts anew every T steps, for the first time at step hop + 1.

    start: the hop, which is also the start delay of a pipelined machine.
    """

    def __init__(
        self, *, node: Node, constants: Any, run: Run, start: int, integer: bool, **settings: Any
    ) -> None:
        super().__init__(
            node=node, constants=constants, run=run, start=start, integer=integer, **settings
        )
        shape = node.settings.get("input_shape", node.shape)
        self.a_in = InPort(shape=(run.batch, *shape))
        self.s_out = OutPort(shape=(run.batch, *node.shape))


class IntegrateAndFire(Population):
    """Soft reset, bursts, signs, threshold per channel, initial potential, start delay.

    v: membrane potential; count: what was sent so far.
    """

    def __init__(self, *, node: Node, run: Run, **settings: Any) -> None:
        super().__init__(node=node, run=run, **settings)
        self.v = Var(shape=(run.batch, *node.shape), init=0)
        self.count = Var(shape=(run.batch, *node.shape), init=0)


class LeakyIntegrateAndFire(Population):
    """The signed neuron of a LeakyRelu."""


class MLIPooling(Population):
    """Max pooling of spike trains, exact for every window."""


class TwinSynapse(Population):
    """SpiCalib: takes the spikes of a neuron back that has fallen silent."""


class Accumulator(AbstractProcess):
    """A readout: the sum of all that arrives after its start, from the hop on."""

    def __init__(self, *, node: Node, run: Run, start: int, integer: bool, **settings: Any) -> None:
        super().__init__(node=node, run=run, start=start, integer=integer, **settings)
        shape = (run.batch, *node.shape)
        self.a_in = InPort(shape=shape)
        self.v_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)


class Recorder(AbstractProcess):
    """Writes what it hears to disk, from step start + 1 on."""

    def __init__(
        self, *, record: Record, shape: tuple[int, ...], start: int, **settings: Any
    ) -> None:
        super().__init__(record=record, start=start, **settings)
        self.s_in = InPort(shape=(record.run.batch, *shape))


class SpikingNetwork(AbstractProcess):
    """A whole network: as one process, or as one process per node (see the two models).

    drive: the current of every encoder, [samples, ...]. heard: what each layer and readout leaves
    on disk. late: whether every node of the pipeline starts `hop` steps late, as it must.
    """

    def __init__(
        self, *, network: Network, drive: Any, run: Run, heard: Any, late: bool = True, **more: Any
    ) -> None:
        super().__init__(network=network, drive=drive, run=run, heard=heard, late=late, **more)
        readout = network.readouts()[0]
        self.v_out = OutPort(shape=(run.batch, *readout.shape))
