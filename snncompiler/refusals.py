"""Why nodes are refused, in the domain's terms, and what no import can look past."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from snncompiler import gate
from snncompiler.diagnostics import InputError, Problem, refuse
from snncompiler.graph import attribute, constant, sources


def refuse_foreign(proto: onnx.ModelProto) -> None:
    """Refuse what cannot even be imported; everything else is judged after canonicalisation.

    Raises:
        InputError: with every such node, and the others that are known to fail.
    """
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
    """Refuse outputs of the network that nothing in it computes from the samples.

    Raises:
        InputError: with every such output.
    """
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


def refuse_huge(graph: onnx.GraphProto) -> None:
    """Refuse sizes that no memory holds: folding or running would try to allocate them.

    Raises:
        InputError: names the first such value.
    """
    for value in (*graph.value_info, *graph.output):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if math.prod(dims) > gate.MAX_ELEMENTS:
            raise refuse(
                f"the value '{value.name}' has shape {dims}",
                "a value must stay below 2^31 elements per sample",
                "look at the sizes in the network; export a smaller one",
            )


def refuse_infinite(model: ir.Model) -> None:
    """Refuse NaN and infinite weights, as they are after folding, wherever they came from.

    Raises:
        InputError: with every such tensor.
    """
    problems = []
    for name, value in model.graph.initializers.items():
        array = None if value.const_value is None else value.const_value.numpy()
        if array is None or array.dtype.kind != "f":
            continue
        bad = array.size - int(np.isfinite(array).sum())
        bounds = all(u.node.op_type in ("Clip", "Pad") and u.idx > 0 for u in value.uses())
        if bad and not (bounds and not np.isnan(array).any()):
            problems.append(
                Problem(
                    f"tensor '{name}' holds {bad} values that are not finite",
                    "NaN or infinite weights make every spike meaningless",
                    "look at the training run; export a checkpoint with finite weights",
                )
            )
    if problems:
        raise InputError(*problems)


def refuse_misfits(model: ir.Model) -> None:
    """Refuse empty results and biases of the wrong size.

    Neither onnx's checker nor onnxruntime looks: a bias too short is read beyond its end.

    Raises:
        InputError: with every such node.
    """
    problems = []
    for node in model.graph:
        dims = node.outputs[0].shape or ()
        if any(isinstance(d, int) and d <= 0 for d in dims):
            problems.append(
                Problem(
                    f"the result of '{sources(node)[0]}' has shape {[str(d) for d in dims]}",
                    "it holds no values",
                    "look at the sizes in the network",
                )
            )
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
            continue
        w, b = constant(node.inputs[1]), constant(node.inputs[2])
        groups = attribute(node, "group", 1)
        if w is None or b is None:
            continue
        channels = len(w) if node.op_type == "Conv" else w.shape[1] * groups
        if b.shape != (channels,):
            problems.append(
                Problem(
                    f"the bias of '{sources(node)[0]}' has shape {list(b.shape)}",
                    f"its weights make {channels} channels",
                    "export the network again",
                )
            )
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
        (
            *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
            *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        ),
        (
            "it rounds activations to a few bits, which spikes over time replace",
            "convert the float network that was quantised; 'snnc run --precision int8' and the "
            "integer targets of compile round the weights of a spiking one",
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
