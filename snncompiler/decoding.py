"""What the outputs of a detector mean: a small JSON beside the model, and boxes from raw outputs.

Two kinds. All outputs are read before their sigmoid, s(v) = 1 / (1 + exp(-v)); A anchors (width and
height in pixels) and K classes per grid cell (row r, column c), cells `stride` pixels apart.

    yolo: one output [A (5 + K), H, W] per level; per anchor x, y, w, h, o and K classes
        centre = (s(x) + c, s(y) + r) stride      size = anchor exp(w, h)
        score of class k = s(o) s(class k)
    retinanet: outputs [4 A, H, W] and [K A, H, W] per level; per anchor x, y, w, h, and K classes
        centre = ((c, r) + 1/2) stride + anchor (x, y)    size = anchor exp(w, h)
        score of class k = s(class k)

(Redmon and Farhadi 2018; Ren et al. 2015 and Lin et al. 2017.) The JSON is an object:

    kind               "yolo" or "retinanet"
    image              [height, width] of the network's input in pixels
    classes            names, in the order of the outputs
    levels             a list of {"output": NAME, "stride": pixels, "anchors": [[w, h], ...]};
                       for retinanet "boxes": NAME, "scores": NAME in place of the output
    score_threshold    optional, 0.05: lower scores are dropped
    nms_overlap        optional, 0.5: of two boxes of one class that overlap more, the better stays
    most               optional, 100: detections kept per image
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snncompiler.boxes import suppress
from snncompiler.diagnostics import InputError, refuse
from snncompiler.graph import Array

_KINDS = {"yolo": ("output",), "retinanet": ("boxes", "scores")}
_NEEDED = ("kind", "image", "classes", "levels")
_OPTIONAL = {"score_threshold": 0.05, "nms_overlap": 0.5, "most": 100}
#: Sides and strides that mean something, in pixels.
_LEAST, _MOST = 1e-3, 1e6
#: exp() of more than this is no size of a box but a wild output.
_LARGEST = math.log(1000 / 16)


class Detections(NamedTuple):
    """What was found in one image, best first: corners [n, 4], scores [n], class indices [n]."""

    boxes: Array
    scores: Array
    classes: Array


@dataclass(frozen=True)
class Level:
    """One grid: its outputs by name, the distance of its cells, its anchors [A, 2] (w, h)."""

    outputs: tuple[str, ...]
    stride: float
    anchors: Array


@dataclass(frozen=True)
class Decoding:
    """The parameters of a decoding JSON; see the head of the module."""

    kind: str
    image: tuple[int, int]
    classes: tuple[str, ...]
    levels: tuple[Level, ...]
    score_threshold: float = 0.05
    nms_overlap: float = 0.5
    most: int = 100

    def outputs(self) -> dict[str, tuple[int, int, int]]:
        """Shapes [channels, H, W] of the outputs it reads, by name."""
        found = {}
        for level in self.levels:
            grid = (math.ceil(side / level.stride) for side in self.image)
            rows, columns = grid
            a, k = len(level.anchors), len(self.classes)
            channels = (a * (5 + k),) if self.kind == "yolo" else (4 * a, k * a)
            for name, depth in zip(level.outputs, channels, strict=True):
                found[name] = (depth, rows, columns)
        return found

    def decode(self, outputs: Mapping[str, Array]) -> list[Detections]:
        """Detections of every sample; outputs: [N, channels, H, W] by name."""
        parts = [self._level(level, outputs) for level in self.levels]
        boxes = np.concatenate([b for b, _ in parts], 1)
        scores = np.concatenate([s for _, s in parts], 1)
        return [self._select(b, s) for b, s in zip(boxes, scores, strict=True)]

    def _level(self, level: Level, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Corners [N, A H W, 4] and scores [N, A H W, K]."""
        tables = []
        for name in level.outputs:
            raw = outputs[name].astype(np.float64)
            n, _, rows, columns = raw.shape
            table = raw.reshape(n, len(level.anchors), -1, rows, columns)
            tables.append(table.transpose(0, 1, 3, 4, 2))
        # [A, H, W, 2], x before y like everything that follows.
        cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), 2)
        anchors = level.anchors[:, None, None]
        if self.kind == "yolo":
            (table,) = tables
            centres = (_sigmoid(table[..., :2]) + cells) * level.stride
            shape, scores = table[..., 2:4], _sigmoid(table[..., 4:5]) * _sigmoid(table[..., 5:])
        else:
            table, logits = tables
            centres = (cells + 0.5) * level.stride + anchors * table[..., :2]
            shape, scores = table[..., 2:4], _sigmoid(logits)
        half = anchors * np.exp(np.minimum(shape, _LARGEST)) / 2
        limits = np.array([*self.image[::-1]] * 2, np.float64)
        corners = np.clip(np.concatenate([centres - half, centres + half], -1), 0, limits)
        return corners.reshape(n, -1, 4), scores.reshape(n, -1, len(self.classes))

    def _select(self, boxes: Array, scores: Array) -> Detections:
        kept = []
        for k in range(len(self.classes)):
            (likely,) = np.nonzero(scores[:, k] >= self.score_threshold)
            # Beyond ten times what is kept in the end, nothing survives that would matter.
            likely = likely[np.argsort(-scores[likely, k], kind="stable")[: 10 * self.most]]
            likely = likely[suppress(boxes[likely], scores[likely, k], self.nms_overlap)]
            kept.append(np.stack([likely, np.full_like(likely, k)], 1))
        index, classes = np.concatenate(kept).T
        found = scores[index, classes]
        best = np.argsort(-found, kind="stable")[: self.most]
        return Detections(boxes[index[best]], found[best], classes[best])


def _sigmoid(v: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * v))
    return result


def load_decoding(path: str | Path) -> Decoding:
    """Read a decoding from its JSON file.

    Raises:
        InputError: the file cannot be read, is no JSON, or says something that means nothing.
    """
    try:
        given = json.loads(Path(path).read_bytes())
    except OSError as error:
        why = error.strerror or "it cannot be opened"
        raise refuse(f"cannot read '{path}'", why, "check the path") from None
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"it is no JSON ({str(error)[:100]})") from None
    if not isinstance(given, dict):
        raise _wrong(path, "it holds no object {...}")
    _check_keys(path, "it", given, _NEEDED, tuple(_OPTIONAL))
    kind = given["kind"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _wrong(path, f"there is no kind {kind!r}: only {' and '.join(_KINDS)}")
    image = given["image"]
    if not _numbers(image, 2) or any(int(s) != s for s in image):
        raise _wrong(path, "'image' has to be [height, width] in pixels")
    classes = given["classes"]
    named = isinstance(classes, list) and all(isinstance(c, str) and c for c in classes)
    if not named or not classes:
        raise _wrong(path, "'classes' has to be a list of names")
    if not isinstance(given["levels"], list) or not given["levels"]:
        raise _wrong(path, "'levels' has to be a list of at least one object")
    levels = tuple(_level(path, kind, i, level) for i, level in enumerate(given["levels"]))
    names = [name for level in levels for name in level.outputs]
    if len(set(names)) < len(names):
        raise _wrong(path, "two levels read the same output")
    options = {k: given.get(k, v) for k, v in _OPTIONAL.items()}
    for name in ("score_threshold", "nms_overlap"):
        if not _number(options[name]) or not 0 <= options[name] <= 1:
            raise _wrong(path, f"'{name}' has to be a number from 0 to 1")
    if type(options["most"]) is not int or options["most"] < 1:
        raise _wrong(path, "'most' has to be a whole number, 1 or more")
    size = (int(image[0]), int(image[1]))
    return Decoding(kind, size, tuple(classes), levels, **options)


def _level(path: str | Path, kind: str, index: int, given: Any) -> Level:
    where = f"level {index}"
    if not isinstance(given, dict):
        raise _wrong(path, f"{where} is no object {{...}}")
    _check_keys(path, where, given, (*_KINDS[kind], "stride", "anchors"), ())
    if not all(isinstance(given[k], str) for k in _KINDS[kind]):
        raise _wrong(path, f"{where} has to name its outputs")
    if not _numbers([given["stride"]], 1):
        raise _wrong(path, f"the stride of {where} has to be a number of pixels above 0")
    anchors = given["anchors"]
    if not (isinstance(anchors, list) and anchors and all(_numbers(a, 2) for a in anchors)):
        raise _wrong(path, f"the anchors of {where} have to be a list of [width, height] above 0")
    names = tuple(given[k] for k in _KINDS[kind])
    return Level(names, float(given["stride"]), np.array(anchors, np.float64))


def _check_keys(
    path: str | Path,
    where: str,
    given: Mapping[str, object],
    needed: tuple[str, ...],
    optional: tuple[str, ...],
) -> None:
    missing = [k for k in needed if k not in given]
    odd = [k for k in given if k not in (*needed, *optional)]
    if missing:
        raise _wrong(path, f"{where} lacks {', '.join(map(repr, missing))}")
    if odd:
        known = ", ".join((*needed, *optional))
        raise _wrong(
            path, f"{where} has unknown keys: {', '.join(map(repr, odd))} (known: {known})"
        )


def _number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= _MOST  # type: ignore[arg-type]


def _numbers(value: object, count: int) -> bool:
    """Whether it is a list of so many sizes in pixels."""
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(_number(v) and v >= _LEAST for v in value)


def _wrong(path: str | Path, why: str) -> InputError:
    return refuse(
        f"'{path}' does not tell how to decode detections",
        why,
        "see docs/tasks.md for its keys; models/yolo.json is an example",
    )
