"""Why nodes are refused, in the domain's terms, and those that no import can look past."""

from __future__ import annotations

import onnx

from snncompiler.diagnostics import InputError, Problem


def refuse_foreign(proto: onnx.ModelProto) -> None:
    """Nodes that cannot even be imported; everything else is judged after canonicalisation."""
    problems = []
    for node in proto.graph.node:
        what = f"cannot convert '{node.op_type}' at node '{node.name}'"
        if node.domain not in ("", "ai.onnx"):
            why = f"it belongs to the domain '{node.domain}', whose meaning is not known here"
            do = "export with standard ONNX operators only"
            problems.append(Problem(what, why, do, node.name))
        elif any(a.HasField("g") or a.graphs for a in node.attribute):
            why = "control flow depends on data; a spiking network has a fixed wiring"
            do = "export the network with the branch or loop unrolled"
            problems.append(Problem(what, why, do, node.name))
        elif node.op_type in ("RNN", "LSTM", "GRU"):
            why = "it keeps a state over a sequence of its own and gates by products"
            problems.append(Problem(what, why, "use a feed-forward network", node.name))
    if problems:
        # The others that are known to fail join the list, so that nobody fixes them one by one.
        named = {p.node for p in problems}
        problems += [
            Problem(f"cannot convert '{n.op_type}' at node '{n.name}'", *REASONS[n.op_type], n.name)
            for n in proto.graph.node
            if n.op_type in REASONS and n.name not in named
        ]
        raise InputError(*problems)


def refuse_outputs(proto: onnx.ModelProto) -> None:
    """Outputs of the network that nothing in it computes from the samples."""
    graph = proto.graph
    image = next(i.name for i in graph.input if i.name not in {t.name for t in graph.initializer})
    moved, masks = {image}, set()
    for node in graph.node:
        if moved.intersection(node.input):
            moved.update(node.output)
        if node.op_type == "Dropout":
            masks.update(node.output[1:])
    whys = {
        **{o.name: "it does not depend on the input" for o in graph.output if o.name not in moved},
        **dict.fromkeys(masks, "it is the mask of a Dropout, which drops nothing in inference"),
        image: "it is the input itself",
    }
    do = "take it off the outputs of the network"
    problems = [
        Problem(f"cannot read out '{o.name}'", whys[o.name], do)
        for o in graph.output
        if o.name in whys
    ]
    if problems:
        raise InputError(*problems)


#: op: (why no spiking network computes it, what to do instead)
REASONS: dict[str, tuple[str, str]] = {
    "LRN": (
        "it divides by a data-dependent norm; no integrate-and-fire network computes that",
        "retrain with BatchNormalization, or export without it",
    ),
    **dict.fromkeys(
        ("InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization"),
        (
            "it normalises by statistics of the data itself; thresholds are fixed after training",
            "retrain with BatchNormalization",
        ),
    ),
    **dict.fromkeys(
        ("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus", "Elu", "Selu", "Celu", "Gelu"),
        (
            "a firing rate is piecewise linear in its current; this curve is not",
            "retrain with Relu, LeakyRelu or Clip; at the end of the network it may stay",
        ),
    ),
    **dict.fromkeys(
        ("Floor", "Round", "Ceil"),
        (
            "it rounds, and with the ops around it is no activation that saturates at 0 and at a "
            "whole number of steps",
            "quantise as theta / T * clip(round(x * T / theta), 0, T), or retrain with Relu",
        ),
    ),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax"),
        (
            "it divides by a sum over the data; inside the network no neuron computes that",
            "only as the last step, where the host applies it to the readout",
        ),
    ),
}
