"""Labels of DATA.npz for tasks beyond classification.

detection      `boxes` float [M, 5]: x1, y1, x2, y2 in pixels of the network's input, then the
               index of the class; `box_image` integer [M]: the sample each box lies in
segmentation   `y` integer [N, H, W]: the class of every pixel of the output, 255 for void
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snncompiler.data import read
from snncompiler.detection import Truth
from snncompiler.diagnostics import InputError, refuse
from snncompiler.graph import Array
from snncompiler.segmentation import VOID

_SAVE_BOXES = "np.savez('data.npz', x=..., boxes=boxes, box_image=box_image), see docs/tasks.md"
_SAVE_MAPS = "np.savez('data.npz', x=..., y=label_maps), with 255 for void, see docs/tasks.md"


def load_boxes(path: str | Path, samples: int, classes: int) -> list[Truth] | None:
    """True boxes of each of `samples` samples; None if the file has no labels.

    Raises:
        InputError: the labels are of another form, or of samples or classes that do not exist.
    """
    arrays = read(Path(path), ("boxes", "box_image", "y"))
    if "boxes" not in arrays and "box_image" not in arrays:
        if "y" in arrays:
            why = "'y' holds classes of images or pixels; detection needs 'boxes' and 'box_image'"
            raise refuse(f"'{path}' has no labels for detection", why, f"save {_SAVE_BOXES}")
        return None
    if len(arrays) - ("y" in arrays) < 2:
        there = "boxes" if "boxes" in arrays else "box_image"
        why = f"there is '{there}' alone; 'boxes' and 'box_image' belong together"
        raise _misfit(path, why)
    boxes, image = arrays["boxes"], arrays["box_image"]
    if boxes.ndim != 2 or boxes.shape[1] != 5 or boxes.dtype.kind not in "fiu":
        raise _misfit(path, f"'boxes' is {boxes.dtype} {list(boxes.shape)}; needed: float [M, 5]")
    if image.shape != boxes.shape[:1] or image.dtype.kind not in "iu":
        why = f"'box_image' is {image.dtype} {list(image.shape)}; needed: integer [{len(boxes)}]"
        raise _misfit(path, why)
    table = boxes.astype(np.float64)
    if not np.isfinite(table).all():
        raise _misfit(path, "'boxes' holds NaN or infinite values")
    if (table[:, 2:4] < table[:, :2]).any():
        first = int(np.flatnonzero((table[:, 2:4] < table[:, :2]).any(1))[0])
        raise _misfit(path, f"box {first} has x2 < x1 or y2 < y1: {table[first].tolist()}")
    kinds = table[:, 4]
    odd = kinds[(kinds != np.floor(kinds)) | (kinds < 0) | (kinds >= classes)]
    if len(odd):
        why = f"there is a class {odd[0]:g}; the decoding names {classes}, indices from 0"
        raise _misfit(path, why)
    if len(image) and (image.min() < 0 or image.max() >= len(read(Path(path), ("x",))["x"])):
        raise _misfit(path, f"'box_image' names samples {image.min()} to {image.max()}")
    # Samples beyond the limit take their boxes with them.
    order = [np.flatnonzero(image == i) for i in range(samples)]
    return [Truth(table[rows, :4], table[rows, 4].astype(np.int64)) for rows in order]


def load_maps(path: str | Path, samples: int, classes: int) -> Array | None:
    """Label maps uint8 [samples, H, W]; None if the file has no labels.

    Raises:
        InputError: the labels are of another form, or of classes that do not exist.
    """
    y = read(Path(path), ("y",)).get("y")
    if y is None:
        return None
    what = f"the labels 'y' in '{path}' are no label maps"
    if y.ndim != 3 or y.dtype.kind not in "iu":
        why = f"'y' is {y.dtype} {list(y.shape)}; segmentation needs integers [N, H, W]"
        raise refuse(what, why, f"save {_SAVE_MAPS}")
    total = len(read(Path(path), ("x",))["x"])
    if len(y) != total:
        raise refuse(what, f"there are {total} samples but {len(y)} maps", f"save {_SAVE_MAPS}")
    maps: Array = y.astype(np.int64)
    wrong = maps[((maps < 0) | (maps >= classes)) & (maps != VOID)]
    if len(wrong):
        why = f"a pixel has class {wrong[0]}; the network knows 0 to {classes - 1}, and 255 is void"
        raise refuse(what, why, f"save {_SAVE_MAPS}")
    return maps[:samples].astype(np.uint8)


def _misfit(path: str | Path, why: str) -> InputError:
    return refuse(f"the labels in '{path}' are no true boxes", why, f"save {_SAVE_BOXES}")
