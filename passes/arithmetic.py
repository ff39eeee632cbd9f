"""Rewrites of `simplify` for sums and products: one spelling, constants where they belong."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from passes.base import UNMIXED, Context, Refusal, Rewrite, operand, parameter
from snncompiler.graph import (
    add_constant,
    attribute,
    bypass,
    constant,
    graph_of,
    is_op,
    make_node,
    rank,
    replace,
    shape,
)


def _sum(node: ir.Node, context: Context) -> bool:
    if len(node.inputs) == 1:
        bypass(node)
        return node.graph is None
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


ARITHMETIC: dict[str, Rewrite] = {
    "Sum": _sum,
    **dict.fromkeys(("Add", "Sub"), _add),
    "Neg": _negate,
    **dict.fromkeys(("Mul", "Div"), _product),
    "Gemm": _gemm,
    "MatMul": _matmul,
}
