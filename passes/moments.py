"""What synapses see: second moments of their inputs on calibration data."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir

from snncompiler.graph import Array, attribute, shape, weights

#: Places of the images at which a convolution is looked at; more change the moments little.
_PLACES = 4096


def inputs_of(node: ir.Node, x: Array, seed: int = 0) -> list[Array]:
    """What each group of a Conv or Gemm sees, [R, K]: K in the order of the weights' columns.

    x: [N, ...] values of its data input. A convolution is sampled at random places.
    """
    if node.op_type == "Gemm":
        return [x.astype(np.float64)]
    kernel, groups = weights(node.inputs[1]).shape[2:], attribute(node, "group")
    strides, dilations, pads = (attribute(node, k) for k in ("strides", "dilations", "pads"))
    n = len(kernel)
    widths = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
    crop = [
        slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, x.shape, strict=True)
    ]
    x = np.pad(x[tuple(crop)], [(max(0, a), max(0, b)) for a, b in widths])
    space = shape(node.outputs[0])[1:]
    total = len(x) * int(np.prod(space))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(total, min(total, _PLACES), replace=False)
    sample, *places = np.unravel_index(chosen, (len(x), *space))
    taps = []
    for tap in product(*(range(k) for k in kernel)):
        at = (p * s + k * d for p, s, k, d in zip(places, strides, tap, dilations, strict=True))
        place = (sample, slice(None), *at)
        taps.append(x[place])
    seen = np.stack(taps, 2).astype(np.float64)  # [R, C, taps]
    return [part.reshape(len(seen), -1) for part in np.split(seen, groups, axis=1)]
