"""A torch module out of the canonical ANN: a small interpreter over its few ops.

Weights and biases of synapses become parameters, but for averages, which stay averages;
activations become quantised ones with trainable thresholds, or stay what they are (the teacher).
Values are [N, ...] as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from snncompiler.finetune.activation import QuantiseClip
from snncompiler.finetune.on_cpu import QuantiseClipOnCpu, has_kernels
from snncompiler.graph import (
    ACTIVATIONS,
    MOVEMENT,
    Array,
    attribute,
    constant,
    data_inputs,
    scale_of,
    shape,
    weights,
)
from snncompiler.movement import index_map
from snncompiler.quantisers import limits_of, slope_of, spread_out

Tensors = dict[ir.Value | None, torch.Tensor]
_CONV: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_POOL: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


class TorchNetwork(torch.nn.Module):
    """The network; its first input is the only one, its outputs come as a tuple.

    Args:
        model: the canonical ANN, thresholds annotated on the activations' outputs.
        timesteps: T of the quantised activations; None: activations as they are.
        channelwise: thresholds per channel; False: one per layer.
    """

    def __init__(self, model: ir.Model, timesteps: int | None, *, channelwise: bool = True) -> None:
        super().__init__()
        self.model, self.timesteps = model, timesteps
        self.noise = 0.0
        self.generator: torch.Generator | None = None
        quantised = [n for n in model.graph if n.op_type in ACTIVATIONS and timesteps is not None]
        limits = {limit for n in quantised for limit in limits_of(n)}  # which they do by themselves
        self.nodes = [n for n in model.graph if n not in limits]
        self.weights: dict[ir.Value, torch.nn.Parameter] = {}
        self.thresholds: dict[ir.Node, torch.nn.Parameter] = {}
        self._constants: dict[ir.Value, str] = {}
        self._indices: dict[ir.Node, str] = {}
        for number, node in enumerate(self.nodes):
            for value in node.inputs:
                self._take(node, value)
            if node.op_type in MOVEMENT - {"Flatten", "Reshape"}:
                self._indices[node] = f"index_{number}"
                index = torch.from_numpy(index_map(node))
                self.register_buffer(self._indices[node], index, persistent=False)
            if node.op_type in ACTIVATIONS and timesteps is not None:
                scale = scale_of(node.outputs[0])
                assert scale is not None, f"'{node.name}' has no threshold"
                channels = shape(node.outputs[0])[0]
                theta = (
                    np.broadcast_to(scale, (channels,)) if channelwise else scale.max(keepdims=True)
                )
                self.thresholds[node] = torch.nn.Parameter(as_tensor(theta))
                self.register_parameter(f"theta_{number}", self.thresholds[node])

    def _take(self, node: ir.Node, value: ir.Value | None) -> None:
        """A constant: trainable, a tensor, or (shapes and axes) left alone."""
        array = constant(value)
        if value is None or array is None or array.dtype.kind != "f":
            return
        if value in self.weights or value in self._constants:
            return
        name = f"value_{len(self.weights) + len(self._constants)}"
        if is_trainable(node):
            self.weights[value] = torch.nn.Parameter(as_tensor(array))
            self.register_parameter(name, self.weights[value])
        else:
            self._constants[value] = name
            self.register_buffer(name, as_tensor(array), persistent=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All outputs of the network for the samples x."""
        values: Tensors = {self.model.graph.inputs[0]: x}
        values.update((value, weight) for value, weight in self.weights.items())
        values.update((value, getattr(self, name)) for value, name in self._constants.items())
        for node in self.nodes:
            values[node.outputs[0]] = self._evaluate(node, values)
        return tuple(values[output] for output in self.model.graph.outputs)

    def _evaluate(self, node: ir.Node, values: Tensors) -> torch.Tensor:
        if node.op_type in MOVEMENT:
            return self._move(node, values)
        if node in self.thresholds:
            return self._quantised(node, values)
        x = [None if v is None else values.get(v) for v in node.inputs]
        return _OPS[node.op_type](node, *x)

    def _quantised(self, node: ir.Node, values: Tensors) -> torch.Tensor:
        assert self.timesteps is not None
        limits = limits_of(node)
        f = values[limits[-1].inputs[0] if limits else node.inputs[0]]
        signed = node.op_type in ("LeakyRelu", "PRelu")
        if signed:
            slope = as_tensor(spread_out(slope_of(node), node.outputs[0])).to(f)
            f = torch.where(f > 0, f, slope * f)
        theta = self.thresholds[node].abs().reshape(-1, *[1] * (f.ndim - 2))
        noise = self.noise if self.training else 0.0
        lowest = -1.0 if signed else 0.0
        activation = QuantiseClipOnCpu if has_kernels(f) else QuantiseClip
        y: torch.Tensor = activation.apply(f, theta, self.timesteps, lowest, noise, self.generator)
        return y

    def _move(self, node: ir.Node, values: Tensors) -> torch.Tensor:
        inputs = [values[v].flatten(1) for v in data_inputs(node)]
        flat = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
        dims = shape(node.outputs[0])
        if node not in self._indices:
            return flat.reshape(len(flat), *dims)
        index = getattr(self, self._indices[node]).reshape(-1)
        moved = flat[:, index.clamp(min=0)] * (index >= 0)
        return moved.reshape(len(flat), *dims)

    def trained_weights(self) -> dict[ir.Value, Array]:
        """The parameters as they are now, by the value that holds them."""
        return {v: p.detach().cpu().numpy() for v, p in self.weights.items()}

    def trained_thresholds(self) -> dict[str, Array]:
        """[C] or [1] by the name of the activation's output."""
        return {
            str(n.outputs[0].name): p.detach().abs().double().cpu().numpy()
            for n, p in self.thresholds.items()
        }


