"""A VGG-16 at CIFAR size whose spiking neurons all fire at the rate asked for; random weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from baselines import inference
from onnx import TensorProto, helper, numpy_helper

from backends.workers import available_cores
from snncompiler.driver import compile_model

VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(rate: float, widths: tuple[int, ...] = VGG) -> onnx.ModelProto:
    """A VGG-16 for 32 x 32 images with random weights; widths: 0 is a max pool.

    Its biases are found layer by layer, such that spiking neurons with a threshold at the 99.9 %
    percentile of their channel fire at this rate, everywhere.
    """
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "image"
    x, sent = noise(32), noise(2)[None]  # what the trained and the spiking network pass on
    for i, width in enumerate(widths):
        if not width:
            nodes.append(helper.make_node("MaxPool", [name], [f"p{i}"], f"p{i}",
                                          kernel_shape=[2, 2], strides=[2, 2]))  # fmt: skip
            x, sent = pooled(x), np.diff(pooled(sent.cumsum(0)), axis=0, prepend=0)
            name = f"p{i}"
            continue
        w = rng.normal(0, 1, (width, x.shape[1], 3, 3)).astype(np.float32)
        z = convolved(x, w)
        z, w = z / z.std(), w / z.std()
        current = convolved(sent.reshape(-1, *sent.shape[2:]), w).reshape(
            *sent.shape[:2], *z.shape[1:]
        )
        low, high = np.quantile(z, 0.001), z.max()
        for _ in range(10):
            b = np.full(width, -(low + high) / 2, np.float32)
            theta, fired = firing(z, current, b)
            low, high = (-b[0], high) if fired.mean() > rate else (low, -b[0])
        x, sent = np.maximum(z + b[:, None, None], 0), fired * theta
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        inputs = [name, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{i}"], f"c{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"r{i}"))
        name = f"r{i}"
    w = rng.normal(0, 0.05, (10, widths[-2])).astype(np.float32)
    weights.append(numpy_helper.from_array(w, "head"))
    nodes.append(helper.make_node("Flatten", [name], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "head"], ["y"], "y", transB=1))
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
    ]
    graph = helper.make_graph(nodes, "vgg16", ports[:1], ports[1:], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def noise(n: int) -> np.ndarray:
    """The images of the VGG-16."""
    return np.random.default_rng(1).normal(0, 1, (n, 3, 32, 32)).astype(np.float32)


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x * w with a border of zeros, [N, C, H, W]."""
    node = helper.make_node("Conv", ["x", "w"], ["z"], pads=[1] * 4)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "xz"]
    given = [numpy_helper.from_array(w.astype(np.float32), "w")]
    graph = helper.make_graph([node], "layer", ports[:1], ports[1:], given)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    (z,) = inference(model, x.astype(np.float32), available_cores())()  # type: ignore[misc]
    return np.asarray(z)


def pooled(x: np.ndarray) -> np.ndarray:
    """The largest of every 2 x 2, [..., H, W]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1] // 2, 2).max((-3, -1))


def firing(z: np.ndarray, current: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C, 1, 1] of the ANN's pre-activations z + b, spikes [32, N, ...] of currents."""
    activations = np.maximum(z.swapaxes(0, 1).reshape(len(b), -1) + b[:, None], 0)
    theta = np.maximum(np.quantile(activations, 0.999, axis=1), 1e-3)[:, None, None]
    v, fired = np.zeros(current.shape[1:]), np.zeros((32, *current.shape[1:]), np.float32)
    for t in range(32):
        v += current[min(t, len(current) - 1)] + b[:, None, None]
        fired[t] = v >= theta
        v -= fired[t] * theta
    return theta, fired


def vgg16_of(rate: float, widths: tuple[int, ...] = VGG) -> tuple[onnx.ModelProto, ir.Model]:
    """The VGG-16 whose neurons fire at this rate on average, and its spiking network."""
    ann = vgg16(rate, widths)
    return ann, compile_model(ann, noise(32), recipe="channel-norm", timesteps=32).model
