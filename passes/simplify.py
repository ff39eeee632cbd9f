"""One spelling for every operation, and nothing that does nothing.

1. Identity, Dropout and Cast hand their input on: dropped.
2. Reshape, Flatten, Squeeze and Unsqueeze keep the batch in front: Flatten, or Reshape to
   [0, ...]. Anything that would mix samples is refused, told by its axes. DepthToSpace and
   SpaceToDepth are a Transpose between two of them.
3. Split and Slice become Slice with explicit axes, or Gather for negative steps.
4. Sum becomes Add; a - b of two activations becomes a + (-1) b; a smaller operand is spread by
   a multiplication with ones.
5. MatMul by a constant becomes Gemm or Conv where it is one; Gemm gets alpha = beta = 1,
   transA = 0, transB = 1.
6. Clip(0, inf) is Relu; slopes of LeakyRelu and PRelu are per channel, in [0, 1].
7. Resize to sizes of every axis but the batch.
8. Pad with minus infinity in front of a MaxPool becomes the pool's padding.
9. Max(x, 0) is Relu.
10. A maximum followed by an activation: swapped, for it commutes with every monotone function and
   spikes are what can be pooled exactly.

While this pass runs, the batch has the one size that constants were folded with; at its end the
batch axis becomes dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.arithmetic import ARITHMETIC
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


def _maximum(node: ir.Node, _context: Context) -> bool:
    """Max(x, 0) is how some write Relu."""
    if len(node.inputs) != 2:
        return False
    for x, other in (node.inputs, node.inputs[::-1]):
        zero = constant(other)
        if x is not None and zero is not None and not zero.any():
            if shape(x) != shape(node.outputs[0]):
                return False
            replace([node], [make_node("Relu", [x], {}, name=str(node.name))])
            return True
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


def _border(node: ir.Node, _context: Context) -> bool:
    """A border below every number, as some exporters put around a MaxPool, is the pool's own."""
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if fill is None or fill.max() > -1e38 or attribute(node, "mode", "constant") != "constant":
        return False
    pool, widths, axes = sole_user(node.outputs[0]), parameter(node, 1, "width"), None
    n = rank(operand(node, 0))
    if len(node.inputs) > 3:
        axes = constant(node.inputs[3])
    both = np.zeros((2, n), np.int64)
    both[:, range(n) if axes is None else axes % n] = widths.reshape(2, -1)
    if pool is None or pool.op_type != "MaxPool" or both[:, :2].any() or (both < 0).any():
        raise Refusal("its border is below every number, and no MaxPool follows", "pad with zeros")
    pads = both[:, 2:] + np.reshape(attribute(pool, "pads", [0] * (2 * n - 4)), (2, -1))
    if (
        attribute(pool, "auto_pad", "NOTSET").startswith("SAME")
        or (pads >= attribute(pool, "kernel_shape")).any()
    ):
        raise Refusal("the pool behind it has no room for its border", "use the pool's own pads")
    pool.attributes["pads"] = ir.AttrInt64s("pads", pads.reshape(-1).tolist())
    pool.attributes.pop("auto_pad", None)
    bypass(node)
    return True


def _swap(node: ir.Node, _context: Context) -> bool:
    """MaxPool -> activation becomes activation -> MaxPool."""
    if len(node.inputs) == 0 or any(v.uses() for v in node.outputs[1:]):
        return False
    user = sole_user(node.outputs[0])
    swaps = user is not None and user.op_type in (*ACTIVATIONS, *LIMITS)
    if user is None or not swaps or user.inputs[0] is not node.outputs[0]:
        return False
    if node.op_type == "ReduceMax" and user.op_type not in ("Relu", "Clip", "LeakyRelu"):
        return False  # it may change the rank, and constants of channels would no longer fit
    x = operand(node, 0)
    copied = [(a.name, a) for a in node.attributes.values()]
    first = make_node(user.op_type, [x, *user.inputs[1:]], name=str(user.name))
    first.attributes.update({a.name: a for a in user.attributes.values()})
    second = make_node(node.op_type, [first.outputs[0], *node.inputs[1:]], name=str(node.name))
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
    **ARITHMETIC,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Max": _maximum,
    "Resize": _resize,
    "Pad": _border,
}
_SWAPS: dict[str, Rewrite] = dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax"), _swap)
