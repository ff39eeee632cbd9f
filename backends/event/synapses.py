"""Linear ops on spikes, prepared for the kernels: weights as rows, windows as runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from backends.event import aligned, geometry
from backends.event.geometry import Convolution, Windows
from backends.event.rows import packed
from snncompiler.graph import Array, attribute, constant, shape, weights

#: Output channels that one call of a kernel computes: how many fit its registers.
LANES = (128, 112, 96, 80, 64, 48, 32, 16)
#: Of these a row is long enough where longer ones would not fit a cache.
_ENOUGH = 64
#: Bytes of weights that one block of outputs may use, to stay in a core's cache: three fifths of
#: it, and this many at least; and those of a cache that nobody knows.
_SHARE, _LEAST, _UNKNOWN = 0.6, 300 << 10, 1 << 20
#: Where Linux tells about the caches of a core.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Blocks(NamedTuple):
    """Output channels first .. first + width [blocks] of a group, and rows of their weights.

    rows: [blocks, rows + 1, lanes]; the last row is one of zeros. They may be paired: see `rows`.
    """

    group: int
    first: Array
    width: Array
    rows: Array

    @property
    def lanes(self) -> int:
        """Weights of a row, those of nobody included."""
        return self.rows.shape[2] * (2 if self.rows.dtype == np.uint16 else 1)


@dataclass(frozen=True)
class Connection:
    """A linear op on one spiking value: y[p, m] = sum over windows w[k, c, m] x[q, c].

    w: float64 [taps, channels of a group, outputs], outputs of all groups side by side. If
    `single`, w is [taps, 1, outputs] and output channel m sees input channel m alone.
    convolution: if it is one, not transposed.
    """

    source: ir.Value
    windows: Windows
    w: Array
    groups: int
    single: bool
    bias: Array
    convolution: Convolution | None = None


def connection(node: ir.Node) -> Connection | None:
    """A synapse whose data input is a value of its own; None if the kernels do not know it."""
    source = node.inputs[0]
    assert source is not None
    match node.op_type:
        case "Conv" | "ConvTranspose":
            return _convolution(node, source)
        case "Gemm":
            w = weights(node.inputs[1]).T[None].astype(np.float64)
            return Connection(source, geometry.one_to_one(1), w, 1, False, _bias(node, w.shape[2]))
        case "Mul":
            return _gain(node)
    return None


def identity(source: ir.Value) -> Connection:
    """The spikes themselves, as currents."""
    channels, *space = shape(source)
    places = geometry.one_to_one(int(np.prod(space)))
    return Connection(source, places, np.ones((1, 1, channels)), channels, True, np.zeros(channels))


def _bias(node: ir.Node, channels: int) -> Array:
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return np.zeros(channels) if given is None else given.reshape(-1).astype(np.float64)


def _convolution(node: ir.Node, source: ir.Value) -> Connection:
    w = weights(node.inputs[1]).astype(np.float64)
    groups, kernel = attribute(node, "group"), w.shape[2:]
    sizes, out = shape(source)[1:], shape(node.outputs[0])[1:]
    settings = [attribute(node, name) for name in ("strides", "pads", "dilations")]
    flat = w.reshape(*w.shape[:2], -1)
    convolution = None
    if node.op_type == "Conv":
        convolution = Convolution(sizes, out, kernel, *settings)
        windows = convolution.windows()
        rows = flat.transpose(2, 1, 0)
    else:  # [C, M / groups, taps] -> [taps, C / groups, M]
        windows = geometry.transposed(sizes, out, kernel, *settings)
        parts = flat.reshape(groups, -1, *flat.shape[1:])
        rows = parts.transpose(3, 1, 0, 2).reshape(flat.shape[2], len(w) // groups, -1)
    single = rows.shape[1] == 1 and rows.shape[2] == groups
    bias = _bias(node, rows.shape[2])
    return Connection(source, windows, rows, groups, single, bias, convolution)


def _gain(node: ir.Node) -> Connection | None:
    """Mul by one factor, or by one per channel."""
    index = 0 if constant(node.inputs[0]) is not None else 1
    source, factor = node.inputs[1 - index], weights(node.inputs[index]).astype(np.float64)
    assert source is not None
    channels, *space = shape(source)
    per_channel = (1, channels, *[1] * len(space))
    if shape(node.outputs[0]) != shape(source) or (factor.size > 1 and factor.shape != per_channel):
        return None
    w = np.broadcast_to(factor.reshape(1, 1, -1), (1, 1, channels)).copy()
    places = geometry.one_to_one(int(np.prod(space)))
    return Connection(source, places, w, channels, True, np.zeros(channels))


def blocks(w: Array, groups: int, narrow: np.dtype[np.generic]) -> list[Blocks]:
    """Cut the outputs of weights [taps, channels, outputs] into blocks of full vectors.

    narrow: the type that rows are added in.
    """
    rows, width = w.shape[0] * w.shape[1], w.shape[2] // groups
    fits = rows * w.itemsize * LANES[0] <= max(_LEAST, int(_SHARE * _own_cache()))
    most = LANES[0] if fits else _ENOUGH
    flat = w.reshape(rows, w.shape[2])
    result = []
    for group in range(groups):
        cuts, first, left = [], group * width, width
        while left:
            lanes = next(n for n in LANES if n < left + 16 and n <= most)
            used = min(lanes, left)
            cuts.append((first, used, lanes))
            first, left = first + used, left - used
        for lanes, some in groupby(cuts, lambda cut: cut[2]):
            begins, sizes, _ = np.array(list(some)).T
            result.append(Blocks(group, begins, sizes, _rows(flat, begins, sizes, lanes, narrow)))
    return result


def count_blocks(blocks: list[Blocks]) -> int:
    """How many they are."""
    return sum(len(some.first) for some in blocks)


def _rows(flat: Array, begins: Array, sizes: Array, lanes: int, narrow: np.dtype[Any]) -> Array:
    """The weights of blocks of some outputs each, as `Blocks` has them."""
    tables: Array = np.zeros(0)
    for i, (begin, used) in enumerate(zip(begins, sizes, strict=True)):
        part = aligned.zeros((len(flat) + 1, lanes), flat.dtype)
        part[:-1, :used] = flat[:, begin : begin + used]
        made = packed(part, narrow)
        if not i:
            tables = aligned.zeros((len(begins), *made.shape), made.dtype)
        tables[i] = made
    return tables


@cache
def _own_cache() -> int:
    """Bytes of a core's second-level cache, as far as the system tells."""
    try:
        text = (_CACHES / "index2" / "size").read_text().strip()
        return int(text.removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN
