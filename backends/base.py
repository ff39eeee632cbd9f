"""What a backend is, and how a compiled network is taken apart for one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import DTypeLike

from backends.numpy_ops import readout
from snncompiler.diagnostics import InputError, clean, refuse
from snncompiler.graph import (
    KIND,
    RECORD,
    Array,
    attribute,
    data_inputs,
    is_op,
    rank,
    scale_of,
    shape,
    weights,
)
from snncompiler.ops import DOMAIN, SPIKING, VERSION, register
from snncompiler.trace import Observe, Trace

#: Hears (done, total), in samples times steps.
Progress = Callable[[int, int], None]

EVERYTHING = Observe()


class Program(Protocol):
    """A network ready to run."""

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = EVERYTHING,
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
    """An output of the network: the current it accumulates, and how (see the op Readout)."""

    name: str
    current: ir.Value
    mode: str
    start: int


@dataclass(frozen=True)
class Network:
    """A compiled network, taken apart.

    image, duration: the two inputs. static: the nodes before Encode, computed once per run.
    steps: those computed at every step, in order; Readouts are among `outputs` instead.
    record: what the compiler noted about the network (see `graph.RECORD`).
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

    def check(self, x: Array, timesteps: int) -> None:
        """Raise InputError unless the network can be shown these samples for that long."""
        expected = shape(self.image)
        if x.dtype != np.float32 or x.shape[1:] != expected or not len(x):
            raise refuse(
                f"cannot feed {x.dtype} samples of shape {_dims(x.shape)}",
                f"the network takes float32 samples of shape {_dims(('N', *expected))}",
                "prepare the samples as for the trained network",
            )
        if timesteps < 1:
            raise refuse(
                f"cannot run for {timesteps} time steps", "a run has at least one", "ask for more"
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
    inputs = model.graph.inputs
    images = [v for v in inputs if v.dtype == ir.DataType.FLOAT]
    durations = [v for v in inputs if v.dtype == ir.DataType.INT64]
    nodes = [node for node in model.graph if node.op_type != "Constant"]
    outputs = [_output(value) for value in model.graph.outputs]
    if model.opset_imports.get(DOMAIN) is None:
        raise _not_compiled(f"it has no spiking ops (domain '{DOMAIN}')")
    if model.opset_imports[DOMAIN] != VERSION:
        raise _not_compiled(f"its spiking ops are not of version {VERSION}")
    if not len(images) == len(durations) == 1 or len(inputs) != 2:
        raise _not_compiled("its inputs are not one float32 tensor and the number of steps, int64")
    if not outputs or None in outputs:
        raise _not_compiled("its outputs are not those of Readouts, which accumulate over time")
    record = _record(model)
    if any(v.shape is None for node in nodes for v in node.outputs):
        register()
        common.ShapeInferencePass()(model)
    static, steps = _split(nodes)
    return Network(
        image=images[0],
        duration=durations[0],
        static=static,
        steps=steps,
        outputs=tuple(o for o in outputs if o is not None),
        layers=tuple(
            Layer(node, _unit(node, normalised=record.get("form") == "normalised"))
            for node in steps
            if is_op(node, *SPIKING) and not _pools_currents(node)
        ),
        record=record,
    )


def unsupported(node: ir.Node, backend: str) -> InputError:
    """The error for a node that a backend cannot run."""
    op = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
    return refuse(
        clean(f"cannot run '{op}' at node '{node.name}'"),
        f"the backend '{backend}' has no rule for it",
        "run it with --backend onnxruntime, or compile the network again",
    )


def _not_compiled(why: str) -> InputError:
    return refuse("this is not a compiled network", why, "compile the model first: snnc compile")


def _output(value: ir.Value) -> Output | None:
    node = value.producer()
    if node is None or not is_op(node, "Readout") or value.uses() or node.inputs[0] is None:
        return None
    mode, start = attribute(node, "mode"), attribute(node, "start")
    return Output(str(value.name), node.inputs[0], mode, start)


def _record(model: ir.Model) -> dict[str, Any]:
    try:
        record = json.loads(model.metadata_props.get(RECORD, "{}"))
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        raise _not_compiled(f"the compiler's note in its metadata ('{RECORD}') is damaged")
    return record


def _split(nodes: list[ir.Node]) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]]:
    """The nodes that see no time, and the others but for the readouts, each in order."""
    static: list[ir.Node] = []
    steps: list[ir.Node] = []
    timed: set[ir.Value] = set()
    for node in nodes:
        data = data_inputs(node)
        late = [v in timed for v in data]
        if is_op(node, "Encode") and node.domain == DOMAIN:
            mixed = any(late)
        else:
            mixed = any(late) and not all(late)
            mixed |= node.domain == DOMAIN and not all(late)
        if mixed:
            raise _not_compiled(f"'{node.name}' mixes values with and without time")
        if node.domain == DOMAIN or any(late):
            timed.update(node.outputs)
            if not is_op(node, "Readout"):
                steps.append(node)
        else:
            static.append(node)
    return tuple(static), tuple(steps)


def _pools_currents(node: ir.Node) -> bool:
    return node.op_type == "MLIPool" and node.outputs[0].metadata_props.get(KIND) == "current"


def _unit(node: ir.Node, *, normalised: bool) -> Array:
    if node.op_type == "MLIPool":  # it knows no threshold; what it pools does
        scale = None if normalised else scale_of(node.outputs[0])
        scale = np.ones(1) if scale is None else scale
    else:
        scale = weights(node.inputs[1])
    return per_channel(scale, rank(node.outputs[0]))


def _dims(dims: tuple[Any, ...]) -> str:
    return "x".join(str(d) for d in dims)
