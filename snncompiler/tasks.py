"""What a network is for: its labels, its metrics, its pictures. One class per task.

A task is given with the network's output shapes and the labels of all samples; it hands out scorers
(one for the trained network, one for every time step), which see the outputs batch by batch and
keep what the metrics need, no more: label maps of many steps would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from snncompiler import pictures
from snncompiler.data import Samples
from snncompiler.decoding import Decoding, Detections, load_decoding
from snncompiler.detection import Truth, mean_precision
from snncompiler.diagnostics import refuse
from snncompiler.graph import Array, shape
from snncompiler.labels import load_boxes, load_maps
from snncompiler.segmentation import VOID, confusions, shares

TASKS = ("classification", "detection", "segmentation")
Metrics = dict[str, float | None]
Shapes = Mapping[str, tuple[int, ...]]


class Scorer(Protocol):
    """Collects outputs of samples in their order, and tells how good they were."""

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Take [N, ...] outputs of the next N samples."""

    def metrics(self) -> Metrics:
        """By name, in [0, 1]; empty without labels."""


class Task(Protocol):
    """How to judge and draw what a network says."""

    name: str

    def scorer(self) -> Scorer:
        """A new one, which has seen nothing."""

    def truth(self, x: Array, index: int) -> Array | None:
        """Sample x [C, H, W] with its labels drawn; None without labels."""

    def draw(self, x: Array, outputs: Mapping[str, Array]) -> Array:
        """Sample x with what the outputs [...] of it say."""


@dataclass
class Classification:
    """Top-1 of the first output; y: [N] or None."""

    y: Array | None
    name: str = "classification"

    def scorer(self) -> Scorer:
        """A new one."""
        return _ClassScorer(self.y)

    def truth(self, x: Array, index: int) -> Array | None:
        """Labels of classification are no picture."""
        return None

    def draw(self, x: Array, outputs: Mapping[str, Array]) -> Array:
        """The shares that a softmax of the first output gives to the classes."""
        return pictures.with_bars(pictures.photograph(x), next(iter(outputs.values())).reshape(-1))


@dataclass
class _ClassScorer:
    y: Array | None
    answers: list[Array] = field(default_factory=list)

    def add(self, outputs: Mapping[str, Array]) -> None:
        logits = next(iter(outputs.values()))
        self.answers.append(logits.reshape(len(logits), -1).argmax(1))

    def metrics(self) -> Metrics:
        if self.y is None:
            return {}
        return {"accuracy": float((np.concatenate(self.answers) == self.y).mean())}


@dataclass
class Detection:
    """Boxes from a decoding; labels: true boxes per sample, or None."""

    decoding: Decoding
    labels: Sequence[Truth] | None
    name: str = "detection"

    @classmethod
    def of(
        cls,
        decoding: Decoding,
        image: tuple[int, ...],
        outputs: Shapes,
    ) -> Detection:
        """A detector whose input is `image` [C, H, W], as yet without labels.

        Raises:
            InputError: the decoding is for another network.
        """
        if image[1:] != decoding.image:
            raise refuse(
                f"the decoding is for images of {list(decoding.image)} pixels",
                f"the network's input is {list(image)}",
                "correct 'image' in the decoding JSON, or give the one of this network",
            )
        for name, dims in decoding.outputs().items():
            if name not in outputs:
                raise refuse(
                    f"the decoding reads an output '{name}', which the network does not have",
                    f"its outputs are {', '.join(outputs)}",
                    "name outputs as 'snnc inspect' of the spiking network shows them (a sigmoid "
                    "at the end is left to the host, the value before it is read)",
                )
            if outputs[name] != dims:
                raise refuse(
                    f"the output '{name}' has shape {list(outputs[name])}",
                    f"the decoding makes {list(dims)} of it: anchors, classes and stride",
                    "correct the decoding JSON",
                )
        return cls(decoding, None)

    def scorer(self) -> Scorer:
        """A new one."""
        return _BoxScorer(self)

    def truth(self, x: Array, index: int) -> Array | None:
        """The true boxes."""
        if self.labels is None:
            return None
        true = self.labels[index]
        photo, names = pictures.photograph(x), self.decoding.classes
        return pictures.with_boxes(photo, true.boxes, true.classes, None, names)

    def draw(self, x: Array, outputs: Mapping[str, Array]) -> Array:
        """The boxes that are likely, with their scores."""
        (found,) = self.decoding.decode({k: v[None] for k, v in outputs.items()})
        # What a user would call found; the metrics look at all of them.
        sure = found.scores >= max(0.5 * found.scores.max(initial=0), 0.25)
        boxes = (found.boxes[sure], found.classes[sure], found.scores[sure])
        return pictures.with_boxes(pictures.photograph(x), *boxes, self.decoding.classes)


