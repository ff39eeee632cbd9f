"""Recognise quantised activations in networks trained elsewhere, however they are spelled.

Exporters write one and the same function (QCFS of Bu et al. 2022, PACT, LSQ and their kin) as many
chains of Clip, Div, Mul, Add, Floor or Round, Relu, Min and Max. So chains are not compared with
patterns but computed: around every Floor or Round the elementwise ops with constants are followed
in both directions, as an affine map with bounds per channel,

    n = floor(a z + b)  in [low, high],    y = c n + e,

and the chain is a quantised activation if a c = 1, e = 0, high is a whole number T of levels and
low is 0 (or -T behind a LeakyRelu). Then theta = T c, and a shift b other than 1/2 becomes a bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from snncompiler.graph import (
    Array,
    add_constant,
    bypass,
    constant,
    graph_of,
    is_op,
    make_node,
    rank,
    sole_user,
    sources,
)
from snncompiler.graph import replace as put_in_place
from snncompiler.graph import set_sources as name_sources
from snncompiler.quantisers import limit, spread_out

_ROUNDING = ("Floor", "Round")
_LEAKY = ("LeakyRelu", "PRelu")
#: How far float32 constants may be from the exact ones.
_CLOSE = 1e-3


@dataclass(frozen=True)
class _Map:
    """v = a z + b, kept within [low, high]; every field [C] or [1]."""

    a: Array
    b: Array
    low: Array
    high: Array

    def scaled(self, k: Array) -> _Map:
        return _Map(self.a * k, self.b * k, self.low * k, self.high * k)

    def shifted(self, k: Array) -> _Map:
        return _Map(self.a, self.b + k, self.low + k, self.high + k)

    def clipped(self, low: Array, high: Array) -> _Map:
        return replace(self, low=np.clip(self.low, low, high), high=np.clip(self.high, low, high))


_IDENTITY = _Map(np.ones(1), np.zeros(1), np.full(1, -np.inf), np.full(1, np.inf))


@dataclass(frozen=True)
class _Quantiser:
    """A recognised chain: its nodes in order, what it reads, the leaky rectifier it begins with."""

    nodes: tuple[ir.Node, ...]
    x: ir.Value
    leaky: ir.Node | None
    theta: Array
    shift: Array


def recognise(model: ir.Model) -> int:
    """Bring every quantised activation to its canonical form (`quantisers.limit`); how many."""
    found = 0
    rounding = [n for n in model.graph if n.op_type in _ROUNDING]
    if rounding:
        _drop_straight_through(model)
    for node in rounding:
        if node.graph is None:
            continue
        quantiser = _around(node)
        if quantiser is not None:
            _put(quantiser)
            found += 1
    return found


def _drop_straight_through(model: ir.Model) -> None:
    """x + (q - x) and q - (q - x), how straight-through estimators are exported, are q and x."""
    for error in [n for n in model.graph if n.op_type == "Sub"]:
        if error.graph is None:
            continue  # it was such an end
        q, x = error.inputs
        for last in [use.node for use in error.outputs[0].uses()]:
            value = None
            if last.op_type == "Add" and {*last.inputs} == {x, error.outputs[0]}:
                value = q
            elif last.op_type == "Sub" and (*last.inputs,) == (q, error.outputs[0]):
                value = x
            if value is not None:
                same = make_node("Identity", [value], name=str(last.name))
                put_in_place([last], [same])
                bypass(same)
        if not error.outputs[0].uses() and not error.outputs[0].is_graph_output():
            graph_of(error).remove(error, safe=True)


def _around(node: ir.Node) -> _Quantiser | None:
    """The longest beginning and the shortest end that make a quantiser of a rounding node."""
    before, after = _before(node), _after(node)
    for start in range(len(before) + 1):
        leaky = before[start] if start < len(before) and before[start].op_type in _LEAKY else None
        inner = before[start + 1 :] if leaky else before[start:]
        counted = _count(node, inner)
        if counted is None:
            continue
        head = before[start] if start < len(before) else node
        x = next(v for v in head.inputs if v is not None and constant(v) is None)
        for end in range(len(after) + 1):
            sent = _follow(_IDENTITY, after[:end])
            if sent is None:
                break
            nodes = (*before[start:], node, *after[:end])
            found = _judge(nodes, x, leaky, counted, sent)
            if found is not None:
                return found
    return None


def _judge(
    nodes: tuple[ir.Node, ...], x: ir.Value, leaky: ir.Node | None, counted: _Map, sent: _Map
) -> _Quantiser | None:
    step = sent.a
    if not (step > 0).all() or (np.abs(counted.a * step - 1) > _CLOSE).any():
        return None
    if (np.abs(sent.b) > _CLOSE * step).any():
        return None
    low = np.maximum(counted.low, np.ceil(sent.low / step - _CLOSE))
    high = np.minimum(counted.high, np.floor(sent.high / step + _CLOSE))
    levels = float(high.max())
    if not np.isfinite(levels) or levels < 1 or (high != levels).any():
        return None
    signed = leaky is not None and (low == -levels).all()
    if not signed and (low != 0).any():
        return None
    shift = (counted.b - 0.5) * step
    return _Quantiser(nodes, x, leaky if signed else None, levels * step, shift)


def _count(node: ir.Node, before: Sequence[ir.Node]) -> _Map | None:
    """The map z -> a z + b whose floor is what a rounding node gives."""
    found = _follow(_IDENTITY, before)
    if found is None:
        return None
    half = 0.5 if node.op_type == "Round" else 0.0
    with np.errstate(invalid="ignore"):
        low, high = (np.floor(v + half + _CLOSE / 2) for v in (found.low, found.high))
    return _Map(found.a, found.b + half, low, high)


def _follow(start: _Map, nodes: Sequence[ir.Node]) -> _Map | None:
    result: _Map | None = start
    for node in nodes:
        result = None if result is None else _apply(result, node)
    return result


def _apply(v: _Map, node: ir.Node) -> _Map | None:
    if node.op_type == "Relu":
        return v.clipped(np.zeros(1), np.full(1, np.inf))
    if node.op_type == "Clip":
        bounds = [np.full(1, -np.inf), np.full(1, np.inf)]
        for i, given in enumerate(node.inputs[1:3]):
            if given is not None:
                bounds[i] = np.asarray(constant(given), np.float64).reshape(-1)
        return v.clipped(bounds[0], bounds[1])
    k = _vector(node)
    if k is None:
        return None
    match node.op_type:
        case "Mul":
            return v.scaled(k) if (k > 0).all() else None
        case "Div":
            return v.scaled(1 / k) if (k > 0).all() else None
        case "Add":
            return v.shifted(k)
        case "Sub":
            return v.shifted(-k)
        case "Min":
            return v.clipped(np.full(1, -np.inf), k)
        case "Max":
            return v.clipped(k, np.full(1, np.inf))
    return None


def _vector(node: ir.Node) -> Array | None:
    """The constant of a binary op as [C] or [1]; None if it differs in other ways."""
    first, second = node.inputs[0], node.inputs[1]
    if node.op_type in ("Div", "Sub") and constant(second) is None:
        return None
    given = constant(second)
    value = first if given is not None else second
    given = constant(first) if given is None else given
    if given is None or value is None or value.shape is None or given.ndim > rank(value):
        return None
    dims = (1,) * (rank(value) - given.ndim) + given.shape
    if any(d != 1 for axis, d in enumerate(dims) if axis != 1):
        return None
    return given.astype(np.float64).reshape(-1)


def _is_link(node: ir.Node | None) -> bool:
    """Whether a node maps one value elementwise, with constants."""
    if is_op(node, "Relu", "Clip"):
        assert node is not None
        return all(v is None or constant(v) is not None for v in node.inputs[1:])
    if not is_op(node, "Mul", "Div", "Add", "Sub", "Min", "Max"):
        return False
    assert node is not None
    return len(node.inputs) == 2 and sum(constant(v) is None for v in node.inputs) == 1


def _before(node: ir.Node) -> list[ir.Node]:
    """The elementwise ops in front of a rounding node, in order, a leaky rectifier at the most."""
    chain: list[ir.Node] = []
    value = node.inputs[0]
    while value is not None and sole_user(value) is not None:
        producer = value.producer()
        leaky = is_op(producer, *_LEAKY)
        if producer is None or not (leaky or _is_link(producer)):
            break
        chain.insert(0, producer)
        if leaky:
            break
        value = next((v for v in producer.inputs if v is not None and constant(v) is None), None)
    return chain


def _after(node: ir.Node) -> list[ir.Node]:
    return list(_users(node.outputs[0]))


def _users(value: ir.Value) -> Iterator[ir.Node]:
    user = sole_user(value)
    while user is not None and _is_link(user):
        yield user
        user = sole_user(user.outputs[0])


def _put(found: _Quantiser) -> None:
    last, x = found.nodes[-1], found.x
    graph, nodes = graph_of(last), list(found.nodes)
    if (np.abs(found.shift) > _CLOSE * found.theta).any():
        level = add_constant(graph, f"{last.name}_shift", spread_out(found.shift, x))
        add = make_node("Add", [x, level], name=f"{last.name}_shift")
        name_sources(add, sources(*nodes))
        add.outputs[0].name, add.outputs[0].shape = f"{last.name}_shifted", x.shape
        add.outputs[0].type = x.type
        graph.insert_before(nodes[0], add)
        x = add.outputs[0]
    limit(nodes, x, found.leaky, found.theta)
