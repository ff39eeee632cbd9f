"""What a backend is, and how a compiled network is taken apart for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import DTypeLike

from backends.numpy_ops import readout
from snncompiler.diagnostics import InputError, clean, refuse
from snncompiler.graph import (
    KIND,
    Array,
    attribute,
    constant,
    data_inputs,
    is_op,
    rank,
    scale_of,
    shape,
)
from snncompiler.ops import DOMAIN, SPIKING, VERSION, register
from snncompiler.record import RECORD, record_of
from snncompiler.trace import Observe, Trace

#: Hears (done, total), in samples times steps.
Progress = Callable[[int, int], None]

#: The readout at every step, and spike counts.
READOUT = Observe()


class Program(Protocol):
    """A network ready to run."""

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = READOUT,
        progress: Progress | None = None,
    ) -> Trace:
        """Show the samples x, float32 [N, ...], for `timesteps` steps, from the initial state."""
        ...


class Backend(Protocol):
    """Makes programs out of compiled networks."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    def build(self, model: ir.Model) -> Program:
        """Prepare a network; raises InputError if it cannot run here."""
        ...


@dataclass(frozen=True)
class Layer:
    """A node whose output carries spikes; unit: what one spike carries, see `per_channel`."""

    node: ir.Node
    unit: Array

    @property
    def name(self) -> str:
        """The name the layer bears in a trace."""
        return str(self.node.name)


@dataclass(frozen=True)
class Output:
    """An output of the network: its Readout, the current that accumulates, and how (see the op)."""

    node: ir.Node
    name: str
    current: ir.Value
    mode: str
    start: int


@dataclass(frozen=True)
class Network:
    """A compiled network, taken apart.

    image, duration: the two inputs. static: the nodes before Encode, computed once per run.
    steps: those computed at every step, in order; Readouts are among `outputs` instead.
    record: what the compiler noted about the network (see `snncompiler/record.py`).
    """

    image: ir.Value
    duration: ir.Value
    static: tuple[ir.Node, ...]
    steps: tuple[ir.Node, ...]
    outputs: tuple[Output, ...]
    layers: tuple[Layer, ...]
    record: dict[str, Any]

    @property
    def gridded(self) -> bool:
        """Whether every current is exact in float32, in any order of summation."""
        return self.record.get("gridded") is True

    @cached_property
    def window(self) -> int | None:
        """Steps for which each layer listens, of a network whose layers take turns."""
        windows = [attribute(n, "window") for n in self.steps if n.op_type == "WindowedIF"]
        return windows[0] if windows else None

    @cached_property
    def latency(self) -> int | None:
        """Steps after which a network whose layers take turns has answered."""
        window = self.window
        return None if window is None else window + max(o.start for o in self.outputs)

    def check(self, x: Array, timesteps: int) -> None:
        """Raise InputError unless the network can be shown these samples for that long."""
        expected = ("N", *shape(self.image))
        if x.dtype != np.float32 or x.shape[1:] != expected[1:] or not len(x):
            given, wanted = ("x".join(map(str, dims)) for dims in (x.shape, expected))
            raise refuse(
                f"cannot feed {x.dtype} samples of shape {given}",
                f"the network takes float32 samples of shape {wanted}",
                "prepare the samples as for the trained network",
            )
        finite = np.isfinite(x.reshape(len(x), -1)).all(1)
        if not finite.all():
            what = f"sample {int(np.argmin(finite))} holds NaN or infinite values"
            raise refuse(what, "currents must be numbers", "look at how the samples were made")
        if timesteps < 1:
            what = f"cannot run for {timesteps} time steps"
            raise refuse(what, "a run has at least one", "ask for more")
        if self.latency not in (None, timesteps):
            raise refuse(
                f"cannot run this network for {timesteps} time steps",
                f"its layers speak one after the other; it answers after {self.latency} steps",
                f"leave --timesteps out, or compile it for another window than {self.window}",
            )


class Recorder:
    """Collects what is observed of one batch, step by step from the first on."""

    def __init__(self, timesteps: int, samples: int, observe: Observe, dtype: DTypeLike) -> None:
        self.timesteps, self.samples, self.dtype = timesteps, samples, np.dtype(dtype)
        self.observe, self.kept = observe, observe.kept_steps(timesteps)
        self.totals: dict[str, Array] = {}
        self.readout: dict[str, Array] = {}
        self.counts: dict[str, Array] = {}
        self.trains: dict[str, Array] = {}
        self.membranes: dict[str, Array] = {}

    def read(self, output: Output, current: Array, t: int) -> None:
        """What comes into a readout at step t, [N, ...]."""
        name, kept = output.name, self.kept
        if name not in self.totals:
            self.totals[name] = np.zeros(current.shape)
            self.readout[name] = np.zeros((len(kept), *current.shape), self.dtype)
        if t > output.start:
            self.totals[name] += current
        if t in kept:
            total = readout(self.totals[name], t, mode=output.mode, start=output.start)
            self.readout[name][kept.index(t)] = total

    def spikes(self, layer: Layer, sent: Array, t: int) -> None:
        """What a layer sends at step t, [N, C, ...]."""
        # Summed before it is rounded: what is sent is a whole number of units but for an ulp.
        total = np.rint(np.abs(sent).sum(0, keepdims=True, dtype=np.float64) / layer.unit)[0]
        self.counts[layer.name] = self.counts.get(layer.name, 0) + total
        if self.observe.spikes:
            self._keep(self.trains, layer.name, np.rint(sent / layer.unit), t, np.int32)

    def membrane(self, layer: Layer, potential: Array, t: int) -> None:
        """The membrane potentials of a layer after step t, [N, C, ...]."""
        self._keep(self.membranes, layer.name, potential, t, np.float64)

    def _keep(
        self, kept: dict[str, Array], name: str, array: Array, t: int, dtype: DTypeLike
    ) -> None:
        if name not in kept:
            kept[name] = np.empty((self.timesteps, *array.shape), dtype)
        kept[name][t - 1] = array

    def trace(self) -> Trace:
        """All that was collected."""
        return Trace(
            timesteps=self.timesteps,
            samples=self.samples,
            steps=self.kept,
            readout=self.readout,
            counts={name: total.astype(np.int64) for name, total in self.counts.items()},
            trains=self.trains,
            membranes=self.membranes,
        )


