"""Rewrites of `simplify` for the ops that only move values: one spelling, the batch in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.base import UNMIXED, Context, Refusal, Rewrite, operand, parameter
from snncompiler.graph import (
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
    shape,
    sole_user,
)


def _reshape(node: ir.Node, _context: Context) -> bool:
    x, y = operand(node, 0), node.outputs[0]
    if x.shape is None or y.shape is None:
        raise UnknownShape(x.name)
    before, after = list(x.shape), list(y.shape)
    moved = before[:1] != after[:1] or len(after) < 2
    if node.op_type in ("Squeeze", "Unsqueeze"):
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        moved |= axes is None or any(int(a) in (0, -len(max(before, after, key=len))) for a in axes)
    if moved:
        raise Refusal(f"it turns {_dims(before)} into {_dims(after)} and mixes samples", UNMIXED)
    if before == after:
        bypass(node)
        return True
    replace([node], [shaped(node, x, [int(d) for d in after[1:]])])  # type: ignore[arg-type]
    return True


def shaped(node: ir.Node, x: ir.Value, target: Sequence[int]) -> ir.Node:
    """A Flatten or Reshape of `x` to [N, *target]."""
    if len(target) == 1:
        return make_node("Flatten", [x], {"axis": 1}, name=str(node.name))
    dims = add_constant(graph_of(node), f"{node.name}_shape", np.array([0, *target], np.int64))
    return make_node("Reshape", [x, dims], {}, name=str(node.name))


def _dims(dims: Sequence[Any]) -> str:
    return "x".join(str(d) for d in dims)


def _transpose(node: ir.Node, _context: Context) -> bool:
    n = rank(operand(node, 0))
    perm = attribute(node, "perm") or list(range(n))[::-1]
    user = sole_user(node.outputs[0])
    undone = user is not None and is_op(user, "Gemm") and bool(attribute(user, "transA", 0))
    if undone and perm == [1, 0]:
        return False
    if perm[0] != 0:
        raise Refusal("it moves the batch axis", UNMIXED)
    if perm == sorted(perm):
        bypass(node)
        return True
    return False


def _blocks(node: ir.Node, _context: Context) -> bool:
    """DepthToSpace and SpaceToDepth, pixels that become channels or the other way round."""
    x, size = operand(node, 0), attribute(node, "blocksize")
    channels, height, width = shape(x)
    depth = channels // size**2
    if node.op_type == "SpaceToDepth":
        parts, perm = [channels, height // size, size, width // size, size], [0, 3, 5, 1, 2, 4]
    elif attribute(node, "mode", "DCR") == "DCR":
        parts, perm = [size, size, depth, height, width], [0, 3, 4, 1, 5, 2]
    else:
        parts, perm = [depth, size, size, height, width], [0, 1, 4, 2, 5, 3]
    new = [shaped(node, x, parts)]
    new.append(make_node("Transpose", new[0].outputs, {"perm": perm}, name=str(node.name)))
    new.append(shaped(node, new[1].outputs[0], shape(node.outputs[0])))
    replace([node], new)
    return True


def _axis(axis: int, n: int) -> int:
    axis = axis + n if axis < 0 else axis
    if axis == 0:
        raise Refusal("it works along the batch axis", UNMIXED)
    return axis


def _concat(node: ir.Node, _context: Context) -> bool:
    axis = _axis(attribute(node, "axis"), rank(node.outputs[0]))
    if any(constant(v) is not None for v in node.inputs):
        raise Refusal("one of its parts is a constant", "add constants as a bias instead")
    if len(node.inputs) == 1:
        bypass(node)
        return True
    changed = bool(axis != attribute(node, "axis"))
    node.attributes["axis"] = ir.AttrInt64("axis", axis)
    return changed


def _slice(node: ir.Node, _context: Context) -> bool:
    x = operand(node, 0)
    n = rank(x)
    starts, ends = parameter(node, 1, "start"), parameter(node, 2, "end")
    given = [constant(v) if v is not None else None for v in node.inputs[3:5]] + [None, None]
    axes = [int(a) for a in (range(len(starts)) if given[0] is None else given[0])]
    steps = [1] * len(starts) if given[1] is None else [int(s) for s in given[1]]
    new: list[ir.Node] = []
    for start, end, raw, step in zip(starts, ends, axes, steps, strict=True):
        size = ([0, *shape(x)])[raw + n if raw < 0 else raw]
        if raw in (0, -n) and start == 0 and step == 1 and end >= 2**31 - 1:
            continue  # all samples
        axis = _axis(raw, n)
        first, stop, step = slice(int(start), int(end), step).indices(size)
        source = new[-1].outputs[0] if new else x
        if step < 0:
            index = np.arange(first, stop, step, dtype=np.int64)
            new.append(_gather(node, source, axis, index))
        else:
            new.append(_section(node, source, axis, first, stop, step))
    if not new:
        bypass(node)
    else:
        replace([node], new)
    return True


def _section(
    node: ir.Node, x: ir.Value, axis: int, start: int, stop: int, step: int = 1
) -> ir.Node:
    bounds = [
        add_constant(graph_of(node), f"{node.name}_{what}", np.array([number], np.int64))
        for what, number in (("start", start), ("end", stop), ("axis", axis), ("step", step))
    ]
    return make_node("Slice", [x, *bounds], {}, name=f"{node.name}")


def _gather(node: ir.Node, x: ir.Value, axis: int, index: Array) -> ir.Node:
    chosen = add_constant(graph_of(node), f"{node.name}_index", index.astype(np.int64))
    return make_node("Gather", [x, chosen], {"axis": axis}, name=str(node.name))


def _select(node: ir.Node, _context: Context) -> bool:
    """Gather rows by constant indices along any axis but the batch."""
    x, index = operand(node, 0), parameter(node, 1, "index")
    axis = _axis(attribute(node, "axis", 0), rank(x))
    if index.ndim > 1:
        raise Refusal("its indices are a table", "select along one axis with a list of indices")
    if index.ndim == 1 and axis == attribute(node, "axis") and (index >= 0).all():
        return False
    size = shape(x)[axis - 1]
    new = [_gather(node, x, axis, np.atleast_1d(index) % size)]
    if index.ndim == 0:
        target = [d for i, d in enumerate(shape(x)) if i != axis - 1]
        if not target:
            raise Refusal("it leaves no axis but the batch", "keep the axis")
        new.append(shaped(node, new[0].outputs[0], target))
    replace([node], new)
    return True


def _split(node: ir.Node, _context: Context) -> bool:
    x = operand(node, 0)
    axis = _axis(attribute(node, "axis", 0), rank(x))
    start = 0
    for output in list(node.outputs):
        assert output.shape is not None
        stop = start + int(output.shape[axis])  # type: ignore[arg-type]
        part = _section(node, x, axis, start, stop)
        part.name = f"{node.name}_{start}"
        part.metadata_props.update(node.metadata_props)
        label = output.name
        part.outputs[0].type, part.outputs[0].shape = output.type, output.shape
        graph_of(node).insert_before(node, part)
        if output.is_graph_output():
            outputs = graph_of(node).outputs
            outputs[[v is output for v in outputs].index(True)] = part.outputs[0]
        ir.convenience.replace_all_uses_with(output, part.outputs[0])
        output.name, part.outputs[0].name = None, label
        start = stop
    graph_of(node).remove(node, safe=True)
    return True


RESHAPING: dict[str, Rewrite] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _select,
    "Split": _split,
}
