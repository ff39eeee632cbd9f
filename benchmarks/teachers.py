"""Four networks that teach together: one and the VGG, with images as they are and mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from results import SHARED


def four(model: Path) -> list[Path | onnx.ModelProto]:
    """The network and the VGG of the development data, for the image and for the mirrored one."""
    both = [model, SHARED / "models" / "cifar10_vgg.onnx"]
    return [*both, *(mirrored(path) for path in both)]


def mirrored(path: Path) -> onnx.ModelProto:
    """The network for the mirrored image [N, C, H, W]."""
    model = onnx.load(path)
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        for i, value in enumerate(node.input):
            node.input[i] = "mirrored" if value == name else value
    bounds = {"mirrored_from": -1, "mirrored_to": -(2**31), "mirrored_axis": 3, "mirrored_step": -1}
    arrays = [numpy_helper.from_array(np.array([v]), k) for k, v in bounds.items()]
    graph.initializer.extend(arrays)
    flip = helper.make_node("Slice", [name, *bounds], ["mirrored"], "mirror")
    graph.node.insert(0, flip)
    return model
