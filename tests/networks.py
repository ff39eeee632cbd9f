"""Small ONNX networks to test with: a builder, well-known architectures and random DAGs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

Dim = int | str | None
Ints = int | Sequence[int]


class Net:
    """An ONNX graph under construction.

    Every method adds one named node and returns the name of its output; numbers and arrays given
    in place of value names become initialisers. Weights are He-scaled and drawn from `seed`.
    """

    def __init__(self, seed: int = 0, *, opset: int = 17, name: str = "net") -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.ir_version = 8 if opset < 19 else 9 if opset < 21 else 10 if opset < 23 else 11
        self.graph = onnx.GraphProto(name=name)
        self.domains = {"": opset}
        self.counts: Counter[str] = Counter()
        self.shapes: dict[str, tuple[Dim, ...]] = {}

    # ---- values

    def input(
        self, *shape: Dim, name: str = "x", batch: Dim = "N", dtype: int = TensorProto.FLOAT
    ) -> str:
        """Declare a graph input of the given per-sample shape."""
        info = helper.make_tensor_value_info(name, dtype, [batch, *shape])
        self.graph.input.append(info)
        return name

    def constant(self, value: object, name: str) -> str:
        """Add an initialiser: floats become float32, integers int64, other arrays stay."""
        array = np.asarray(value)
        if not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int | None = None) -> np.ndarray:
        """Draw He-scaled float32 weights; the fan-in defaults to all but the first dimension."""
        scale = math.sqrt(2 / (fan_in or math.prod(shape[1:]) or 1))
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Draw a float32 array, uniform in [low, high)."""
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def shape(self, value: str) -> tuple[Dim, ...]:
        """Return the inferred shape of a value: numbers, symbols, or None where unknown."""
        if value not in self.shapes:
            graph = self._inferred().graph
            for info in [*graph.value_info, *graph.input]:
                self.shapes[info.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                    for dim in info.type.tensor_type.shape.dim
                )
        return self.shapes[value]

    def declare(self, value: str, *shape: Dim, batch: Dim = "N") -> str:
        """State the shape of a value for which onnx can infer none."""
        info = helper.make_tensor_value_info(value, TensorProto.FLOAT, [batch, *shape])
        self.graph.value_info.append(info)
        return value

    # ---- nodes

    def op(
        self,
        op_type: str,
        *inputs: object,
        name: str | None = None,
        outputs: int = 1,
        domain: str = "",
        **attributes: object,
    ) -> str | tuple[str, ...]:
        """Add any node. Returns its output name, or a tuple of names if it has several."""
        if name is None:
            self.counts[op_type] += 1
            name = f"{op_type.lower()}{self.counts[op_type]}"
        values = [
            value if isinstance(value, str) else self.constant(value, f"{name}_in{i}")
            for i, value in enumerate(inputs)
        ]
        names = [f"{name}_out{i if outputs > 1 else ''}" for i in range(outputs)]
        node = helper.make_node(op_type, values, names, name=name, domain=domain, **attributes)
        self.graph.node.append(node)
        self.domains.setdefault(domain, 1)
        return names[0] if outputs == 1 else tuple(names)

    def conv(
        self,
        x: str,
        channels: int,
        kernel: Ints = 3,
        *,
        pads: Ints | None = None,
        strides: Ints = 1,
        dilations: Ints = 1,
        group: int = 1,
        bias: bool = True,
        **attributes: object,
    ) -> str:
        """Add a Conv; without `pads` or `auto_pad` it keeps the size at stride 1."""
        _, fan, *space = self.shape(x)
        kernel, strides, dilations = (_each(v, len(space)) for v in (kernel, strides, dilations))
        if pads is None:
            pads = [d * (k - 1) // 2 for k, d in zip(kernel, dilations, strict=True)] * 2
        if "auto_pad" not in attributes:
            attributes["pads"] = _each(pads, 2 * len(space))
        weights = [self.weight(channels, fan // group, *kernel)]
        weights += [self.uniform(-0.3, 0.5, channels)] if bias else []
        return self.op(
            "Conv", x, *weights,
            kernel_shape=kernel, strides=strides, dilations=dilations, group=group, **attributes,
        )  # fmt: skip

    def bn(self, x: str, **attributes: object) -> str:
        """Add a BatchNormalization in inference mode."""
        size = self.shape(x)[1]
        scale, variance = (self.uniform(0.5, 1.5, size) for _ in range(2))
        bias, mean = (self.uniform(-0.3, 0.3, size) for _ in range(2))
        return self.op("BatchNormalization", x, scale, bias, mean, variance, **attributes)

    def gemm(self, x: str, features: int, **attributes: object) -> str:
        """Add a fully connected layer with the weights stored [out, in] (transB = 1)."""
        weight, bias = self.weight(features, self.shape(x)[1]), self.uniform(-0.3, 0.5, features)
        return self.op("Gemm", x, weight, bias, transB=1, **attributes)

    def relu(self, x: str) -> str:
        """Add a Relu."""
        return self.op("Relu", x)

    def pool(
        self, x: str, kernel: Ints = 2, kind: str = "Max", strides: Ints | None = None,
        pads: Ints | None = None, **attributes: object,
    ) -> str:  # fmt: skip
        """Add a MaxPool or AveragePool; the strides default to the kernel."""
        rank = len(self.shape(x)) - 2
        attributes["kernel_shape"] = _each(kernel, rank)
        attributes["strides"] = _each(kernel if strides is None else strides, rank)
        if pads is not None:
            attributes["pads"] = _each(pads, 2 * rank)
        return self.op(f"{kind}Pool", x, **attributes)

    def add(self, *values: object) -> str:
        """Add an Add (a Sum if there are not just two operands)."""
        return self.op("Add" if len(values) == 2 else "Sum", *values)

    def concat(self, *values: str, axis: int = 1) -> str:
        """Add a Concat, over the channels unless said otherwise."""
        return self.op("Concat", *values, axis=axis)

    def flatten(self, x: str, axis: int = 1) -> str:
        """Add a Flatten."""
        return self.op("Flatten", x, axis=axis)

    def upsample(self, x: str, factor: int = 2) -> str:
        """Add a nearest-neighbour Resize by a whole factor, the usual one of an FPN."""
        scales = np.array([1, 1, *[factor] * (len(self.shape(x)) - 2)], np.float32)
        return self.op(
            "Resize", x, "", scales,
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip

    # ---- blocks of several nodes

    def conv_relu(self, x: str, channels: int, kernel: Ints = 3, **attributes: object) -> str:
        """Add Conv, Relu."""
        return self.relu(self.conv(x, channels, kernel, **attributes))

    def conv_bn(self, x: str, channels: int, kernel: Ints = 3, **attributes: object) -> str:
        """Add Conv (without bias), BatchNormalization."""
        return self.bn(self.conv(x, channels, kernel, bias=False, **attributes))

    def conv_bn_relu(self, x: str, channels: int, kernel: Ints = 3, **attributes: object) -> str:
        """Add Conv (without bias), BatchNormalization, Relu."""
        return self.relu(self.conv_bn(x, channels, kernel, **attributes))

    def head(self, x: str, classes: int = 5) -> str:
        """Add the last layer: Flatten where needed, Gemm."""
        return self.gemm(x if len(self.shape(x)) == 2 else self.flatten(x), classes)

    # ---- the end

    def model(self, *outputs: str) -> ModelProto:
        """Return the model with the given values as its outputs."""
        self.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        for output, info in zip(self.graph.output, self._inferred().graph.output, strict=True):
            output.CopyFrom(info)
            tensor = output.type.tensor_type
            tensor.elem_type = tensor.elem_type or TensorProto.FLOAT
            if tensor.shape.dim and not tensor.shape.dim[0].HasField("dim_value"):
                # inference loses the name of the batch dimension in a Reshape
                batch = self.graph.input[0].type.tensor_type.shape.dim[0]
                tensor.shape.dim[0].CopyFrom(batch)
        return self._proto()

    def _proto(self) -> ModelProto:
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        return helper.make_model(
            self.graph, opset_imports=opsets, ir_version=self.ir_version, producer_name="tests"
        )

    def _inferred(self) -> ModelProto:
        return shape_inference.infer_shapes(self._proto(), data_prop=True)


def _each(value: Ints, count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


# ---- well-known architectures, small


def mlp(seed: int = 0) -> ModelProto:
    """Return a fully connected network on flat input."""
    net = Net(seed, name="mlp")
    x = net.input(20)
    for width in (32, 24, 16):
        x = net.relu(net.gemm(x, width))
    return net.model(net.gemm(x, 10))


def vgg_like(seed: int = 0) -> ModelProto:
    """Return a plain stack of Convs with overlapping and ceil_mode pooling, and a Gemm head."""
    net = Net(seed, name="vgg_like")
    x = net.input(3, 16, 16)
    x = net.conv_bn_relu(net.conv_bn_relu(x, 8), 8)
    x = net.pool(x, 3, strides=2, pads=1)
    x = net.pool(net.conv_relu(x, 16), 3, strides=2, ceil_mode=1)
    x = net.relu(net.gemm(net.flatten(x), 32))
    return net.model(net.gemm(x, 10))


def residual(seed: int = 0) -> ModelProto:
    """Return a ResNet: two identity blocks around a strided one with a projection."""
    net = Net(seed, name="residual")
    x = net.conv_bn_relu(net.input(3, 12, 12), 8)
    for width, strides in ((8, 1), (12, 2), (12, 1)):
        y = net.conv_bn(net.conv_bn_relu(x, width, strides=strides), width)
        skip = x if strides == 1 else net.conv_bn(x, width, 1, strides=strides)
        x = net.relu(net.add(y, skip))
    return net.model(net.head(net.op("GlobalAveragePool", x), 10))


def preactivation(seed: int = 0) -> ModelProto:
    """Return a ResNet v2: BatchNormalization and Relu in front of every Conv, a bare sum behind."""
    net = Net(seed, name="preactivation")
    x = net.conv(net.input(3, 12, 12), 8)
    for width, strides in ((8, 1), (12, 2)):
        y = net.relu(net.bn(x))
        skip = x if strides == 1 else net.conv(y, width, 1, strides=strides, bias=False)
        y = net.relu(net.bn(net.conv(y, width, strides=strides, bias=False)))
        x = net.add(net.conv(y, width, bias=False), skip)
    return net.model(net.head(net.op("GlobalAveragePool", net.relu(net.bn(x))), 10))


def inception(seed: int = 0) -> ModelProto:
    """Return two blocks of four branches whose activations differ in scale by up to a hundred."""
    net = Net(seed, name="inception")
    x = net.conv_relu(net.input(3, 12, 12), 8, strides=2)
    for scale in (10, 0.1):
        small = net.op("Mul", net.conv(x, 4, 1), np.float32(scale))
        branches = [
            net.relu(small),
            net.conv_relu(net.conv_relu(x, 3, 1), 4),
            net.conv_relu(net.conv_relu(x, 2, 1), 3, 5),
            net.conv_relu(net.pool(x, 3, strides=1, pads=1), 3, 1),
        ]
        x = net.concat(*branches)
    x = net.pool(x, 3, "Average", strides=2, pads=1, count_include_pad=0)
    return net.model(net.head(x, 10))


def depthwise(seed: int = 0) -> ModelProto:
    """Return a MobileNet v2: inverted residuals with depthwise Convs, Relu6, linear bottlenecks."""
    net = Net(seed, name="depthwise")

    def relu6(x: str) -> str:
        return net.op("Clip", x, 0.0, 6.0)

    x = relu6(net.conv_bn(net.input(3, 12, 12), 6, strides=2))
    for width, strides in ((6, 1), (8, 2)):
        y = relu6(net.conv_bn(x, 12, 1))
        y = relu6(net.conv_bn(y, 12, strides=strides, group=12))
        y = net.conv_bn(y, width, 1)
        x = net.add(x, y) if strides == 1 else y
    x = relu6(net.conv_bn(x, 16, 1))
    return net.model(net.head(net.op("GlobalAveragePool", x), 10))


def densenet_like(seed: int = 0) -> ModelProto:
    """Return a DenseNet: BatchNormalization-Relu-Conv over growing Concats, AveragePool between."""
    net = Net(seed, name="densenet_like")
    x = net.pool(net.conv_bn_relu(net.input(3, 14, 14), 8), 3, strides=2, pads=1)
    for block in range(2):
        if block:
            x = net.pool(net.conv(net.relu(net.bn(x)), 8, 1, bias=False), 2, "Average")
        for _ in range(2):
            x = net.concat(x, net.conv(net.relu(net.bn(x)), 4, bias=False))
    return net.model(net.head(net.op("GlobalAveragePool", net.relu(net.bn(x))), 10))


def fpn(seed: int = 0) -> ModelProto:
    """Return a feature pyramid: top-down Resize plus lateral Add, one head on each level."""
    net = Net(seed, name="fpn")
    low = net.conv_bn_relu(net.input(3, 16, 16), 8, strides=2)
    high = net.conv_bn_relu(low, 12, strides=2)
    top = net.conv(high, 8, 1)
    bottom = net.add(net.upsample(top), net.conv(low, 8, 1))
    outputs = [net.conv(net.conv_relu(level, 8), 6, 1) for level in (bottom, top)]
    return net.model(*outputs)


ARCHITECTURES = {
    build.__name__: build
    for build in (
        mlp, vgg_like, residual, preactivation, inception, depthwise, densenet_like, fpn,
    )
}  # fmt: skip


# ---- random DAGs


class _RandomNet(Net):
    """Chooses blocks at random. Every method returns a value made of non-negative activations."""

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    layers = 0
    neurons = 0

    def activate(self, x: str) -> str:
        self.layers += 1
        self.neurons += math.prod(self.shape(x)[1:])
        return self.op("Clip", x, 0.0, 6.0) if self.chance(0.2) else self.relu(x)

    def linear(self, x: str, width: int, kernel: int = 3, **attributes: object) -> str:
        """Add a Conv, perhaps with a BatchNormalization or per-channel constants behind it."""
        y = self.conv(x, width, kernel, bias=self.chance(0.6), **attributes)
        kind = self.pick("plain", "plain", "bn", "bn", "mul", "add", "scale")
        if kind == "bn":
            y = self.bn(y)
        if kind in ("mul", "scale"):
            y = self.op("Mul", y, self.uniform(0.3, 1.5, 1, width, 1, 1))
        if kind in ("add", "scale"):
            y = self.add(y, self.uniform(-0.3, 0.3, width, 1, 1))
        return y

    def stride(self, x: str) -> int:
        return 2 if self.shape(x)[2] >= 8 and self.chance(0.4) else 1

    # blocks

    def plain(self, x: str, width: int) -> str:
        kernel, dilation = self.pick((1, 1), (3, 1), (3, 1), (3, 2), (5, 1))
        pads = dilation * (kernel - 1) // 2
        pads = [pads, pads, pads, pads + 1] if self.chance(0.15) else pads
        strides = self.stride(x)
        y = self.linear(x, width, kernel, dilations=dilation, strides=strides, pads=pads)
        return self.activate(y)

    def grouped(self, x: str, width: int) -> str:
        channels = self.shape(x)[1]
        group = self.pick(2, channels) if channels % 2 == 0 else channels
        return self.activate(self.linear(x, channels, group=group, strides=self.stride(x)))

    def bn_before_conv(self, x: str, width: int) -> str:
        return self.activate(self.conv(self.bn(x), width))

    def conv_maxpool_relu(self, x: str, width: int) -> str:
        return self.activate(self.maxpool(self.linear(x, width)))

    def identity_block(self, x: str, width: int) -> str:
        channels = self.shape(x)[1]
        y = self.linear(self.activate(self.linear(x, channels)), channels)
        return self.activate(self.add(*self.pick((x, y), (y, x))))

    def projection_block(self, x: str, width: int) -> str:
        strides = self.stride(x)
        y = self.linear(self.activate(self.linear(x, width, strides=strides)), width)
        return self.activate(self.add(y, self.linear(x, width, 1, strides=strides)))

    def preactivation_block(self, x: str, width: int) -> str:
        # two blocks, so that a sum without activation is itself normalised and skipped
        channels = self.shape(x)[1]
        for _ in range(2):
            x = self.add(x, self.conv(self.activate(self.bn(x)), channels, bias=False))
        return self.activate(self.bn(x))

    def branches(self, x: str, width: int) -> str:
        kinds = [
            lambda: self.activate(self.linear(x, 2, 1)),
            lambda: self.activate(self.linear(self.activate(self.linear(x, 2, 1)), 3)),
            lambda: self.pool(x, 3, strides=1, pads=1),
            lambda: self.activate(self.conv(self.pool(x, 3, "Average", strides=1, pads=1), 2, 1)),
            lambda: x,
        ]
        chosen = self.rng.choice(len(kinds), size=self.pick(2, 3), replace=False)
        y = self.concat(*(kinds[index]() for index in chosen))
        return self.activate(self.linear(y, width, 1)) if self.shape(y)[1] > 10 else y

    def shuffle(self, x: str, width: int) -> str:
        y = self.activate(self.linear(x, 6, 1))
        _, channels, height, columns = self.shape(y)
        y = self.op("Reshape", y, np.array([-1, 2, channels // 2, height, columns]))
        y = self.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        y = self.op("Reshape", y, np.array([-1, channels, height, columns]))
        return self.activate(self.conv(y, width, group=self.pick(1, 2), bias=False))

    def maxpool(self, x: str, width: int = 0) -> str:
        size = self.shape(x)[2]
        if size < 5:
            return self.pool(x, self.pick(2, 3), strides=1, pads=1)
        return self.pick(
            lambda: self.pool(x, 2),
            lambda: self.pool(x, 3, strides=2),
            lambda: self.pool(x, 3, strides=2, pads=1),
            lambda: self.pool(x, 3, strides=2, pads=[0, 0, 1, 1]),
            lambda: self.pool(x, 3, strides=2, ceil_mode=1),
            lambda: self.pool(x, 3, strides=2, pads=1, ceil_mode=1),
            lambda: self.pool(x, 2, strides=1, dilations=[2, 2]),
            lambda: self.pool(x, [3, 2], strides=[2, 1], auto_pad="SAME_UPPER"),
        )()

    def avgpool(self, x: str, width: int = 0) -> str:
        include = self.pick(0, 1)
        if self.shape(x)[2] < 5 or self.chance(0.5):
            strides = self.stride(x)
            return self.pool(x, 3, "Average", strides=strides, pads=1, count_include_pad=include)
        return self.pool(x, 2, "Average", ceil_mode=0)

    def pyramid(self, x: str, width: int) -> str:
        """Go down by two and come back up: nearest Resize plus the lateral connection."""
        even = self.shape(x)[2] % 2 == 0 and self.shape(x)[3] % 2 == 0
        if not even or self.shape(x)[2] < 4:
            return self.plain(x, width)
        deep = self.activate(self.linear(x, width + 2, strides=2))
        top = self.conv(deep, width, 1)
        y = self.add(self.upsample(top), self.conv(x, width, 1))
        return self.activate(y if self.chance(0.5) else self.conv(y, width))

    BLOCKS = (
        plain, plain, grouped, bn_before_conv, conv_maxpool_relu, identity_block,
        projection_block, preactivation_block, branches, shuffle, maxpool, maxpool, avgpool,
        pyramid,
        pyramid,
    )  # fmt: skip


def random_dag(seed: int) -> ModelProto:
    """Return a random network of about 5 to 14 neuron layers that mixes every kind of block."""
    net = _RandomNet(seed, name=f"random_dag_{seed}")
    size = net.pick(8, 9, 10, 12, 12)
    x = net.input(net.pick(1, 3), size, net.pick(size, size + 2))
    if net.chance(0.2):
        x = net.bn(x)
    x = net.activate(net.linear(x, net.pick(4, 6), strides=net.pick(1, 2, 2)))
    taps = []
    depth = net.rng.integers(5, 11)
    while net.layers < depth and net.neurons < 2500:
        x = net.pick(*net.BLOCKS)(net, x, int(net.pick(4, 6, 8)))
        taps.append(x)
    outputs = [_head(net, x)]
    if net.chance(0.3):
        outputs.append(_head(net, net.pick(*taps)))
    return net.model(*outputs)


def _head(net: _RandomNet, x: str) -> str:
    kind = net.pick("global", "reduce", "flatten", "hidden")
    if kind == "global":
        x = net.op("GlobalAveragePool", x)
    if kind == "reduce":
        return net.gemm(net.op("ReduceMean", x, axes=[2, 3], keepdims=0), 5)
    if kind == "hidden":
        x = net.relu(net.gemm(net.flatten(x), 12))
    return net.head(x)


# ---- data


def data_input(model: ModelProto) -> onnx.ValueInfoProto:
    """Return the graph input that takes the data, which need not be the first in an old file."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return next(info for info in model.graph.input if info.name not in weights)


def fixed_batch(model: ModelProto) -> int | None:
    """Return the batch size that the model hard-codes, or None."""
    return data_input(model).type.tensor_type.shape.dim[0].dim_value or None


def sample_input(model: ModelProto, n: int, seed: int = 0, nonnegative: bool = False) -> np.ndarray:
    """Return n standard normal samples (or their absolute values) for the data input."""
    shape = [dim.dim_value for dim in data_input(model).type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).standard_normal((n, *shape[1:]))
    return (np.abs(x) if nonnegative else x).astype(np.float32)


if __name__ == "__main__":
    import onnxruntime as ort

    worst = 0.0
    layers, neurons, seen = [], [], Counter()
    for number in range(300 + len(ARCHITECTURES)):
        build = list(ARCHITECTURES.values())[number - 300] if number >= 300 else random_dag
        model = build(number)
        assert model == build(number), number
        onnx.checker.check_model(model, full_check=True)
        outputs = len(model.graph.output)
        seen.update({node.op_type for node in model.graph.node})
        # every value becomes an output, to see none is dead or explodes
        everything = shape_inference.infer_shapes(model, data_prop=True)
        names = {info.name for info in everything.graph.output}
        everything.graph.output.extend(
            info
            for info in everything.graph.value_info
            if info.name not in names and info.type.tensor_type.elem_type == TensorProto.FLOAT
        )
        session = ort.InferenceSession(everything.SerializeToString())
        for batch in (1, 3):
            x = sample_input(model, batch, number)
            values = session.run(None, {"x": x})
            worst = max(worst, *(float(np.abs(value).max()) for value in values))
            assert all(np.abs(value).max() > 1e-3 for value in values[:outputs]), number
            assert all(len(value) == batch for value in values[:outputs]), number
        shapes = dict(
            zip((o.name for o in everything.graph.output), (v.shape for v in values), strict=True)
        )
        neural = [n for n in model.graph.node if n.op_type in ("Relu", "Clip")]
        layers.append(len(neural))
        neurons.append(sum(math.prod(shapes[n.output[0]][1:]) for n in neural))
    print(f"largest |value| {worst:.1f}; neuron layers {min(layers)}..{max(layers)};", end=" ")
    print(f"neurons {min(neurons)}..{max(neurons)}, median {int(np.median(neurons))}")
    print(seen)