@dataclass
class _BoxScorer:
    task: Detection
    found: list[Detections] = field(default_factory=list)

    def add(self, outputs: Mapping[str, Array]) -> None:
        self.found += self.task.decoding.decode(outputs)

    def metrics(self) -> Metrics:
        if self.task.labels is None:
            return {}
        return mean_precision(self.found, self.task.labels, len(self.task.decoding.classes))


@dataclass
class Segmentation:
    """A class for every pixel; y: [N, H, W] with 255 for void, or None."""

    classes: int
    y: Array | None
    name: str = "segmentation"

    @classmethod
    def of(cls, outputs: Shapes, y: Array | None = None) -> Segmentation:
        """y: [N, H, W] class indices.

        Raises:
            InputError: the first output is no map of class scores, or not of the labels' size.
        """
        name, dims = next(iter(outputs.items()))
        if len(dims) != 3 or not 2 <= dims[0] < VOID:
            raise refuse(
                f"the output '{name}' is no map of class scores",
                f"it has shape {list(dims)}; segmentation needs [classes, height, width]",
                "choose the --task that the network was trained for",
            )
        if y is not None and y.shape[1:] != dims[1:]:
            raise refuse(
                f"the label maps 'y' have {list(y.shape[1:])} pixels",
                f"the output '{name}' has {list(dims[1:])}",
                "save labels of the size of the output",
            )
        return cls(dims[0], y)

    def scorer(self) -> Scorer:
        """A new one."""
        return _MapScorer(self, np.zeros((self.classes, self.classes), np.int64))

    def truth(self, x: Array, index: int) -> Array | None:
        """The true classes as colours."""
        return None if self.y is None else self._draw(x, self.y[index])

    def draw(self, x: Array, outputs: Mapping[str, Array]) -> Array:
        """The largest score of every pixel as a colour."""
        return self._draw(x, next(iter(outputs.values())).argmax(0))

    def _draw(self, x: Array, labels: Array) -> Array:
        photo = pictures.photograph(x)
        if photo.shape[:2] != labels.shape:  # maps may be coarser than the images
            rows, columns = (
                np.arange(n) * m // n for n, m in zip(photo.shape, labels.shape, strict=False)
            )
            labels = labels[rows][:, columns]
        return pictures.with_labels(photo, labels, self.classes)


@dataclass
class _MapScorer:
    task: Segmentation
    table: Array
    seen: int = 0

    def add(self, outputs: Mapping[str, Array]) -> None:
        scores = next(iter(outputs.values()))
        if self.task.y is not None:
            truth = self.task.y[self.seen : self.seen + len(scores)]
            self.table += confusions(scores.argmax(1), truth, self.task.classes)
        self.seen += len(scores)

    def metrics(self) -> Metrics:
        return {} if self.task.y is None else {**shares(self.table)}


def check_choice(name: str, decode: Path | None) -> None:
    """Refuse a task that is none, and a decoding that is missing or pointless.

    Raises:
        InputError: as said.
    """
    if name not in TASKS:
        raise refuse(f"there is no task '{name}'", "three are known", f"use {', '.join(TASKS)}")
    if name == "detection" and decode is None:
        why = "what the outputs mean (grids, anchors) is not in the network"
        do = "add --decode FILE.json; docs/tasks.md tells its keys"
        raise refuse("detection needs a decoding", why, do)
    if name != "detection" and decode is not None:
        why = "only boxes are decoded"
        raise refuse(f"{name} takes no --decode", why, "add --task detection, or leave it out")


def load_task(
    name: str, model: ir.Model, data: Path, samples: Samples, decode: Path | None
) -> Task:
    """The task of a compiled network, with the labels that `data` holds for these samples.

    Raises:
        InputError: labels or decoding are missing, wrong, or do not fit the network.
    """
    outputs = {str(v.name): shape(v) for v in model.graph.outputs}
    if decode is not None:
        decoding = load_decoding(decode)
        found = Detection.of(decoding, shape(model.graph.inputs[0]), outputs)
        return replace(found, labels=load_boxes(data, len(samples.x), len(decoding.classes)))
    if name == "segmentation":
        task = Segmentation.of(outputs)
        return Segmentation.of(outputs, load_maps(data, len(samples.x), task.classes))
    return Classification(samples.y)
