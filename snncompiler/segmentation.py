"""How good label maps are: four shares from one table of confusions (Long et al. 2015)."""

from __future__ import annotations

import numpy as np

from snncompiler.graph import Array

#: The label of pixels that nobody judges.
VOID = 255


def confusions(answers: Array, truth: Array, classes: int) -> Array:
    """Pixels of true class i that were given class j, [K, K]; void pixels are left out."""
    known = truth != VOID
    pairs = classes * truth[known].astype(np.int64) + answers[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def shares(table: Array) -> dict[str, float | None]:
    """The metrics of a table of confusions n_ij, t_i = sum_j n_ij, in [0, 1]; None of nothing.

    pixel_accuracy: sum_i n_ii / sum_i t_i. mean_accuracy: mean of n_ii / t_i over the classes that
    occur. mean_iou: mean of n_ii / (t_i + sum_j n_ji - n_ii) over the classes that occur or are
    answered. frequency_weighted_iou: the same, weighted by t_i.
    """
    right, true, answered = np.diag(table), table.sum(1), table.sum(0)
    total, union = true.sum(), true + answered - right
    if not total:
        names = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
        return dict.fromkeys(names)
    iou = np.divide(right, union, out=np.zeros(len(table)), where=union > 0)
    accuracy = np.divide(right, true, out=np.zeros(len(table)), where=true > 0)
    return {
        "pixel_accuracy": float(right.sum() / total),
        "mean_accuracy": float(accuracy.sum() / (true > 0).sum()),
        "mean_iou": float(iou.sum() / (union > 0).sum()),
        "frequency_weighted_iou": float((true * iou).sum() / total),
    }
