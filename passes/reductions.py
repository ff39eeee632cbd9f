"""Rewrites of `windows` for sums, means and maxima over whole axes: one window as long as they are.

A sum or mean is a convolution with equal weights (depthwise, unless channels are added up too); a
maximum over space is a MaxPool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from passes.base import Context, Refusal, Rewrite, image_of
from passes.reshaping import shaped
from snncompiler.graph import (
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

_VERBS = {"ReduceMean": "averages", "ReduceSum": "adds up", "ReduceMax": "takes the maximum"}


def _reduce(node: ir.Node, _context: Context) -> bool:
    x = image_of(node)
    n, dims = rank(x), shape(x)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None and attribute(node, "noop_with_empty_axes", 0):
        bypass(node)
        return True
    axes = sorted({int(a) % n for a in (range(n) if given is None else given)})
    verb = _VERBS[node.op_type]
    if 0 in axes or n < 3:
        raise Refusal(f"it {verb} over samples or features", "do so over space only")
    kernel = [dims[i - 1] if i in axes else 1 for i in range(2, n)]
    new: dict[str, Any] = dict.fromkeys(("strides", "dilations"), [1] * len(kernel))
    new |= {"kernel_shape": kernel, "pads": [0] * (2 * len(kernel))}
    name = str(node.name)
    if node.op_type == "ReduceMax":
        if 1 in axes:
            why = f"it {verb} over channels, or over space with the channels last"
            raise Refusal(why, "take it over the axes from 2 on, or use a 1x1 convolution")
        made = [make_node("MaxPool", [x], {**new, "ceil_mode": 0}, name=name)]
    else:
        features, group = (1, 1) if 1 in axes else (dims[0], dims[0])
        w = np.ones((features, dims[0] // group, *kernel))
        w /= w[0].size if node.op_type == "ReduceMean" else 1
        weight = add_constant(graph_of(node), f"{name}_weight", w)
        made = [make_node("Conv", [x, weight], {**new, "group": group}, name=name)]
    if not attribute(node, "keepdims", 1):
        made[0].outputs[0].type = x.type
        target = [d for i, d in enumerate(dims, 1) if i not in axes]
        if not target:
            raise Refusal("it leaves no axis but the batch", "keep the axes (keepdims)")
        made.append(shaped(node, made[0].outputs[0], target))
    replace([node], made)
    return True


REDUCTIONS: dict[str, Rewrite] = dict.fromkeys(_VERBS, _reduce)