def is_trainable(node: ir.Node) -> bool:
    """Whether a node is a synapse that learns; averages, one number per channel, do not."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    w = weights(node.inputs[1])
    one_to_one = node.op_type == "Conv" and w.shape[:2] == (attribute(node, "group", 1), 1)
    flat = w.reshape(len(w), -1)
    return not (one_to_one and len(node.inputs) < 3 and (flat == flat[:, :1]).all())


def as_tensor(array: Array) -> torch.Tensor:
    """In single precision, as everything here."""
    return torch.from_numpy(np.array(array, np.float32))


def _padded(x: torch.Tensor, pads: Sequence[int], fill: float) -> torch.Tensor:
    """ONNX pads [begins, ends] as torch wants them: last axis first, (begin, end) each."""
    if not any(pads):
        return x
    n = len(pads) // 2
    turned = [p for i in reversed(range(n)) for p in (pads[i], pads[i + n])]
    return functional.pad(x, turned, value=fill)


def _conv(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor:
    pads = attribute(node, "pads")
    n = len(pads) // 2
    even = pads[:n] == pads[n:] and min(pads, default=0) >= 0
    return _CONV[n](
        x if even else _padded(x, pads, 0.0),
        w,
        b,
        stride=attribute(node, "strides"),
        padding=pads[:n] if even else 0,
        dilation=attribute(node, "dilations"),
        groups=attribute(node, "group", 1),
    )


def _conv_transpose(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor:
    pads = attribute(node, "pads")
    y = _TRANSPOSED[len(pads) // 2](
        x,
        w,
        b,
        stride=attribute(node, "strides"),
        output_padding=attribute(node, "output_padding"),
        groups=attribute(node, "group", 1),
        dilation=attribute(node, "dilations"),
    )
    return _padded(y, [-p for p in pads], 0.0)


def _max_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    kernel = attribute(node, "kernel_shape")
    x = _padded(x, attribute(node, "pads"), float("-inf"))
    strides, dilations = attribute(node, "strides"), attribute(node, "dilations")
    return _POOL[len(kernel)](x, kernel, strides, dilation=dilations)


def _leaky(node: ir.Node, x: torch.Tensor, *_slope: torch.Tensor | None) -> torch.Tensor:
    slope = as_tensor(spread_out(slope_of(node), node.outputs[0])).to(x)
    return torch.where(x > 0, x, slope * x)


_OPS: dict[str, Callable[..., torch.Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": lambda _node, x, w, b=None: functional.linear(x, w, b),
    "MatMul": lambda _node, a, b: a @ b,
    "Mul": lambda _node, a, b: a * b,
    "Add": lambda _node, a, b: a + b,
    "Min": lambda _node, a, b: torch.minimum(a, b),
    "Max": lambda _node, a, b: torch.maximum(a, b),
    "MaxPool": _max_pool,
    "Identity": lambda _node, x: x,
    "Relu": lambda _node, x: torch.relu(x),
    "Clip": lambda _node, x, low, high: torch.clamp(x, low, high),
    "LeakyRelu": _leaky,
    "PRelu": _leaky,
}
