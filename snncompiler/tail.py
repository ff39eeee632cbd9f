"""The tail of a network that the host applies to the accumulated readout: Softmax and the like."""

from __future__ import annotations

import onnx
import onnx.helper

#: Ops that the host applies to the accumulated readout when nothing but movement follows them.
HOST_OPS = frozenset(
    "Softmax LogSoftmax Sigmoid HardSigmoid Tanh ArgMax Relu Clip LeakyRelu PRelu".split()
)
_PASSABLE = frozenset(
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose Concat".split()
)


def cut_tail(proto: onnx.ModelProto) -> list[str]:
    """Cut off what the host applies to the readout; returns the names of the nodes cut."""
    graph = proto.graph
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.name)
    outputs = {o.name for o in graph.output}
    ends: set[str] = set()  # nodes after which nothing but the host's work follows
    tail: set[str] = set()
    for node in reversed(graph.node):
        results = [v for v in node.output if v]
        only = all(u in ends for v in results for u in users.get(v, []))
        used = any(v in outputs or v in users for v in results)
        if only and used and node.op_type in HOST_OPS | _PASSABLE:
            ends.add(node.name)
    image = graph.input[0].name
    dynamic = {image}  # values that depend on the data
    cut: dict[str, list[str]] = {}  # value -> the values before the tail that it is made of
    for node in graph.node:
        given = [v for v in node.input if v in dynamic]
        if given:
            dynamic.update(v for v in node.output if v)
        begins = node.op_type in HOST_OPS or any(v in cut for v in given)
        if node.name in ends and given and begins:
            tail.add(node.name)
            before = [b for v in given for b in cut.get(v, [v])]
            cut.update((v, before) for v in node.output if v)
    names = list(dict.fromkeys(b for o in graph.output for b in cut.get(o.name, [o.name])))
    if not tail or image in names:
        return []  # there is no tail, or nothing to read out before it
    kept = {o.name: o for o in graph.output}
    kinds = [
        kept.get(n) or onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
        for n in names
    ]
    del graph.output[:]
    graph.output.extend(kinds)
    nodes = [n for n in graph.node if n.name not in tail]
    removed = [n.name for n in graph.node if n.name in tail]
    del graph.node[:]
    graph.node.extend(nodes)
    return removed
