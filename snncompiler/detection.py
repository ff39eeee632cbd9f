"""Average precision of detections, as COCO defines it (Lin et al. 2014; the rules of pycocotools).

Per class and overlap threshold: detections, best first, each take the free true box that they
overlap most, if by the threshold or more. Precision is made monotonic and averaged over recalls 0,
0.01, ..., 1; classes without true boxes are left out. With a range of areas, boxes outside of it
and what they match count neither as right nor as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from snncompiler.boxes import area, overlap
from snncompiler.decoding import Detections
from snncompiler.graph import Array

#: Overlaps at which a detection may count as right, .50, .55, ..., .95.
OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
#: Areas in square pixels of the network's input, both ends included.
AREAS = {
    "": (0.0, 1e10),
    "_small": (0.0, 32.0**2),
    "_medium": (32.0**2, 96.0**2),
    "_large": (96.0**2, 1e10),
}


class Truth(NamedTuple):
    """The true boxes of one image: corners [n, 4], class indices [n]."""

    boxes: Array
    classes: Array


def mean_precision(
    found: Sequence[Detections], truth: Sequence[Truth], classes: int
) -> dict[str, float | None]:
    """`mAP50` at overlap .5, `mAP` over .50:.95, and that by size (`mAP_small`, ...).

    None where no image holds a true box of that size.
    """
    result: dict[str, float | None] = {"mAP50": None}
    for name, limits in AREAS.items():
        tables = [precision(found, truth, k, limits) for k in range(classes)]
        known = np.array([t for t in tables if t is not None])
        result[f"mAP{name}"] = float(known.mean()) if len(known) else None
        if not name:
            result["mAP50"] = float(known[:, 0].mean()) if len(known) else None
    return result


def precision(
    found: Sequence[Detections],
    truth: Sequence[Truth],
    k: int,
    limits: tuple[float, float] = AREAS[""],
) -> Array | None:
    """Average precision of class k at each of `OVERLAPS`, [10]; None without true boxes."""
    scores, right, counted, total = [], [], [], 0
    for detected, true in zip(found, truth, strict=True):
        mine, boxes = detected.classes == k, true.boxes[true.classes == k]
        inside = _within(boxes, limits)
        total += int(inside.sum())
        matched, known = _match(overlap(detected.boxes[mine], boxes), inside)
        scores.append(detected.scores[mine])
        right.append(matched & known)
        counted.append(np.where(matched, known, _within(detected.boxes[mine], limits)))
    if not total:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits, valid = (np.concatenate(part, 1)[:, order] for part in (right, counted))
    return np.array([_average(h[v], total) for h, v in zip(hits, valid, strict=True)])


def _within(boxes: Array, limits: tuple[float, float]) -> Array:
    sizes = area(boxes)
    result: Array = (sizes >= limits[0]) & (sizes <= limits[1])
    return result


def _match(shared: Array, inside: Array) -> tuple[Array, Array]:
    """Per overlap threshold and detection: does it match, and a box that counts? Both [10, D]."""
    matched = np.zeros((len(OVERLAPS), len(shared)), bool)
    known = np.zeros_like(matched)
    free = np.ones((len(OVERLAPS), len(inside)), bool)
    for d in np.flatnonzero((shared >= OVERLAPS[0]).any(1)):
        fits = free & (shared[d] >= np.minimum(OVERLAPS, 1 - 1e-10)[:, None])
        # Boxes that count come first: one that does not is taken only when none fits. Of equals
        # the last is taken, as in pycocotools.
        rank = np.where(fits, shared[d] + 2.0 * inside, -1)[:, ::-1]
        best = len(inside) - 1 - rank.argmax(1)
        (rows,) = np.nonzero(fits.any(1))
        free[rows, best[rows]] = False
        matched[rows, d], known[rows, d] = True, inside[best[rows]]
    return matched, known


def _average(hits: Array, total: int) -> float:
    """Precision averaged over recalls; hits: best first, right or wrong."""
    rights = np.cumsum(hits)
    recall, exact = rights / total, rights / np.arange(1, len(hits) + 1)
    exact = np.maximum.accumulate(exact[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < len(hits), np.append(exact, 0)[np.minimum(at, len(hits))], 0).mean())
