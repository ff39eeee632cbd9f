"""The few questions and edits that passes and backends ask of an onnx_ir model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from snncompiler.ops import DOMAIN, functions

#: Node metadata: JSON list of the names of the original nodes it stands for.
SOURCE = "snn.source"
#: Value metadata: JSON list, the physical value of one unit per channel.
SCALE = "snn.scale"
#: Value metadata: 'spikes' or 'current'.
KIND = "snn.kind"
#: Node metadata: JSON list, the upper bound of a Clip that became a neuron, per channel.
CLIP = "snn.clip"

#: Linear ops whose constant weights can absorb a scale.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"})
#: Ops that only move, copy or drop values.
MOVEMENT = frozenset({"Reshape", "Flatten", "Transpose", "Concat", "Slice", "Pad", "Gather"})
#: Activations that become neurons.
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
#: Numbers of a large weight that are worked on at a time.
_BLOCK = 1 << 22

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array behind a value, or None if it depends on the input."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def weights(value: ir.Value | None) -> Array:
    """The array behind a value that is known to be constant."""
    array = constant(value)
    assert array is not None, f"{value and value.name} is not constant"
    return array


def weight_index(node: ir.Node) -> int:
    """Which input of a synapse, or of an Add of a constant, is the constant one."""
    return 0 if constant(node.inputs[0]) is not None else 1


def row_blocks(array: Array) -> list[slice]:
    """Rows of an array, few enough at a time for temporaries in double precision to be small."""
    rows = max(1, _BLOCK // max(1, array.size // max(1, len(array))))
    return [slice(start, start + rows) for start in range(0, len(array), rows)]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's Python value (lists for repeated ones), or the default."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return list(found.value) if isinstance(found.value, (tuple, list)) else found.value


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that depend on the graph's input, in order (one used twice counts twice)."""
    return [
        v
        for v in node.inputs
        if v is not None and constant(v) is None and v.dtype != ir.DataType.INT64
    ]


class UnknownShape(Exception):
    """Shape inference could not tell the size of a value."""


def shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of one sample: all axes but the batch.

    Raises:
        UnknownShape: shape inference gave no fixed sizes.
    """
    dims = [] if value.shape is None else list(value.shape)[1:]
    if value.shape is None or not all(isinstance(d, int) for d in dims):
        raise UnknownShape(value.name)
    return tuple(d for d in dims if isinstance(d, int))


def rank(value: ir.Value) -> int:
    """Number of axes, the batch included.

    Raises:
        UnknownShape: shape inference gave none.
    """
    if value.shape is None:
        raise UnknownShape(value.name)
    return len(value.shape)


def sources(*nodes: ir.Node) -> list[str]:
    """The original nodes that these stand for, each once."""
    names = (s for n in nodes for s in json.loads(n.metadata_props.get(SOURCE, "[]")))
    return list(dict.fromkeys(names))


def set_sources(node: ir.Node, names: Iterable[str]) -> None:
    """Say which original nodes this one stands for."""
    node.metadata_props[SOURCE] = json.dumps(list(dict.fromkeys(names)))


def timed_nodes(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Of nodes in order those that are computed at every step: the Encodes, and all behind them."""
    timed: set[ir.Value] = set()
    result = []
    for node in nodes:
        if is_op(node, "Encode") or any(v in timed for v in data_inputs(node)):
            timed.update(node.outputs)
            result.append(node)
    return result


def read_by_synapses(nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """Values that a synapse among these nodes reads, perhaps moved or added, before a neuron."""
    found: set[ir.Value] = set()
    for node in reversed(nodes):
        through = node.op_type in ("Add", *MOVEMENT) and node.outputs[0] in found
        if node.op_type in WEIGHTED or through:
            found.update(data_inputs(node))
    return found


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads the value, or None if there are more or it is an output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def unique_name(graph: ir.Graph, name: str) -> str:
    """`name`, or `name_1`, `name_2`, ... if a value bears it already."""
    taken = set(graph.initializers) | {v.name for v in graph.inputs}
    taken |= {v.name for node in graph for v in node.outputs}
    candidate, i = name, 0
    while candidate in taken:
        i += 1
        candidate = f"{name}_{i}"
    return candidate


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initialiser; its name is made unique. float64 is stored as float32."""
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):  # `verify` and `legal` tell of what is not finite
            array = array.astype(np.float32)
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape))
    i, unique = 0, name
    while unique in graph.initializers:
        i += 1
        unique = f"{name}_{i}"
    value = ir.Value(name=unique, const_value=tensor, shape=ir.Shape(array.shape))
    value.type = ir.TensorType(tensor.dtype)
    graph.register_initializer(value)
    return value


def make_node(
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    domain: str = "",
) -> ir.Node:
    """A node with one output that bears no name yet."""
    return ir.node(op, list(inputs), dict(attributes or {}), domain=domain, name=name)


def replace(old: Sequence[ir.Node], new: Sequence[ir.Node]) -> None:
    """Put `new` in the place of `old`; the last output of each correspond.

    The output keeps its name, type and metadata; new nodes stand for all sources of the old ones
    unless they name their own.
    """
    names = sources(*old)
    for node in new:
        if SOURCE not in node.metadata_props:
            set_sources(node, names)
    graph = old[-1].graph
    assert graph is not None
    before, after = old[-1].outputs[0], new[-1].outputs[0]
    label = before.name
    after.shape = before.shape if after.shape is None else after.shape
    after.type = before.type
    after.metadata_props.update(before.metadata_props)
    for i, node in enumerate(new[:-1]):
        if node.outputs[0].name is None:
            node.outputs[0].name = unique_name(graph, f"{label}_{i}")
    outer = ir.convenience.replace_nodes_and_values
    outer(graph, old[-1], list(old), list(new), [before], [after])
    after.name = label


def bypass(node: ir.Node) -> None:
    """Remove a node that hands its first input on unchanged."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    graph = graph_of(node)
    if output.is_graph_output():
        # The interface keeps its name; the inner value, if it may, takes that name over.
        if source.is_graph_input() or source.is_graph_output() or constant(source) is not None:
            return
        label = output.name
        graph.outputs[[v is output for v in graph.outputs].index(True)] = source
        output.name = None
        source.name = label
    ir.convenience.replace_all_uses_with(output, source)
    graph.remove(node, safe=True)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph a node is in."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def define_ops(model: ir.Model) -> None:
    """Give a model the function bodies of our ops, and no others: what runs is what they mean."""
    model.functions.clear()
    for proto in functions():
        function = ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function


def is_op(node: ir.Node | None, *ops: str) -> bool:
    """Whether the node is one of these ops, of ONNX or of our domain."""
    return node is not None and node.domain in ("", DOMAIN) and node.op_type in ops


def scale_of(value: ir.Value) -> NDArray[np.float64] | None:
    """The per-channel scale annotated on a value, or None."""
    text = value.metadata_props.get(SCALE)
    return None if text is None else np.array(json.loads(text), np.float64)


def set_scale(value: ir.Value, scale: Array) -> None:
    """Annotate the physical value of one unit, per channel."""
    value.metadata_props[SCALE] = json.dumps([float(s) for s in np.ravel(scale)])
