"""From a trained ONNX file to the canonical ANN: opset 21, static shapes, dynamic batch.

    gate -> host tail cut off -> opset 21 -> constants folded at one batch size -> batch freed

Constants are folded with the batch fixed to one number, so that every shape computed by the
exporter's Shape-Gather-Concat chains becomes a constant; what the batch means in each op is then
told by the op's axes (`passes/simplify.py`), not guessed from numbers.
"""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer, version_converter

from snncompiler import gate
from snncompiler.ann import session
from snncompiler.diagnostics import InputError, Problem, refuse
from snncompiler.graph import Array, add_constant, attribute, constant, set_sources, sources
from snncompiler.ops import IR_VERSION, OPSET
from snncompiler.quantiser_patterns import recognise
from snncompiler.refusals import refuse_foreign, refuse_outputs
from snncompiler.tail import cut_tail

_BATCH = 32  # samples that onnxruntime gets at a time
_LARGE = 1 << 18  # elements; a file's smaller weights are not worth sharing


@dataclass
class Network:
    """A trained network on its way in.

    model: the canonical ANN. original: the file as read, its host tail cut off: the oracle.
    nodes: name and op of every original node, in order. host: the nodes of the tail.
    batch: the batch size hard-coded in the file, or None. opset: the file's. digest: its sha256.
    quantisers: how many quantised activations of the file are saturating ones in `model`.
    """

    model: ir.Model
    original: ir.Model
    nodes: list[tuple[str, str]]
    host: list[str] = field(default_factory=list)
    batch: int | None = None
    opset: int = OPSET
    digest: str = ""
    quantisers: int = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        value = self.model.graph.inputs[0]
        assert value.shape is not None
        return tuple(int(d) for d in list(value.shape)[1:])  # type: ignore[arg-type]

    def outputs(self, x: Array) -> list[Array]:
        """What the original network computes (before its host tail), by onnxruntime.

        Raises:
            InputError: onnxruntime cannot run it, or the results are not finite.
        """
        # A network may promise any batch and yet reshape to one sample.
        for step in [self.batch] if self.batch else [min(len(x), _BATCH), 1]:
            try:
                results = self._outputs(x, step)
                break
            except Exception as error:
                # onnxruntime raises its own RuntimeErrors, one class for each status.
                why = " ".join(str(error).split())[:300]
        else:
            raise refuse(
                "onnxruntime cannot run the trained network",
                why,
                "export it again; it must run in onnxruntime before it can be converted",
            )
        if not all(np.isfinite(y).all() for y in results):
            raise refuse(
                "the trained network computes NaN or infinite values",
                f"onnxruntime finds them in its outputs on {len(x)} samples",
                "look at the values of weights and samples",
            )
        return results

    def _outputs(self, x: Array, step: int) -> list[Array]:
        runner = session(self.original)
        feed = runner.get_inputs()[0].name
        parts = []
        for start in range(0, len(x), step):
            block = x[start : start + step]
            count = len(block)
            if self.batch and count < step:
                block = np.concatenate([block, np.zeros((step - count, *x.shape[1:]), x.dtype)])
            results = runner.run(None, {feed: block})
            if any(y.ndim == 0 or len(y) != len(block) for y in results):
                raise ValueError(f"{len(block)} samples give outputs of another number")
            parts.append([y[:count] for y in results])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def load(source: str | Path | onnx.ModelProto) -> Network:
    """Read, check and canonicalise a trained network.

    Raises:
        InputError: the file is unsafe, damaged, or built of what no import can handle.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
    else:
        proto = gate.read(source)
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    gate.check(proto)
    nodes = [(n.name, n.op_type) for n in proto.graph.node]
    refuse_foreign(proto)
    refuse_outputs(proto)
    _drop_initialiser_inputs(proto)
    host = cut_tail(proto)
    batch = _fix_batch(proto)
    opset = next(e.version for e in proto.opset_import if e.domain in ("", "ai.onnx"))
    shared = _take_weights(proto)
    model = _canonical(proto, batch or 1, shared)
    quantisers = recognise(model)
    original = _with_weights(proto, shared)
    return Network(model, original, nodes, host, batch, opset, digest, quantisers)


def _take_weights(proto: onnx.ModelProto) -> dict[str, ir.TensorProtocol]:
    """Large weights, taken out of the message: both models made of it read the same arrays."""
    taken: dict[str, ir.TensorProtocol] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > _LARGE:
            taken[tensor.name] = ir.Tensor(onnx.numpy_helper.to_array(tensor), name=tensor.name)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return taken


def _with_weights(proto: onnx.ModelProto, taken: dict[str, ir.TensorProtocol]) -> ir.Model:
    model = ir.from_proto(proto)
    for name, value in model.graph.initializers.items():
        if name in taken:
            value.const_value = taken[name]
    return model


def _drop_initialiser_inputs(proto: onnx.ModelProto) -> None:
    """Files of IR version 3 list every initialiser as an input too; then nothing is constant."""
    initialisers = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initialisers]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 4)


def _fix_batch(proto: onnx.ModelProto) -> int | None:
    """The batch size that the file hard-codes, if it does: as its input, or in a Resize.

    Such a Resize would make other batches of the batch that it is given, and mix samples.
    """
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    for node in proto.graph.node:
        whole = not any(a.name == "axes" for a in node.attribute)
        sizes = constants.get(node.input[3]) if len(node.input) > 3 else None
        if node.op_type == "Resize" and whole and sizes is not None:
            batch = int(onnx.numpy_helper.to_array(sizes).reshape(-1)[0])
            return batch if batch > 0 else None
    return None


def _canonical(proto: onnx.ModelProto, batch: int, taken: dict[str, ir.TensorProtocol]) -> ir.Model:
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
        _refuse_huge(fixed.graph)
        model = _with_weights(fixed, taken)
        _to_opset(model)
        _stamp(model, proto)
        _fold(model)
        _refuse_infinite(model)
        _refuse_misfits(model)
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


def _refuse_huge(graph: onnx.GraphProto) -> None:
    """Sizes that no memory holds: folding or running the network would try to allocate them."""
    for value in (*graph.value_info, *graph.output):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if math.prod(dims) > gate.MAX_ELEMENTS:
            raise refuse(
                f"the value '{value.name}' has shape {dims}",
                "a value must stay below 2^31 elements per sample",
                "look at the sizes in the network; export a smaller one",
            )


def _refuse_infinite(model: ir.Model) -> None:
    """Weights as they are after folding, wherever they came from."""
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


def _refuse_misfits(model: ir.Model) -> None:
    """Neither onnx's checker nor onnxruntime looks: a bias too short is read beyond its end."""
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
    _fold_fills(model)
    common.ShapeInferencePass()(model)
    optimizer.fold_constants(
        model,
        input_size_limit=gate.MAX_ELEMENTS,
        output_size_limit=gate.MAX_ELEMENTS,
        should_fold=_affordable,
    )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)


def _affordable(node: ir.Node) -> bool | None:
    """False for a constant that a few bytes would blow up beyond all memory."""
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
