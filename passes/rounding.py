"""Nodes that round a value in the graph itself, and weights rounded for what they compute.

Rounding each weight to the nearest step minimises the error of the weights. What counts is the
error of the layer's output on the inputs it really sees, |(W - Q) X|^2. Round one column after the
other and let those still free make up for the error of each (Frantar et al. 2023, GPTQ, after
Hassibi and Stork 1993):  with H = X X' / n and U the upper Cholesky factor of its inverse,

    q_i = round(w_i);  w_j -= (w_i - q_i) U_ij / U_ii  for all j > i.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from snncompiler.graph import Array, add_constant, make_node, set_sources, sources, unique_name

#: Columns that are rounded before the others hear of it.
_BLOCK = 64


def nearest(w: Array, step: Array, most: int) -> Array:
    """w [M, K] as multiples of step [M], at most `most` steps from zero; halves go up."""
    steps = np.clip(np.floor(w / step[:, None] + 0.5), -most, most)
    rounded: Array = steps * step[:, None]
    return rounded


def output_error(w: Array, rounded: Array, second: Array) -> float:
    """Mean square error of the outputs, summed over them; second: E[x x'] of the inputs."""
    off = w - rounded
    return float(np.einsum("mk,kl,ml->", off, second, off, optimize=True))


def for_output(w: Array, step: Array, most: int, second: Array) -> Array:
    """w [M, K] rounded so that the layer's output changes least; second: E[x x'], [K, K]."""
    simple = nearest(w, step, most)
    level = float(np.mean(np.diag(second)))
    if not level > 0:
        return simple
    damped = second + 0.01 * level * np.eye(len(second))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, rounded = w / step[:, None], np.empty_like(w)
    for start in range(0, w.shape[1], _BLOCK):
        stop = min(start + _BLOCK, w.shape[1])
        errors = np.zeros((len(w), stop - start))
        for i in range(start, stop):
            rounded[:, i] = np.clip(np.floor(left[:, i] + 0.5), -most, most)
            errors[:, i - start] = (left[:, i] - rounded[:, i]) / upper[i, i]
            left[:, i:stop] -= np.outer(errors[:, i - start], upper[i, i:stop])
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    rounded *= step[:, None]
    better = output_error(w, rounded, second) < output_error(w, simple, second)
    return rounded if better else simple


def insert_rounding(
    graph: ir.Graph,
    value: ir.Value,
    uses: Sequence[tuple[ir.Node, int]],
    bits: int,
    amplitude: float | None = None,
) -> None:
    """Round (and clip) a value in the graph itself, so that the file keeps the promise alone."""
    nodes = [node for node, _ in uses]
    current, made = value, []

    def number(name: str, x: float) -> ir.Value:
        return add_constant(graph, f"{value.name}_{name}", np.array(x, np.float32))

    steps: list[tuple[str, list[ir.Value]]] = [
        ("Mul", [number("fine", 2.0**bits)]),
        ("Round", []),
        ("Mul", [number("coarse", 2.0**-bits)]),
    ]
    if amplitude is not None:
        steps.insert(0, ("Clip", [number("min", -amplitude), number("max", amplitude)]))
    label = unique_name(graph, f"{value.name}_rounded")
    for i, (op, extra) in enumerate(steps):
        name = label if i == len(steps) - 1 else f"{label}_{op.lower()}"
        node = make_node(op, [current, *extra], name=name)
        set_sources(node, sources(*nodes))
        made.append(node)
        current = node.outputs[0]
        current.name, current.type, current.shape = name, value.type, value.shape
    for node, index in uses:
        node.replace_input_with(index, current)
    graph.outputs[:] = [current if v is value and amplitude else v for v in graph.outputs]
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], made)
    else:
        graph.insert_after(producer, made)
