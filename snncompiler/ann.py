"""The trained network as onnxruntime runs it: oracle of every pass, source of statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir
import onnxruntime

from snncompiler.graph import Array, constant, data_inputs
from snncompiler.ops import IR_VERSION, OPSET

_LARGE = 1 << 20  # bytes; smaller weights stay in the model


def session(
    model: ir.Model | onnx.ModelProto, outputs: Sequence[str] = (), *, exact: bool = True
) -> onnxruntime.InferenceSession:
    """An onnxruntime session; `outputs` are inner values to expose as further outputs.

    exact: graph optimisation off, so that nothing but the ops as written is computed. The model
    goes in as bytes, never as a path: onnxruntime would follow external data anywhere.
    """
    proto, weights = _apart(model)
    if outputs:
        proto = with_outputs(proto, outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not logged
    # Many sessions come and go here; threads that wait busily would slow whatever comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights:
        # Packed anew for every run, a large weight costs time; packed once, its size again.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False  # it grows by powers of two
    return _Session(proto.SerializeToString(), options, weights)


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that is shown its large weights with every input, where they are."""

    def __init__(
        self, model: bytes, options: onnxruntime.SessionOptions, weights: dict[str, Array]
    ) -> None:
        super().__init__(model, options, providers=["CPUExecutionProvider"])
        self._held = weights

    def run(self, names: Sequence[str] | None, feeds: dict[str, Array]) -> list[Array]:
        """The values of these names, None: all outputs."""
        found: list[Array] = super().run(names, {**feeds, **self._held})
        return found


def _apart(model: ir.Model | onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with its large weights as further inputs, and those by name.

    onnxruntime reads them where they are; within the model's bytes it would hold them three times.
    """
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    held = {
        name: (value, value.const_value)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.uses()
        and value.dtype == ir.DataType.FLOAT
        and value.const_value.nbytes > _LARGE
    }
    weights = {n: np.ascontiguousarray(tensor.numpy()) for n, (_, tensor) in held.items()}
    try:
        for name, (value, tensor) in held.items():
            value.const_value = ir.ExternalTensor(
                "memory",
                0,
                tensor.nbytes,
                ir.DataType.FLOAT,
                shape=ir.Shape(weights[name].shape),
                name=name,
            )
        proto = ir.to_proto(model)
    finally:
        for value, tensor in held.values():
            value.const_value = tensor
    graph, float32 = proto.graph, onnx.TensorProto.FLOAT
    for field in (graph.initializer, graph.input):  # old files name weights among the inputs
        kept = [item for item in field if item.name not in weights]
        del field[:]
        field.extend(kept)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(n, float32, w.shape) for n, w in weights.items()
    )
    return proto, weights


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model whose outputs are its own, then the float values `names`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    have = {o.name for o in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
        for n in dict.fromkeys(names)
        if n not in have
    )
    return copy


def run(
    model: ir.Model | onnx.ModelProto, x: Array, outputs: Sequence[str] = (), batch: int = 32
) -> dict[str, Array]:
    """All outputs, and the inner values named, on all samples."""
    parts = list(stream(model, x, outputs, batch))
    # What has been joined is dropped at once: memory holds all values once, and one of them twice.
    return {name: np.concatenate([p.pop(name) for p in parts]) for name in list(parts[0])}


def stream(
    model: ir.Model | onnx.ModelProto, x: Array, outputs: Sequence[str] = (), batch: int = 32
) -> Iterator[dict[str, Array]]:
    """Run the network batch by batch; each item holds the outputs and the inner values named."""
    runner = session(model, outputs)
    feed = runner.get_inputs()[0].name
    names = [o.name for o in runner.get_outputs()]
    for start in range(0, len(x), batch):
        yield dict(zip(names, runner.run(names, {feed: x[start : start + batch]}), strict=True))


def relative_error(measured: Array, expected: Array) -> float:
    """max |measured - expected| / max |expected| (0 if both are 0)."""
    top = float(np.max(np.abs(expected), initial=0.0))
    difference = float(np.max(np.abs(measured - expected), initial=0.0))
    return difference if top == 0 else difference / top


def probe(node: ir.Node, inputs: Sequence[Array], opset: int = OPSET) -> list[Array]:
    """Run one node alone on arrays, one for each of its data inputs in order."""
    proto = ir.serde.serialize_node(node)
    del proto.metadata_props[:]
    feeds = dict(zip([str(v.name) for v in data_inputs(node)], inputs, strict=True))
    info = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [proto],
        "probe",
        [info(name, float32, None) for name in feeds],
        [info(str(v.name), float32, None) for v in node.outputs],
        [
            onnx.numpy_helper.from_array(array, v.name)
            for v in node.inputs
            if v is not None and (array := constant(v)) is not None
        ],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    results: list[Array] = session(model).run(None, feeds)
    return results
