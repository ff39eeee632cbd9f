"""What must hold after every pass: the IR is valid, finite, named and traceable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from snncompiler.diagnostics import Problem, VerificationError
from snncompiler.graph import KIND, constant, sources
from snncompiler.ops import DOMAIN, NEURONS, register


def verify(model: ir.Model, after: str) -> None:
    """Check a model after the pass named `after`.

    SSA, order and unique names; finite float32 weights; onnx.checker with full_check (our schemas
    included); every node names its original nodes; thresholds positive; exactly one int64 input T
    once the network spikes.

    Raises:
        VerificationError: with every violation found.
    """
    register()
    found = [*_structure(model), *_constants(model), *_spiking(model)]
    if not found:
        try:
            common.CheckerPass(full_check=True)(model)
        except Exception as error:
            # onnx_ir wraps the checker's errors in its own, several layers deep.
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            found = [" ".join(str(root).split())]
    if found:
        raise VerificationError(
            *(
                Problem(
                    f"the network is no longer valid after the pass '{after}'",
                    why,
                    "this is a defect of the compiler; please report it with the model",
                )
                for why in found
            )
        )


def _structure(model: ir.Model) -> list[str]:
    graph = model.graph
    seen = {v.name for v in graph.inputs} | set(graph.initializers)
    found = []
    for node in graph:
        for value in node.inputs:
            if value is not None and value.name not in seen:
                found.append(f"'{node.name}' reads '{value.name}' before it is computed")
        for value in node.outputs:
            if value.name in seen:
                found.append(f"the value name '{value.name}' is used twice")
            seen.add(value.name)
        if not sources(node):
            found.append(f"'{node.name}' ({node.op_type}) does not name the nodes it stands for")
        shape = node.outputs[0].shape
        if shape is None or any(not isinstance(d, int) for d in list(shape)[1:]):
            found.append(f"'{node.outputs[0].name}' has no fixed size")
    found += [f"the output '{v.name}' is not computed" for v in graph.outputs if v.name not in seen]
    names = Counter(n.name for n in graph)
    return found + [f"the node name '{n}' is used {c} times" for n, c in names.items() if c > 1]


def _constants(model: ir.Model) -> list[str]:
    found = []
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            found.append(f"the initialiser '{name}' has no value")
        elif value.dtype == ir.DataType.FLOAT and not np.isfinite(value.const_value.numpy()).all():
            found.append(f"the weights '{name}' are not finite")
        elif value.dtype not in (ir.DataType.FLOAT, ir.DataType.INT64):
            found.append(f"the constant '{name}' is {value.dtype}, neither float32 nor int64")
    return found


def _spiking(model: ir.Model) -> list[str]:
    found = []
    steps = [v for v in model.graph.inputs if v.dtype == ir.DataType.INT64]
    nodes = [n for n in model.graph if n.domain == DOMAIN]
    if nodes and len(steps) != 1:
        found.append(f"a spiking network has one input T, not {len(steps)}")
    for node in nodes:
        if node.inputs[-1] not in steps:
            found.append(f"'{node.name}' does not read the time steps T")
        if node.op_type in (*NEURONS, "TwinSynapse"):
            theta = constant(node.inputs[1])
            if theta is None or not (theta > 0).all():
                found.append(f"the thresholds of '{node.name}' are not positive constants")
            if node.outputs[0].metadata_props.get(KIND, "spikes") != "spikes":
                found.append(f"'{node.name}' does not emit spikes")
    return found


def checked_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a file would hold it, checked as a user would check it."""
    proto = ir.to_proto(model)
    register()
    onnx.checker.check_model(proto, full_check=True)
    return proto


def check_file(path: Path) -> None:
    """Check a file as a user would, without a second copy of it in memory."""
    register()
    onnx.checker.check_model(path, full_check=True)
