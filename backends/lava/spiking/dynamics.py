"""What a spiking network computes in one time step, in NumPy alone.

A network is a list of nodes in the order of computation. Those of the static part see the image
once; the others are computed at every step t = 1..T, each from what the nodes before it have sent
in the same step. Arithmetic is float32 or float64, or int32: then weights are integers, a
threshold is 2^exponent, and membrane potentials have 24 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backends.numpy_ops as ops

Array = NDArray[Any]
State = tuple[Array, ...]
#: Largest membrane potential of the integer network: 24 bits, signed.
MEMBRANE = (1 << 23) - 1

#: Ops that own synapses.
SYNAPSES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Mul")
#: Ops with a state, which starts anew with every sample.
STATEFUL = ("IF", "LeakyIF", "MLIPool", "TwinSynapse")


@dataclass(frozen=True)
class Node:
    """One node: its op, where its arguments come from, the shape of one sample of its output.

    arguments: names of nodes, or of arrays in weights.npz. hop: by how many steps a pipelined
    machine is late here. waits: for how many steps it must hold back each argument.
    """

    name: str
    op: str
    arguments: tuple[str, ...]
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    hop: int = 0
    waits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """A spiking network.

    image: the name that nodes know it by. arithmetic: 'float32', 'float64' or 'int32'.
    static: nodes computed once per sample. steps: nodes computed at every step; the Readouts
    among them are the outputs. units: by layer whose spikes are counted, the array that holds
    what one of its spikes carries, '' for 1. arrays: weights.npz. timesteps: the T that the
    network was made for.
    """

    image: str
    arithmetic: str
    timesteps: int
    static: tuple[Node, ...]
    steps: tuple[Node, ...]
    units: Mapping[str, str]
    arrays: Mapping[str, Array] = field(default_factory=dict)

    @property
    def integer(self) -> bool:
        """Whether it computes with integers."""
        return self.arithmetic == "int32"

    def readouts(self) -> list[Node]:
        """The outputs."""
        return [node for node in self.steps if node.op == "Readout"]

    def encoders(self) -> list[Node]:
        """Where constant currents enter."""
        return [node for node in self.steps if node.op == "Encode"]

    def exponent(self, node: Node) -> Array | None:
        """Integer networks: a current of 1 at a readout means 2^-exponent."""
        return self.arrays.get(f"{node.name}:exponent")

    def constant(self, name: str) -> Array | None:
        """An array in the working type: a synapse computes in floats, integer or not."""
        if name not in self.arrays:
            return None
        shift = self.arrays.get(name.replace(":weight", ":shift")) if ":weight" in name else None
        array = self.arrays[name]
        if shift is not None:
            array = array.astype(np.int64) << shift
        dtype = "float32" if self.integer and name.endswith((":weight", ":bias")) else None
        return array.astype(dtype or self.arithmetic) if array.dtype.kind != "i" or dtype else array


def currents(network: Network, x: Array) -> dict[str, Array]:
    """The static part: the constant current of every encoder, for samples x [N, ...]."""
    working = "float32" if network.integer else network.arithmetic
    values: dict[str, Array] = {network.image: x.astype(working)}
    for node in network.static:
        arguments = [
            values[a] if a in values else network.arrays[a].astype(working) for a in node.arguments
        ]
        values[node.name] = evaluate(node, arguments)
    result = {}
    for node in network.encoders():
        current = values[node.arguments[0]]
        if network.integer:
            exact = np.ldexp(current.astype(np.float64), network.arrays[node.arguments[1]])
            current = np.rint(exact).astype(np.int32)
        result[node.name] = current
    return result


def evaluate(node: Node, arguments: Sequence[Array]) -> Array:
    """What a node without a state makes of its arguments."""
    first, settings = arguments[0], node.settings
    match node.op:
        case "Conv":
            return ops.conv(*arguments, **settings)
        case "ConvTranspose":
            return ops.conv_transpose(*arguments, **settings)
        case "Gemm":
            return ops.gemm(*arguments)
        case "MatMul":
            product: Array = np.matmul(first, arguments[1])
            return product
        case "Mul":
            return np.multiply(first, arguments[1])
        case "Add":
            left, right, *shifts = arguments
            if shifts:  # both to the finer unit
                left, right = left << shifts[0], right << shifts[1]
            return np.add(left, right)
        case "Move":
            return move(arguments[:-1], arguments[-1])
        case "Clip":
            return ops.clip(*arguments)
        case "MaxPool":
            return ops.max_pool(first, **settings)
        case "Relu":
            return ops.relu(first)
        case "Round":
            return np.rint(first)
    raise ValueError(f"no rule for {node.op} at {node.name}")


def move(inputs: Sequence[Array], index: Array) -> Array:
    """Pick elements: index points into the flattened inputs, laid end to end; -1 gives 0."""
    flat = np.concatenate([x.reshape(len(x), -1) for x in inputs], axis=1)
    moved: Array = flat[:, index.reshape(-1)]
    if (index < 0).any():
        moved[:, index.reshape(-1) < 0] = 0
    return moved.reshape(len(flat), *index.shape)


def synapse(node: Node, arguments: Sequence[Array], integer: bool) -> Array:
    """A synapse; integers go through a product of floats, which their bound keeps exact."""
    if not integer:
        return evaluate(node, arguments)
    return evaluate(node, [a.astype(np.float32, copy=False) for a in arguments]).astype(np.int32)


def initial(node: Node, constants: Sequence[Array], batch: int, integer: bool) -> State:
    """The state of a node before the first step of a sample."""
    number = np.int32 if integer else np.float64
    shape = (batch, *node.shape)
    match node.op:
        case "IF":  # potential and count
            v = constants[1].astype(number)
            v = v.reshape(v.shape + (1,) * (len(node.shape) - v.ndim))
            return np.broadcast_to(v, shape), np.zeros(shape, number)
        case "LeakyIF":  # accumulated current and count
            return np.zeros(shape), np.zeros(shape)
        case "MLIPool":  # accumulated input and its maximum
            return np.zeros((batch, *node.settings["input_shape"])), np.zeros(1)
        case "TwinSynapse":  # events, time of the last one, net count
            return np.zeros(shape), np.zeros(shape), np.zeros(shape)
    return ()


def advance(
    node: Node, current: Array, constants: Sequence[Array], state: State, t: int, integer: bool
) -> tuple[Array, State]:
    """What a node with a state sends at step t, and its new state.

    Raises:
        OverflowError: a membrane potential leaves 24 bits.
    """
    settings = {k: v for k, v in node.settings.items() if k != "input_shape"}
    match node.op:
        case "IF" if integer:
            v, c = state
            sent, *after = integer_if_step(node, current, v, c, *constants, t=t, **settings)
        case "IF":
            v, c = state
            sent, *after = ops.if_step(current, v, c, constants[0], t=t, **settings)
        case "LeakyIF":
            x, c = state
            theta, alpha = constants
            sent, *after = ops.leaky_if_step(current, x, c, theta, t=t, alpha=alpha, **settings)
        case "MLIPool":
            c, top = state
            sent, *after = ops.mli_pool_step(current, c, top, **settings)
        case _:
            f, last, n = state
            sent, *after = ops.twin_synapse_step(current, f, last, n, constants[0], t=t, **settings)
    return sent, tuple(after)


def integer_if_step(
    node: Node,
    i: Array,
    v: Array,
    c: Array,
    exponent: Array,
    _v_init: Array,
    shift: Array | int = 0,
    *,
    t: int,
    gamma: float,
    gamma_neg: float,
    delay: int,
) -> tuple[Array, Array, Array]:
    """Integrate-and-fire in integers, threshold 2^exponent, spikes of size 1.

    U = V + (I << shift);  s = clip(U >> exponent, -gamma_neg, gamma);  s = max(s, -C);
    V = U - (s << exponent);  C = C + s.
    """
    if t <= delay:
        return np.zeros_like(v), v, c
    u = v + (i << shift)
    if max(int(u.max()), -int(u.min())) > MEMBRANE:
        raise OverflowError(f"a membrane potential of '{node.name}' leaves 24 bits at step {t}")
    s = np.clip(u >> exponent, -int(gamma_neg), int(gamma))
    if gamma_neg:  # else s >= 0 >= -C already
        s = np.maximum(s, -c)
    return s, u - (s << exponent), c + s


class Simulation:
    """The whole network, one step at a time."""

    def __init__(self, network: Network) -> None:
        self.network = network
        names = {a for node in network.steps for a in node.arguments}
        found = {name: network.constant(name) for name in names}
        self.constants = {name: array for name, array in found.items() if array is not None}

    def start(self, drive: Mapping[str, Array]) -> None:
        """A new batch of samples; drive: the constant current of every encoder."""
        self.batch = len(next(iter(drive.values())))
        self.values: dict[str, Array] = dict(drive)
        self.states: dict[str, State] = {}

    def step(self, t: int) -> dict[str, Array]:
        """Everything that is sent at step t, by node; of a Readout: all that it has heard."""
        integer = self.network.integer
        for node in self.network.steps:
            arguments = [
                self.values[a] if a in self.values else self.constants[a]
                for a in node.arguments
                if a in self.values or a in self.constants
            ]
            if node.op == "Encode":
                continue
            if node.op == "Readout":
                number = np.int64 if integer else np.float64
                total = self.values.get(node.name, np.zeros(arguments[0].shape, number))
                heard = t > node.settings["start"]
                self.values[node.name] = total + arguments[0] if heard else total
            elif node.op in STATEFUL:
                state = self.states.get(node.name)
                if state is None:
                    state = initial(node, arguments[1:], self.batch, integer)
                sent, state = advance(node, arguments[0], arguments[1:], state, t, integer)
                self.states[node.name] = state
                self.values[node.name] = sent.astype(self.network.arithmetic, copy=False)
            elif node.op in SYNAPSES:
                self.values[node.name] = synapse(node, arguments, integer)
            else:
                self.values[node.name] = evaluate(node, arguments)
        return self.values


def blocks(samples: int, batch: int) -> Iterator[slice]:
    """The batches that samples are shown in."""
    return (slice(i, min(i + batch, samples)) for i in range(0, samples, batch))


def outputs(node: Node, totals: Array, t: int, exponent: Array | None) -> Array:
    """What a Readout says after step t, given all that it has heard, in the network's units."""
    if exponent is not None:
        totals = np.ldexp(totals.astype(np.float64), -exponent)
    return ops.readout(totals, t, mode=node.settings["mode"], start=node.settings["start"])
