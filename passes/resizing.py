"""Rewrites of `windows` for Resize and Pad: copies of rows, matrices, borders.

1. Nearest Resize copies rows: Gather along each axis. Linear Resize is separable and linear: one
   matrix per axis, read off the node itself by running it on unit vectors.
2. Reflecting and repeating pads copy rows too; a constant border is a bias map.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.base import Context, Refusal, Rewrite, image_of
from snncompiler.ann import probe
from snncompiler.graph import (
    Array,
    add_constant,
    attribute,
    bypass,
    constant,
    graph_of,
    make_node,
    rank,
    replace,
    shape,
)


def _resize(node: ir.Node, _context: Context) -> bool:
    x = image_of(node)
    before, after = [0, *shape(x)], [0, *shape(node.outputs[0])]
    mode = attribute(node, "mode", "nearest")
    if before[1] != after[1]:
        raise Refusal("it resizes the channel axis", "resize space only")
    new: list[ir.Node] = []
    value = x
    for axis in range(2, len(before)):
        matrix = _axis_matrix(node, axis, before[axis], after[axis])
        if matrix.shape[0] == matrix.shape[1] and (matrix == np.eye(len(matrix))).all():
            continue
        name = str(node.name) if not new else f"{node.name}_{axis}"
        if mode == "nearest":
            index = add_constant(graph_of(node), f"{name}_index", matrix.argmax(1).astype(np.int64))
            new.append(make_node("Gather", [value, index], {"axis": axis}, name=name))
        else:
            new.extend(_along(node, value, matrix, axis, len(before), name))
        value = new[-1].outputs[0]
        for made in new:
            made.outputs[0].type = x.type
    if not new:
        bypass(node)
    else:
        replace([node], new)
    return True


def _axis_matrix(node: ir.Node, axis: int, size: int, result: int) -> Array:
    """[result, size]: how the node mixes rows along one axis, found by trying unit vectors."""
    x = image_of(node)
    dims = list(shape(x))
    columns = []
    for start in range(size):
        unit = np.zeros((1, *dims), np.float32)
        unit[(slice(None),) * axis + (start,)] = 1
        y = probe(node, [unit])[0][0, 0]
        corner = tuple(slice(None) if a == axis else 0 for a in range(2, y.ndim + 2))
        columns.append(y[corner])
    matrix: Array = np.stack(columns, 1).astype(np.float64)
    assert matrix.shape == (result, size)
    return matrix


def _along(
    node: ir.Node, x: ir.Value, matrix: Array, axis: int, n: int, name: str
) -> list[ir.Node]:
    """Multiply one axis by a matrix.

    From the right if it is the last, from the left if the last but one; any other axis is brought
    there and back.
    """
    graph = graph_of(node)
    if axis == n - 1:
        w = add_constant(graph, f"{name}_matrix", matrix.T)
        return [make_node("MatMul", [x, w], name=name)]
    if axis == n - 2:
        w = add_constant(graph, f"{name}_matrix", matrix)
        return [make_node("MatMul", [w, x], name=name)]
    perm = [i for i in range(n) if i != axis] + [axis]
    there = make_node("Transpose", [x], {"perm": perm}, name=f"{name}_there")
    w = add_constant(graph, f"{name}_matrix", matrix.T)
    product = make_node("MatMul", [there.outputs[0], w], name=name)
    back = [int(i) for i in np.argsort(perm)]
    home = make_node("Transpose", [product.outputs[0]], {"perm": back}, name=f"{name}_back")
    return [there, product, home]


def _pad(node: ir.Node, _context: Context) -> bool:
    x = image_of(node)
    n = rank(x)
    given = constant(node.inputs[1])
    axes_value = node.inputs[3] if len(node.inputs) > 3 else None
    axes = constant(axes_value)
    if given is None or (axes_value is not None and axes is None):
        raise Refusal("its widths are computed from the data", "pad by fixed widths")
    fill_value = node.inputs[2] if len(node.inputs) > 2 else None
    fill = constant(fill_value)
    if fill_value is not None and fill is None:
        raise Refusal("its border is computed from the data", "pad with a constant")
    if fill is not None and not np.isfinite(fill).all():
        raise Refusal("its border is infinite", "pad with zeros")
    widths = np.zeros((n, 2), np.int64)
    chosen = range(n) if axes is None else [int(a) % n for a in axes]
    for i, axis in enumerate(chosen):
        widths[axis] = given[i], given[i + len(given) // 2]
    if widths[0].any():
        raise Refusal("it pads the batch axis", "pad space only")
    mode = attribute(node, "mode", "constant")
    name = str(node.name)
    graph = graph_of(node)
    new: list[ir.Node] = []
    value = x
    if mode != "constant" or (widths < 0).any():
        for axis in range(1, n):
            begin, end = (int(w) for w in widths[axis])
            if mode == "constant":
                begin, end = min(begin, 0), min(end, 0)
            if begin == end == 0:
                continue
            rows: Array = np.arange(shape(x)[axis - 1])
            rows = rows[max(0, -begin) : len(rows) - max(0, -end)]
            if mode != "constant":
                rows = np.pad(rows, (max(0, begin), max(0, end)), mode=mode)
            index = add_constant(graph, f"{name}_index", rows.astype(np.int64))
            label = name if not new else f"{name}_{axis}"
            new.append(make_node("Gather", [value, index], {"axis": axis}, name=label))
            value = new[-1].outputs[0]
            value.type = x.type
    border = np.maximum(widths, 0)
    if mode == "constant" and border.any():
        flat = add_constant(graph, f"{name}_pads", border.T.reshape(-1))
        label = name if not new else f"{name}_border"
        new.append(make_node("Pad", [value, flat], {"mode": "constant"}, name=label))
        value = new[-1].outputs[0]
        value.type = x.type
        level = 0.0 if fill is None else float(fill.reshape(-1)[0])
        if level:
            inner = [int(d) for d in np.array(shape(node.outputs[0])) - border[1:].sum(1)]
            map_ = np.pad(np.zeros(inner), border[1:].tolist(), constant_values=level)
            bias = add_constant(graph, f"{name}_fill", map_[None])
            new.append(make_node("Add", [value, bias], name=f"{name}_fill"))
    if not new:
        bypass(node)
    else:
        replace([node], new)
    return True


RESIZING: dict[str, Rewrite] = {"Resize": _resize, "Upsample": _resize, "Pad": _pad}
