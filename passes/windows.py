"""Convolutions, pools, means and resizing: explicit pads, and synapses wherever they are linear.

1. auto_pad and output_shape become pads; every attribute is written.
2. GlobalMaxPool is a MaxPool over the whole plane.
3. An average is a depthwise convolution with weights 1/k. Where the divisor varies (padding not
   counted, partial windows in ceil mode) the sum is multiplied by a constant map; the map is
   read off the node itself by running it on ones, so no rule about divisors is written twice.
4. ReduceMean, ReduceSum and ReduceMax: see `passes/reductions.py`; Resize and Pad: see
   `passes/resizing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.base import Context, Refusal, Rewrite, image_of, infer_shapes, rewrite
from passes.reductions import REDUCTIONS
from passes.resizing import RESIZING
from snncompiler.ann import probe
from snncompiler.graph import (
    Array,
    add_constant,
    attribute,
    constant,
    graph_of,
    make_node,
    replace,
    shape,
    weights,
)
from snncompiler.ops import pooled_size


@dataclass(frozen=True)
class Windows:
    """Make windows explicit and averages linear."""

    name: ClassVar[str] = "windows"

    def run(self, model: ir.Model, context: Context) -> str:
        """Rewrite every windowed op once."""
        changes = 0
        while partial := next((n for n in model.graph if attribute(n, "ceil_mode", 0)), None):
            # Before opset 22, onnx's shape inference counts a last window that lies wholly in
            # the padding; the true size must be known before anything behind it is looked at.
            rule = _RULES[partial.op_type]
            changes += rewrite(model, context, {partial.op_type: _only(partial, rule)})
            if partial.graph is not None or context.shapeless:
                break
            infer_shapes(model)
        changes += rewrite(model, context, _RULES)
        infer_shapes(model)
        return f"{changes} rewrites"


def _only(chosen: ir.Node, rule: Rewrite) -> Rewrite:
    return lambda node, context: node is chosen and rule(node, context)


def same_pads(size: int, kernel: int, stride: int, dilation: int, *, upper: bool) -> list[int]:
    """[begin, end] of auto_pad SAME: ceil(size / stride) windows, the odd pixel at one side."""
    out = -(-size // stride)
    total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    small = total // 2
    return [small, total - small] if upper else [total - small, small]


def _is_same(node: ir.Node) -> bool:
    return bool(attribute(node, "auto_pad", "NOTSET").startswith("SAME"))


def _windows(node: ir.Node, kernel: Sequence[int]) -> dict[str, Any]:
    """kernel_shape, strides, dilations and resolved pads of a Conv or pool."""
    sizes = shape(image_of(node))[1:]
    n = len(kernel)
    strides = attribute(node, "strides") or [1] * n
    dilations = attribute(node, "dilations") or [1] * n
    mode = attribute(node, "auto_pad", "NOTSET")
    if _is_same(node):
        if any(d != 1 and k != 1 for d, k in zip(dilations, kernel, strict=True)):
            raise Refusal(
                "onnxruntime does not compute auto_pad SAME with dilations as ONNX defines it",
                "export with explicit pads",
            )
        pairs = [
            same_pads(*sizes_, upper=mode == "SAME_UPPER")
            for sizes_ in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        pads = [p[0] for p in pairs] + [p[1] for p in pairs]
    else:
        pads = (attribute(node, "pads") if mode == "NOTSET" else None) or [0] * (2 * n)
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        room = [sizes[i] + pads[i] + pads[i + n] for i in range(n)]
        if not attribute(node, "ceil_mode", 0) and any(np.array(reach) > room):
            raise Refusal("its window is larger than its input", "use a smaller window")
    return {
        "kernel_shape": list(kernel),
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
    }


def _weight(node: ir.Node) -> Array:
    for i, what in ((1, "weight"), (2, "bias")):
        value = node.inputs[i] if len(node.inputs) > i else None
        if value is not None and constant(value) is None:
            raise Refusal(
                f"its {what} is computed from the data; synapses are fixed after training",
                "export with constant weights",
            )
    return weights(node.inputs[1])


def _conv(node: ir.Node, _context: Context) -> bool:
    w = _weight(node)
    new = {**_windows(node, w.shape[2:]), "group": attribute(node, "group", 1)}
    replace([node], [make_node("Conv", node.inputs, new, name=str(node.name))])
    return True


def _conv_transpose(node: ir.Node, _context: Context) -> bool:
    w = _weight(node)
    sizes, results = shape(image_of(node))[1:], shape(node.outputs[0])[1:]
    n = len(sizes)
    strides = attribute(node, "strides") or [1] * n
    dilations = attribute(node, "dilations") or [1] * n
    extra = attribute(node, "output_padding") or [0] * n
    mode = attribute(node, "auto_pad", "NOTSET")
    pads = attribute(node, "pads") or [0] * (2 * n)
    if mode != "NOTSET" or attribute(node, "output_shape") is not None:
        # pads follow from the output's size: total = stride (in - 1) + extra + reach - out
        for i in range(n):
            reach = dilations[i] * (w.shape[2 + i] - 1) + 1
            total = strides[i] * (sizes[i] - 1) + extra[i] + reach - results[i]
            if total < 0:
                extra[i], total = extra[i] - total, 0
            small = total // 2
            begin = small if mode == "SAME_UPPER" else total - small
            pads[i], pads[i + n] = begin, total - begin
    if any(extra[i] >= max(strides[i], dilations[i]) for i in range(n)):
        raise Refusal("its output is larger than its kernel reaches", "use a smaller output shape")
    new = {
        "kernel_shape": list(w.shape[2:]),
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "output_padding": extra,
        "group": attribute(node, "group", 1),
    }
    replace([node], [make_node("ConvTranspose", node.inputs, new, name=str(node.name))])
    return True


def _max_pool(node: ir.Node, _context: Context) -> bool:
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Refusal(
            "its indices are used; the winner of a window changes while spikes arrive",
            "use resizing or transposed convolution instead of unpooling",
        )
    x = image_of(node)
    if node.op_type == "GlobalMaxPool":
        new = _windows(node, shape(x)[1:])
    else:
        new = _windows(node, attribute(node, "kernel_shape"))
    new["ceil_mode"] = 0
    _pad_ceil(node, new, shape(x)[1:])
    made = _apart(node, new)
    x = made[-1].outputs[0] if made else x
    replace([node], [*made, make_node("MaxPool", [x], new, name=str(node.name))])
    return True


def _apart(node: ir.Node, new: dict[str, Any]) -> list[ir.Node]:
    """Lay windows side by side, where onnxruntime refuses pads as large as the kernel.

    What a window lacks is filled with what it has: that changes no maximum.
    """
    made: list[ir.Node] = []
    value, n = image_of(node), len(new["kernel_shape"])
    for i, size in enumerate(shape(value)[1:]):
        keys = ("kernel_shape", "strides", "dilations")
        kernel, stride, dilation = (new[k][i] for k in keys)
        begin, end = new["pads"][i], new["pads"][i + n]
        if max(begin, end) < kernel:
            continue
        windows = pooled_size(size, kernel, stride, dilation, begin, end, 0)
        rows = np.arange(windows)[:, None] * stride + np.arange(kernel) * dilation - begin
        inside = (rows >= 0) & (rows < size)
        first = rows[np.arange(windows), inside.argmax(1)]
        rows = np.where(inside, rows, first[:, None]).reshape(-1)
        index = add_constant(graph_of(node), f"{node.name}_index", rows)
        made.append(make_node("Gather", [value, index], {"axis": i + 2}, name=f"{node.name}_{i}"))
        value = made[-1].outputs[0]
        value.type = image_of(node).type
        new["strides"][i], new["dilations"][i] = kernel, 1
        new["pads"][i] = new["pads"][i + n] = 0
    return made


def _pad_ceil(node: ir.Node, new: dict[str, Any], sizes: Sequence[int]) -> None:
    """Turn the overhang of ceil mode into padding at the end, so that every window is whole."""
    if not attribute(node, "ceil_mode", 0) or _is_same(node):
        return
    for i, size in enumerate(sizes):
        kernel, stride, dilation = (new[k][i] for k in ("kernel_shape", "strides", "dilations"))
        begin, end = new["pads"][i], new["pads"][i + len(sizes)]
        count = pooled_size(size, kernel, stride, dilation, begin, end, 1)
        new["pads"][i + len(sizes)] = max(
            0, (count - 1) * stride + dilation * (kernel - 1) + 1 - size - begin
        )


def _average(node: ir.Node, context: Context) -> bool:
    x = image_of(node)
    channels, sizes = shape(x)[0], shape(x)[1:]
    n = len(sizes)
    if node.op_type == "GlobalAveragePool":
        new = _windows(node, sizes)
    else:
        new = _windows(node, attribute(node, "kernel_shape"))
    _pad_ceil(node, new, sizes)
    ones = np.ones((1, channels, *sizes), np.float32)
    # onnxruntime divides differently in different opsets; the file's own one is the truth.
    factor = probe(node, [ones], context.opset)[0][:, :1].astype(np.float64)
    results = factor.shape[2:]
    for i, size in enumerate(sizes):
        factor /= np.maximum(_covered(new, i, size, results[i]), 1).reshape(
            [-1 if axis == i + 2 else 1 for axis in range(n + 2)]
        )
    uniform = bool(np.all(factor == factor.flat[0]))
    value = factor.flat[0] if uniform else 1.0
    name = str(node.name)
    kernel = np.full((channels, 1, *new["kernel_shape"]), value)
    w = add_constant(graph_of(node), f"{name}_weight", kernel)
    sums = make_node("Conv", [x, w], {**new, "group": channels}, name=name)
    if uniform:
        replace([node], [sums])
        return True
    sums.outputs[0].type = x.type
    divisor = add_constant(graph_of(node), f"{name}_divisor", factor)
    replace([node], [sums, make_node("Mul", [sums.outputs[0], divisor], name=f"{name}_mean")])
    return True


def _covered(new: dict[str, Any], axis: int, size: int, windows: int) -> Array:
    """How many real inputs each window holds along one axis."""
    first = np.arange(windows) * new["strides"][axis] - new["pads"][axis]
    taps = first[:, None] + np.arange(new["kernel_shape"][axis]) * new["dilations"][axis]
    counts: Array = ((taps >= 0) & (taps < size)).sum(1)
    return counts


_RULES: dict[str, Rewrite] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "GlobalMaxPool": _max_pool,
    "AveragePool": _average,
    "GlobalAveragePool": _average,
    **REDUCTIONS,
    **RESIZING,
}
