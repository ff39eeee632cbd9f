"""A network of any opset in the one that passes know: opset 21, constants folded, shapes known.

Constants are folded with the batch fixed to one number, so that every shape computed by the
exporter's Shape-Gather-Concat chains becomes a constant; what the batch means in each op is then
told by the op's axes (`passes/simplify.py`), not guessed from numbers.
"""

from __future__ import annotations

import logging
import math
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer, version_converter

from snncompiler import gate
from snncompiler.diagnostics import InputError, refuse
from snncompiler.graph import add_constant, constant, set_sources, sources
from snncompiler.ops import IR_VERSION, OPSET
from snncompiler.refusals import refuse_huge, refuse_infinite, refuse_misfits


def canonicalise(
    proto: onnx.ModelProto, batch: int, taken: dict[str, ir.TensorProtocol]
) -> ir.Model:
    """The network in opset 21, its constants folded for one batch size, every node traceable.

    taken: the large weights, which the message itself lacks, by name.

    Raises:
        InputError: a converter cannot handle it, or sizes or weights make no sense.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    for entry in fixed.opset_import:
        # Opsets 22 and 23 widened types of the ops we convert, not their meaning.
        entry.version = min(entry.version, OPSET) if entry.domain in ("", "ai.onnx") else 1
    # What is noted here follows; notes from elsewhere must not be taken for ours.
    notes = (fixed, fixed.graph, *fixed.graph.node, *fixed.graph.input, *fixed.graph.output)
    for item in (*notes, *fixed.graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        _infer_shapes(fixed)
        refuse_huge(fixed.graph)
        model = with_weights(fixed, taken)
        _to_opset(model)
        _stamp(model, proto)
        _fold(model)
        refuse_infinite(model)
        refuse_misfits(model)
    except InputError:
        raise
    except Exception as error:
        # The converters of onnx and onnxscript raise many kinds of errors for what they cannot do.
        raise refuse(
            "the network cannot be brought to opset 21",
            " ".join(str(error).split())[:300],
            "export it again with opset 17 and fixed image dimensions",
        ) from error
    return model


def _infer_shapes(proto: onnx.ModelProto) -> None:
    """Note the shapes of all values; large weights are left out, for they would be copied about."""
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    for tensor in lean.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > 1024:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    inferred = onnx.shape_inference.infer_shapes(lean).graph
    proto.graph.value_info.extend(inferred.value_info)
    for output, known in zip(proto.graph.output, inferred.output, strict=True):
        output.CopyFrom(known)


def with_weights(proto: onnx.ModelProto, taken: dict[str, ir.TensorProtocol]) -> ir.Model:
    """A model of the message, with the large weights that were taken out of it."""
    model = ir.from_proto(proto)
    for name, value in model.graph.initializers.items():
        if name in taken:
            value.const_value = taken[name]
    return model


def _to_opset(model: ir.Model) -> None:
    for name in ("onnxscript.version_converter", "onnx_ir.passes.common.shape_inference"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = model.graph.opset_imports.get("", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model.graph.opset_imports.get("", 0) != OPSET:
            version_converter.ConvertVersionPass(OPSET, fallback=True)(model)
    if model.graph.opset_imports.get("", 0) != OPSET:
        raise refuse(
            "the network cannot be brought to opset 21",
            "one of its operators has no conversion",
            "export it again with opset 17",
        )
    if before < 11:
        # Up to opset 10, resizing was asymmetric; the converter leaves that to the new default.
        for node in model.graph:
            if node.op_type == "Resize":
                mode = ir.AttrString("coordinate_transformation_mode", "asymmetric")
                node.attributes["coordinate_transformation_mode"] = mode
                node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
    model.ir_version = IR_VERSION
    common.RemoveInitializersFromInputsPass()(model)


def _stamp(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Let every node know the original it stands for.

    The version converter keeps value names but not always node names, and may insert helpers;
    a helper stands for the node whose result it prepares.
    """
    producers = {v: n.name for n in proto.graph.node for v in n.output if v}
    names = {n.name for n in proto.graph.node}
    nodes = list(model.graph)
    stands: dict[str, ir.Node] = {}
    for node in nodes:
        found = [producers[v.name] for v in node.outputs if v.name in producers]
        if found or node.name in names:
            set_sources(node, found or [str(node.name)])
            stands.update((name, node) for name in sources(node))
    for original in reversed(proto.graph.node):
        # Some converters rename the result; then whoever reads it tells which node computes it.
        reader = stands.get(original.name)
        for i, name in enumerate(original.input):
            value = reader.inputs[i] if reader and i < len(reader.inputs) else None
            found_node = value.producer() if value is not None else None
            lost = producers.get(name)
            if lost and lost not in stands and found_node and not sources(found_node):
                set_sources(found_node, [lost])
                stands[lost] = found_node
    for node in reversed(nodes):
        if not sources(node):
            users = [u.node for v in node.outputs for u in v.uses()]
            set_sources(node, sources(*users) or [str(node.name)])
    for i, node in enumerate(nodes):
        if not node.name:
            node.name = (sources(node) or [f"{node.op_type}_{i}"])[0]


def _fold(model: ir.Model) -> None:
    """Compute what is constant; shapes that are known then may make more of it constant."""
    left = None
    while left != len(model.graph):
        left = len(model.graph)
        _fold_once(model)


def _fold_once(model: ir.Model) -> None:
    _fold_fills(model)
    common.ShapeInferencePass()(model)
    optimizer.fold_constants(
        model,
        input_size_limit=gate.MAX_ELEMENTS,
        output_size_limit=gate.MAX_ELEMENTS,
        should_fold=_is_computed,
    )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.ShapeInferencePass()(model)  # what was computed before may be a constant now


def _is_computed(node: ir.Node) -> bool | None:
    """Whether to compute a constant; None: as onnxscript sees fit.

    Never one that a few bytes would blow up beyond all memory. Weights kept as whole numbers,
    always: onnxscript would leave them so.
    """
    if node.op_type == "DequantizeLinear":
        return True
    if node.op_type not in ("Expand", "Tile"):
        return None
    times = constant(node.inputs[1])
    given = constant(node.inputs[0])
    if times is None or given is None:
        return None
    size = math.prod(int(t) for t in times) * (given.size if node.op_type == "Tile" else 1)
    return None if size <= gate.MAX_ELEMENTS else False


def _fold_fills(model: ir.Model) -> None:
    """ConstantOfShape makes the weights of some published test networks; onnxscript leaves it."""
    for node in list(model.graph):
        if node.op_type != "ConstantOfShape" or node.inputs[0] is None:
            continue
        target = ir.convenience.get_const_tensor(node.inputs[0])
        if target is None or math.prod(dims := target.numpy().tolist()) > gate.MAX_ELEMENTS:
            continue
        fill = node.attributes.get("value")
        value = np.float32(0) if fill is None else fill.as_tensor().numpy().reshape(-1)[0]
        output = node.outputs[0]
        filled = np.full(dims, value)
        new = add_constant(model.graph, f"{output.name}_filled", filled)
        ir.convenience.replace_all_uses_with(output, new)
        model.graph.remove(node, safe=True)
