"""Boxes as arrays: corners x1, y1, x2, y2 in pixels of the network's input."""

from __future__ import annotations

import numpy as np

from snncompiler.graph import Array


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of every box of [A, 4] with every box of [B, 4]: [A, B]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    union = area(a)[:, None] + area(b) - common
    result: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def area(boxes: Array) -> Array:
    """Areas of [A, 4] boxes in square pixels."""
    result: Array = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return result


def suppress(boxes: Array, scores: Array, limit: float) -> Array:
    """Greedy non-maximum suppression: indices of the boxes kept, best first.

    A box goes if it overlaps a kept one with a higher score by more than `limit`; of equal scores
    the first counts as higher.
    """
    order = np.argsort(-scores, kind="stable")
    shared = overlap(boxes[order], boxes[order])
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= shared[i, i + 1 :] <= limit
    kept: Array = order[alive]
    return kept