def per_channel(numbers: Array, rank: int) -> Array:
    """[C] or [1] as float64 that broadcasts over [N, C, ...] of that rank.

    One number, shape [1], if all are equal: NumPy then runs over whole arrays in one loop.
    """
    numbers = numbers.reshape(-1).astype(np.float64)
    if (numbers == numbers[0]).all():
        return numbers[:1]
    return numbers.reshape(-1, *[1] * (rank - 2))


def size(value: ir.Value) -> int:
    """Numbers per sample in a value."""
    return int(np.prod(shape(value), dtype=np.int64))


def batches(samples: int, bytes_per_sample: int, limit: int) -> Iterator[slice]:
    """Split the samples so that a batch stays under a number of bytes; one sample at least."""
    step = min(samples, max(1, limit // max(1, bytes_per_sample)))
    return (slice(i, min(i + step, samples)) for i in range(0, samples, step))


def take_apart(model: ir.Model) -> Network:
    """Look at a compiled network as a backend needs it.

    Raises:
        InputError: the model is no compiled network.
    """
    if model.opset_imports.get(DOMAIN) != VERSION:
        raise _not_compiled(f"it has no spiking ops (domain '{DOMAIN}', version {VERSION})")
    inputs = {v.dtype: v for v in model.graph.inputs}
    if set(inputs) != {ir.DataType.FLOAT, ir.DataType.INT64} or len(model.graph.inputs) != 2:
        raise _not_compiled("its inputs are not one float32 tensor and the number of steps, int64")
    nodes = [node for node in model.graph if node.op_type != "Constant"]
    if any(v.shape is None for node in nodes for v in node.outputs):
        register()
        common.ShapeInferencePass()(model)
    static, steps = _split(nodes)
    record = _record(model)
    spiking = (node for node in steps if node.domain == DOMAIN and node.op_type in SPIKING)
    units = ((node, _unit(node, record)) for node in spiking)
    return Network(
        image=inputs[ir.DataType.FLOAT],
        duration=inputs[ir.DataType.INT64],
        static=static,
        steps=steps,
        outputs=tuple(_output(value) for value in model.graph.outputs),
        layers=tuple(Layer(node, unit) for node, unit in units if unit is not None),
        record=record,
    )


def unsupported(node: ir.Node, backend: str) -> InputError:
    """The error for a node that a backend cannot run."""
    op = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
    return refuse(
        clean(f"cannot run '{op}' at node '{node.name}'"),
        f"the backend '{backend}' has no rule for it, or none for these attributes",
        "run it with --backend onnxruntime, or compile the model again",
    )


def _not_compiled(why: str) -> InputError:
    return refuse("this is not a compiled network", clean(why), "compile the model: snnc compile")


def _record(model: ir.Model) -> dict[str, Any]:
    try:
        return record_of(model)
    except ValueError:
        why = f"the compiler's note in its metadata ('{RECORD}') is damaged"
        raise _not_compiled(why) from None


def _split(nodes: Sequence[ir.Node]) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]]:
    """The nodes that see no time, and the others but for the Readouts, each in order."""
    static, steps = [], []
    timed: set[ir.Value] = set()
    for node in nodes:
        seen = {v in timed for v in data_inputs(node)}
        # Encode brings time in; every other op of ours needs it; the rest takes what it gets.
        if len(seen) > 1 or (node.domain == DOMAIN and seen != {node.op_type != "Encode"}):
            raise _not_compiled(f"'{node.name}' mixes values with time and without")
        if node.domain != DOMAIN and True not in seen:
            static.append(node)
        elif node.op_type != "Readout":
            steps.append(node)
            timed.update(node.outputs)
    return tuple(static), tuple(steps)


def _output(value: ir.Value) -> Output:
    node = value.producer()
    if node is None or not is_op(node, "Readout") or node.inputs[0] is None or value.uses():
        raise _not_compiled(f"its output '{value.name}' is not that of a Readout")
    mode, start = attribute(node, "mode"), attribute(node, "start")
    return Output(node, str(value.name), node.inputs[0], mode, start)


def _unit(node: ir.Node, record: dict[str, Any]) -> Array | None:
    """What one spike of a layer carries.

    None: it is no layer, for it pools or delays currents, or spikes of sizes that nobody noted
    (physical form).
    """
    value = node.outputs[0]
    if node.op_type not in ("MLIPool", "Delay"):
        unit = constant(node.inputs[1])
        if unit is None:
            raise _not_compiled(f"the threshold of '{node.name}' is not constant")
    elif value.metadata_props.get(KIND) == "current":
        return None
    else:  # a pool or delay has no threshold of its own
        unit = np.ones(1) if record.get("form") == "normalised" else scale_of(value)
        if unit is None:
            return None
    return per_channel(unit, rank(value))
