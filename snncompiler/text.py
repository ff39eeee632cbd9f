"""The model as text: a compact form for people and diffs, and ONNX text that parses back."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import onnx.printer
import onnx_ir as ir

from snncompiler.diagnostics import clean
from snncompiler.graph import KIND, Array, constant, scale_of, sources
from snncompiler.latency import SCHEDULE
from snncompiler.ops import DOMAIN, functions
from snncompiler.record import record_of


def compact(model: ir.Model) -> str:
    """One line per node: value, shape, op, inputs, attributes; kind, scale; original nodes.

    Weights follow their node as shape, min, mean, max and the beginning of a hash.
    """
    return "\n".join(clean(line) for line in _lines(model)) + "\n"


def _lines(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    imports = ", ".join(f"{k or 'onnx'} {v}" for k, v in model.graph.opset_imports.items())
    yield f"network {graph.name} ({imports})"
    yield "inputs  " + ", ".join(f"%{v.name}:{_dims(v)}" for v in graph.inputs)
    for node in graph:
        yield _node(node)
        for value in node.inputs:
            array = constant(value)
            if array is not None and value is not None:
                yield f"    @{value.name} = {_summary(array)}"
    yield "outputs " + ", ".join(f"%{v.name}:{_dims(v)}" for v in graph.outputs)


def _node(node: ir.Node) -> str:
    output = node.outputs[0]
    operands = ", ".join(
        "_" if v is None else f"{'%' if constant(v) is None else '@'}{v.name}" for v in node.inputs
    )
    settings = " ".join(
        f"{a.name}={list(a.value) if isinstance(a.value, (tuple, list)) else a.value}"
        for a in sorted(node.attributes.values(), key=lambda a: a.name)
    )
    line = f"%{output.name}:{_dims(output)} = {node.domain + '.' if node.domain else ''}"
    line += f"{node.op_type}({operands})" + (f" {{{settings}}}" if settings else "")
    notes = [output.metadata_props[KIND]] if KIND in output.metadata_props else []
    scale = scale_of(output)
    if scale is not None and len(scale):
        low, high = scale.min(), scale.max()
        notes.append(
            f"scale {low:.5g}" if low == high else f"scale[{len(scale)}] {low:.5g}..{high:.5g}"
        )
    if SCHEDULE in node.metadata_props:
        late = json.loads(node.metadata_props[SCHEDULE])
        notes.append(f"hop {late['hop']}" + f" waits {late['waits']}" * any(late["waits"]))
    return "  ; ".join([line, *notes]) + f"  // {'+'.join(sources(node))}"


def _dims(value: ir.Value) -> str:
    if value.shape is None:
        return "?"
    dims = (d.value if isinstance(d, ir.SymbolicDim) else d for d in value.shape)
    return "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"


def _summary(array: Array) -> str:
    kind = f"{array.dtype}{list(array.shape)}"
    if array.size <= 4:
        return f"{kind} {array.reshape(-1).tolist()}"
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]
    if array.dtype.kind in "iu":
        return f"{kind} #{digest}"
    low, mean, high = array.min(), array.mean(dtype=np.float64), array.max()
    return f"{kind} min {low:.4g} mean {mean:.4g} max {high:.4g} #{digest}"


def diff(before: str, after: str, names: tuple[str, str]) -> str:
    """A unified diff of two compact texts."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=1)
    return "\n".join(lines) + "\n"


def onnx_text(model: ir.Model | onnx.ModelProto) -> str:
    """The model in ONNX's own text format, complete with weights; `parse` reads it back.

    The printer keeps neither documentation strings nor the metadata of nodes and values; values,
    attributes, functions and the model's own metadata survive.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(ir.to_proto(model) if isinstance(model, ir.Model) else model)
    # The function bodies are the same in every file and come back when the text is parsed.
    del copy.functions[:]
    text: str = onnx.printer.to_text(copy)
    return text


def parse(text: str) -> onnx.ModelProto:
    """Read `onnx_text` back; the domain's function bodies are put in again."""
    proto = onnx.parser.parse_model(text)
    if any(e.domain == DOMAIN for e in proto.opset_import):
        proto.functions.extend(functions())
    return proto


def as_json(model: ir.Model) -> dict[str, object]:
    """The graph as plain data: inputs, outputs, nodes with attributes, sources, kinds, scales."""
    return {
        "record": record_of(model),
        "inputs": {str(v.name): _dims(v) for v in model.graph.inputs},
        "outputs": {str(v.name): _dims(v) for v in model.graph.outputs},
        "nodes": [
            {
                "name": str(n.name),
                "op": f"{n.domain}.{n.op_type}" if n.domain else n.op_type,
                "inputs": [None if v is None else str(v.name) for v in n.inputs],
                "output": str(n.outputs[0].name),
                "shape": _dims(n.outputs[0]),
                "attributes": {
                    a.name: list(a.value) if isinstance(a.value, (tuple, list)) else a.value
                    for a in n.attributes.values()
                },
                "sources": sources(n),
                "kind": n.outputs[0].metadata_props.get(KIND),
                "scale": None if (s := scale_of(n.outputs[0])) is None else s.tolist(),
                "constants": {
                    str(v.name): _summary(a)
                    for v in n.inputs
                    if v and (a := constant(v)) is not None
                },
            }
            for n in model.graph
        ],
    }
