"""One spelling for every operation, and nothing that does nothing.

1. Identity, Dropout and Cast hand their input on: dropped.
2. Reshape, Flatten, Squeeze and Unsqueeze keep the batch in front: Flatten, or Reshape to
   [0, ...]. Anything that would mix samples is refused, told by its axes.
3. Split and Slice become Slice with explicit axes, or Gather for negative steps.
4. Sum becomes Add; a - b of two activations becomes a + (-1) b; a smaller operand is spread by
   a multiplication with ones.
5. MatMul by a constant becomes Gemm or Conv where it is one; Gemm gets alpha = beta = 1,
   transA = 0, transB = 1.
6. Clip(0, inf) is Relu; slopes of LeakyRelu and PRelu are per channel, in [0, 1].
7. Resize to sizes of every axis but the batch.
8. MaxPool followed by an activation: swapped, for max commutes with every monotone function and
   spikes are what can be pooled exactly.

While this pass runs, the batch has the one size that constants were folded with; at its end the
batch axis becomes dynamic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import (
    UNMIXED,
    Context,
    Refusal,
    Rewrite,
    infer_shapes,
    operand,
    parameter,
    rewrite,
)
from passes.reshaping import RESHAPING
from snncompiler.graph import (
    ACTIVATIONS,
    SCALE,
    Array,
    UnknownShape,
    add_constant,
    attribute,
    bypass,
    constant,
    graph_of,
    is_op,
    make_node,
    rank,
    replace,
    scale_of,
    set_scale,
    shape,
    sole_user,
)
from snncompiler.quantisers import LIMITS


@dataclass(frozen=True)
class Simplify:
    """Bring every operation to one spelling."""

    name: ClassVar[str] = "simplify"

    def run(self, model: ir.Model, context: Context) -> str:
        """Rewrite until nothing changes: a swap may bring another pool before an activation."""
        changes = rewrite(model, context, _RULES)
        while swapped := rewrite(model, context, _SWAPS):
            changes += swapped
        for value in model.graph.inputs:
            assert value.shape is not None
            value.shape = ir.Shape(["N", *list(value.shape)[1:]])
        infer_shapes(model)
        return f"{changes} rewrites"


def _drop(node: ir.Node, _context: Context) -> bool:
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Refusal("its mask output is used", "export the network in inference mode")
    training = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if training is not None and training.any():
        raise Refusal("it drops values at random", "export the network in inference mode")
    if node.outputs[0].is_graph_output() and operand(node, 0).is_graph_output():
        return False
    bypass(node)
    return node.graph is None


def _cast(node: ir.Node, context: Context) -> bool:
    if attribute(node, "to") != ir.DataType.FLOAT:
        raise Refusal("it leaves float32", "keep the whole network in float32")
    return _drop(node, context)


def _sum(node: ir.Node, context: Context) -> bool:
    if len(node.inputs) == 1:
        return _drop(node, context)
    total, new = operand(node, 0), []
    for i in range(1, len(node.inputs)):
        name = str(node.name) if i == len(node.inputs) - 1 else f"{node.name}_{i}"
        new.append(make_node("Add", [total, operand(node, i)], {}, name=name))
        total = new[-1].outputs[0]
        total.shape, total.type = node.outputs[0].shape, node.outputs[0].type
    replace([node], new)
    for add in new:
        _add(add, context)
    return True


def _add(node: ir.Node, _context: Context) -> bool:
    """Two activations: same shape on both sides, and Add instead of Sub."""
    a, b = operand(node, 0), operand(node, 1)
    if constant(a) is not None or constant(b) is not None:
        return False
    target = shape(node.outputs[0])
    if rank(a) != rank(b):
        raise Refusal("its operands have different ranks, so samples meet channels", UNMIXED)
    new: list[ir.Node] = []
    sides = []
    for value, sign in ((a, 1.0), (b, -1.0 if node.op_type == "Sub" else 1.0)):
        if sign == 1 and shape(value) == target:
            sides.append(value)
            continue
        dims = (1, *target) if shape(value) != target else (1,) * rank(value)
        factor = add_constant(graph_of(node), f"{node.name}_sign", np.full(dims, sign, np.float32))
        new.append(make_node("Mul", [value, factor], {}, name=f"{node.name}_sign"))
        new[-1].outputs[0].shape, new[-1].outputs[0].type = node.outputs[0].shape, value.type
        sides.append(new[-1].outputs[0])
    if not new and node.op_type == "Add":
        return False
    new.append(make_node("Add", sides, {}, name=str(node.name)))
    replace([node], new)
    return True


def _negate(node: ir.Node, _context: Context) -> bool:
    minus = add_constant(graph_of(node), f"{node.name}_sign", np.full(1, -1, np.float32))
    replace([node], [make_node("Mul", [operand(node, 0), minus], {}, name=str(node.name))])
    return True


def _gemm(node: ir.Node, context: Context) -> bool:
    a = operand(node, 0)
    producer = a.producer()
    old = [node]
    if attribute(node, "transA", 0):
        undo = is_op(producer, "Transpose")
        if producer is None or not undo or attribute(producer, "perm", [1, 0]) != [1, 0]:
            raise Refusal("transA puts the batch on axis 1", UNMIXED)
        a = operand(producer, 0)
    if constant(a) is not None:
        raise Refusal("its left factor is constant, so the batch is on axis 1", UNMIXED)
    w = parameter(node, 1, "weight")
    if (alpha := attribute(node, "alpha", 1.0)) != 1:
        w = w.astype(np.float64) * alpha
    w = w if attribute(node, "transB", 0) else w.T
    third = node.inputs[2] if len(node.inputs) > 2 else None
    c = constant(third)
    beta = attribute(node, "beta", 1.0)
    graph = graph_of(node)
    bias, new = np.zeros(len(w)), []
    if c is not None:
        if c.ndim == 2 and c.shape[0] != 1:
            raise Refusal("its bias differs from sample to sample", UNMIXED)
        bias = np.broadcast_to(c.reshape(-1).astype(np.float64) * beta, (len(w),))
    inputs = [a, add_constant(graph, f"{node.name}_weight", w)]
    inputs.append(add_constant(graph, f"{node.name}_bias", np.ascontiguousarray(bias)))
    new = [make_node("Gemm", inputs, {"transB": 1}, name=str(node.name))]
    if c is None and third is not None:
        terms = new[0].outputs[0], third
        terms[0].shape, terms[0].type = node.outputs[0].shape, a.type
        if beta != 1:
            factor = add_constant(graph, f"{node.name}_beta", np.full(1, beta, np.float32))
            new.append(make_node("Mul", [third, factor], {}, name=f"{node.name}_beta"))
            terms = terms[0], new[-1].outputs[0]
            terms[1].shape, terms[1].type = third.shape, a.type
        new.append(make_node("Add", terms, {}, name=f"{node.name}_sum"))
    replace(old, new)
    if new[-1].op_type == "Add":
        _add(new[-1], context)
    return True


def _matmul(node: ir.Node, _context: Context) -> bool:
    a, b = operand(node, 0), operand(node, 1)
    left, right = constant(a), constant(b)
    graph = graph_of(node)
    if left is None and right is None:
        raise Refusal(
            "it multiplies two activations; synapses carry constant weights",
            "only products with a trained constant can become synapses",
        )
    w, x = (right, a) if right is not None else (left, b)
    assert w is not None
    if 2 < w.ndim <= rank(x) and math.prod(w.shape[:-2]) == 1:  # the same matrix for all
        w = w.reshape(w.shape[-2:])
    if w.ndim != 2 or rank(x) < 2 or (left is not None and rank(x) < 3):
        raise Refusal("its constant factor is not a matrix applied to each sample", UNMIXED)
    if right is not None and rank(a) == 2:
        weight = add_constant(graph, f"{node.name}_weight", w.T)
        bias = add_constant(graph, f"{node.name}_bias", np.zeros(w.shape[1], np.float32))
        new = make_node("Gemm", [a, weight, bias], {"transB": 1}, name=str(node.name))
    elif left is not None and rank(b) == 3:
        kernel = add_constant(graph, f"{node.name}_weight", w[:, :, None])
        new = make_node("Conv", [b, kernel], {}, name=str(node.name))
    elif w is not left and w is not right:
        matrix = add_constant(graph, f"{node.name}_weight", w)
        pair = [matrix, b] if right is None else [a, matrix]
        new = make_node("MatMul", pair, {}, name=str(node.name))
    else:
        return False
    replace([node], [new])
    return True


def _clip(node: ir.Node, context: Context) -> bool:
    bounds = [-np.inf, np.inf]
    for i in (1, 2):
        if len(node.inputs) > i and node.inputs[i] is not None:
            bounds[i - 1] = float(parameter(node, i, "bound").reshape(-1)[0])
    low, high = bounds
    if low < -1e38 and high > 1e38:
        same = make_node("Identity", [operand(node, 0)], {}, name=str(node.name))
        replace([node], [same])
        _drop(same, context)
        return True
    if low < 0 and is_op(operand(node, 0).producer(), "Relu", "Clip"):
        low = 0.0  # nothing below it arrives
    if low != 0 or high <= 0:
        raise Refusal(
            f"it clips to [{low:g}, {high:g}]; a firing rate starts at 0",
            "retrain with Relu or Clip(0, c)",
        )
    if high > 1e38:
        new = make_node("Relu", [operand(node, 0)], {}, name=str(node.name))
    else:
        zero = add_constant(graph_of(node), f"{node.name}_min", np.array(0, np.float32))
        top = add_constant(graph_of(node), f"{node.name}_max", np.array(high, np.float32))
        new = make_node("Clip", [operand(node, 0), zero, top], {}, name=str(node.name))
    replace([node], [new])
    return True


def _leaky(node: ir.Node, _context: Context) -> bool:
    _check_slopes(np.array([attribute(node, "alpha", 0.01)]))
    return False


def _prelu(node: ir.Node, _context: Context) -> bool:
    x, slope = operand(node, 0), parameter(node, 1, "slope")
    rows = np.broadcast_to(slope, (1, *shape(x)))[0].reshape(shape(x)[0], -1)
    if (rows != rows[:, :1]).any():
        raise Refusal("its slope differs from pixel to pixel", "use one slope per channel")
    _check_slopes(slope)
    flat = rows[:, 0].reshape(-1, *[1] * (rank(x) - 2))
    if slope.shape == flat.shape:
        return False
    value = add_constant(graph_of(node), f"{node.name}_slope", flat)
    replace([node], [make_node("PRelu", [x, value], {}, name=str(node.name))])
    return True


def _check_slopes(slope: Array) -> None:
    if (slope < 0).any() or (slope > 1).any():
        raise Refusal(
            "its slope lies outside [0, 1], so it is no rectifier",
            "constrain the slope in training",
        )


def _product(node: ir.Node, _context: Context) -> bool:
    if all(constant(v) is None for v in node.inputs):
        verb = "multiplies" if node.op_type == "Mul" else "divides"
        raise Refusal(
            f"it {verb} two activations; currents only add",
            "gates and attention cannot be converted; retrain without them",
        )
    if node.op_type == "Div" and constant(node.inputs[0]) is not None:
        raise Refusal("it divides by an activation; currents only add", "retrain without it")
    return False


def _resize(node: ir.Node, _context: Context) -> bool:
    """Sizes that hard-code the batch become sizes of the other axes."""
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Refusal("it crops by a region of interest", "resize the whole plane")
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return False
    x, y, sizes = operand(node, 0), node.outputs[0], parameter(node, 3, "size")
    axes = attribute(node, "axes") or list(range(rank(x)))
    if len(sizes) != len(axes) or axes[0] != 0:
        return False
    if x.shape is None or y.shape is None:
        raise UnknownShape(x.name)
    if x.shape[0] != y.shape[0]:
        raise Refusal("it resizes the batch axis", UNMIXED)
    rest = add_constant(graph_of(node), f"{node.name}_sizes", sizes[1:])
    new = make_node("Resize", [x, None, None, rest], name=str(node.name))
    new.attributes.update({a.name: a for a in node.attributes.values()})
    new.attributes["axes"] = ir.AttrInt64s("axes", axes[1:])
    replace([node], [new])
    return True


def _swap(node: ir.Node, _context: Context) -> bool:
    """MaxPool -> activation becomes activation -> MaxPool."""
    if len(node.inputs) == 0 or any(v.uses() for v in node.outputs[1:]):
        return False
    user = sole_user(node.outputs[0])
    swaps = user is not None and user.op_type in (*ACTIVATIONS, *LIMITS)
    if user is None or not swaps or user.inputs[0] is not node.outputs[0]:
        return False
    x = operand(node, 0)
    copied = [(a.name, a) for a in node.attributes.values()]
    first = make_node(user.op_type, [x, *user.inputs[1:]], name=str(user.name))
    first.attributes.update({a.name: a for a in user.attributes.values()})
    second = make_node(node.op_type, [first.outputs[0]], name=str(node.name))
    second.attributes.update(dict(copied))
    first.metadata_props.update(user.metadata_props)
    second.metadata_props.update(node.metadata_props)
    first.outputs[0].shape, first.outputs[0].type = x.shape, x.type
    scale = scale_of(user.outputs[0])
    replace([node, user], [first, second])
    if scale is not None:  # it stays with the activation
        set_scale(first.outputs[0], scale)
        del second.outputs[0].metadata_props[SCALE]
    return True


_RULES: dict[str, Rewrite] = {
    "Identity": _drop,
    "Dropout": _drop,
    "Cast": _cast,
    **RESHAPING,
    "Sum": _sum,
    "Add": _add,
    "Sub": _add,
    "Neg": _negate,
    "Mul": _product,
    "Div": _product,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Resize": _resize,
}
_SWAPS: dict[str, Rewrite] = {"MaxPool": _swap, "GlobalMaxPool": _swap}
