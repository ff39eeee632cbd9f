"""One small network for every operator and oddity of its attributes.

CASES must convert. EITHER are valid networks that a compiler may convert or refuse, but must not
get wrong. REFUSED must be refused, naming the nodes listed. Some networks hard-code their batch:
see `networks.fixed_batch`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from networks import Net, fixed_batch, sample_input

Builder = Callable[[], ModelProto]
Step = Callable[[Net, str], str]

CASES: dict[str, Builder] = {}
EITHER: dict[str, Builder] = {}
REFUSED: dict[str, tuple[Builder, list[str]]] = {}

INT64_MAX = 2**63 - 1


def around(
    step: Step, shape=(3, 8, 8), before="relu", after="conv", opset=17, batch="N", channels=4
) -> Builder:
    """Return a builder of a small network with `step` in the middle.

    before: "input" (nothing), "conv", "relu" (Conv, Relu) or "flat" (Conv, Relu, Flatten).
    after: "conv" (Conv or Gemm, then Relu, Gemm), "relu" (Relu, Gemm), "head" (Gemm) or "output".
    """

    def build() -> ModelProto:
        net = Net(seed=len(shape) + sum(shape), opset=opset)
        x = net.input(*shape, batch=batch)
        if before != "input":
            x = net.conv(x, channels)
        if before in ("relu", "flat"):
            x = net.relu(x)
        if before == "flat":
            x = net.flatten(x)
        y = step(net, x)
        if after == "conv":
            y = net.conv(y, 4) if len(net.shape(y)) > 2 else net.gemm(y, 8)
        if after in ("conv", "relu"):
            y = net.relu(y)
        if after != "output":
            y = net.head(y)
        return net.model(y)

    return build


def case(name: str, step: Step, *args: object, **options: object) -> None:
    """Enter `around(step, ...)` into CASES."""
    enter(name, around(step, *args, **options))


def enter(name: str, build: Builder, table: dict[str, Builder] = CASES) -> None:
    """Enter a builder, refusing a name that is taken."""
    assert name not in table, name
    table[name] = build


def whole(build: Builder) -> Builder:
    """Enter a function that builds a whole network under its own name."""
    enter(build.__name__, build)
    return build


def refused(*names: str, **options: object) -> Callable[[Step], Step]:
    """Enter a step function into REFUSED; `names` are the nodes the compiler must name."""

    def enter_step(step: Step) -> Step:
        REFUSED[step.__name__] = (around(step, **options), list(names))
        return step

    return enter_step


# ---- Conv: the layer sees spikes (after a Relu) and padding


def conv(name: str, *args: object, shape=(3, 8, 8), **attributes: object) -> None:
    case(f"conv_{name}", lambda n, x: n.conv(x, *args, **attributes), shape=shape, after="relu")


conv("plain", 5)
conv("no_bias", 5, bias=False)


def _of_8_bits(n: Net, x: str) -> str:
    """Weights kept as integers, with a step per output channel."""
    whole = np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
    steps = np.array([0.002, 0.001, 0.003, 0.002], np.float32)
    w = n.op("DequantizeLinear", whole, steps, axis=0)
    return n.declare(n.op("Conv", x, w, pads=[1] * 4), 4, 8, 8)


case("conv_weights_of_8_bits", _of_8_bits)
conv("1x1", 5, 1)
conv("1x1_stride2", 5, 1, strides=2, shape=(3, 7, 7))
conv("kernel_1x3", 5, [1, 3])
conv("kernel_even", 5, 4, pads=0)
conv("1d", 5, shape=(3, 9))
conv("1d_same_upper", 5, strides=2, auto_pad="SAME_UPPER", shape=(3, 8))
conv("1d_causal", 5, pads=[2, 0], shape=(3, 9))
conv("3d", 5, shape=(2, 4, 5, 6))
conv("3d_stride_pads", 5, 2, strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 0], shape=(2, 4, 5, 6))
conv("valid", 5, auto_pad="VALID", strides=2)
conv("same_upper", 5, auto_pad="SAME_UPPER")
conv("same_upper_stride2", 5, auto_pad="SAME_UPPER", strides=2, shape=(3, 7, 8))
conv("same_lower_stride2", 5, auto_pad="SAME_LOWER", strides=2, shape=(3, 7, 8))
conv("same_upper_even_kernel", 5, 4, auto_pad="SAME_UPPER", strides=[1, 3])
conv("same_lower_even_kernel", 5, 4, auto_pad="SAME_LOWER", strides=[3, 1])
conv("same_upper_1x1_stride2", 5, 1, auto_pad="SAME_UPPER", strides=2, shape=(3, 7, 8))
conv("asymmetric_pads", 5, pads=[0, 1, 2, 1])
conv("asymmetric_strides", 5, strides=[2, 1])
conv("stride3_no_pads", 5, 2, strides=3, pads=0, shape=(3, 9, 7))
conv("dilated", 5, dilations=2)
conv("dilated_asymmetric", 5, dilations=[1, 3], pads=[1, 2, 0, 3])
conv("groups", 6, group=2)
conv("depthwise", 4, group=4)
conv("depthwise_multiplier2", 8, group=4, strides=2)
conv("depthwise_same_upper", 4, group=4, strides=2, auto_pad="SAME_UPPER")
case("conv_twice", lambda n, x: n.conv(n.conv(x, 3), 5), after="relu")
case("conv_first", lambda n, x: n.conv(x, 5, strides=2), before="input", after="relu")
case("conv_last", lambda n, x: n.conv(x, 2), after="output")
case(
    "conv_without_attributes",
    lambda n, x: n.op("Conv", x, n.weight(5, 4, 3, 2), n.uniform(-0.3, 0.5, 5)),
    after="relu",
)


# ---- ConvTranspose


def conv_transpose(
    name: str, kernel: list[int], shape=(3, 4, 5), channels=3, group=1, bias=True, **attributes
) -> None:
    def step(n: Net, x: str) -> str:
        weights = [n.weight(4, channels, *kernel, fan_in=8)]
        weights += [n.uniform(-0.3, 0.5, channels * group)] if bias else []
        return n.op("ConvTranspose", x, *weights, kernel_shape=kernel, group=group, **attributes)

    case(f"conv_transpose_{name}", step, shape=shape, after="relu")


conv_transpose("stride1", [3, 3])
conv_transpose("stride2", [2, 2], strides=[2, 2])
conv_transpose("no_bias", [2, 2], strides=[2, 2], bias=False)
conv_transpose("stride3_kernel2", [2, 2], strides=[3, 3])
conv_transpose("pads", [3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
conv_transpose("asymmetric_pads", [4, 3], strides=[2, 1], pads=[0, 1, 2, 0])
conv_transpose("output_padding", [3, 3], strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])
conv_transpose("output_shape", [3, 3], strides=[2, 2], output_shape=[8, 9])
conv_transpose(
    "output_shape_same_upper", [3, 3], strides=[2, 2], output_shape=[8, 10], auto_pad="SAME_UPPER"
)
conv_transpose("same_upper", [3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
conv_transpose("same_lower", [3, 3], strides=[2, 2], auto_pad="SAME_LOWER")
conv_transpose("valid", [3, 3], strides=[2, 2], auto_pad="VALID")
conv_transpose("dilated", [3, 2], strides=[2, 1], dilations=[2, 3])
conv_transpose("groups", [3, 3], channels=2, group=2, strides=[2, 2], pads=[1] * 4)
conv_transpose("depthwise", [2, 2], channels=1, group=4, strides=[2, 2])
conv_transpose("1d", [3], shape=(3, 6), strides=[2])
conv_transpose("3d", [2, 2, 2], shape=(2, 3, 3, 2), strides=[2, 2, 1])


# ---- Gemm and MatMul


def gemm(name: str, c_shape: tuple[int, ...] | None, transposed=True, **attributes: object) -> None:
    def step(n: Net, x: str) -> str:
        weight = n.weight(6, n.shape(x)[1])
        c = [] if c_shape is None else [n.uniform(-0.3, 0.5, *c_shape)]
        return n.op(
            "Gemm", x, weight if transposed else weight.T.copy(), *c,
            transB=int(transposed), **attributes,
        )  # fmt: skip

    case(f"gemm_{name}", step, shape=(2, 4, 5), before="flat", after="relu")


gemm("trans_b", (6,))
gemm("plain", (6,), transposed=False)
gemm("alpha_beta", (6,), alpha=0.5, beta=2.0)
gemm("alpha_beta_plain", (6,), transposed=False, alpha=1.5, beta=-0.5)
gemm("beta_zero", (6,), beta=0.0)
gemm("no_c", None)
gemm("c_scalar", ())
gemm("c_one", (1,))
gemm("c_1x1", (1, 1), beta=0.5)
gemm("c_row", (1, 6))


@whole
def gemm_trans_a() -> ModelProto:
    """A Gemm that undoes a Transpose of its activations."""
    net = Net()
    x = net.relu(net.gemm(net.input(7), 10))
    y = net.op("Transpose", x, perm=[1, 0])
    y = net.op("Gemm", y, net.weight(6, 10), net.uniform(-0.3, 0.5, 6), transA=1, transB=1)
    return net.model(net.head(net.relu(y)))


@whole
def gemm_opset_9() -> ModelProto:
    """Gemm of an old opset, where C is required, on a graph input that is already flat."""
    net = Net(opset=9)
    return net.model(net.head(net.relu(net.gemm(net.input(7), 10))))


def _gemm_c(n: Net, x: str, width: int, **attributes: object) -> str:
    return n.op("Gemm", x, n.weight(40, 6), n.gemm(x, width), **attributes)


case("gemm_c_activation", lambda n, x: _gemm_c(n, x, 6), (2, 2, 5), "flat", "relu")
case("gemm_c_activation_beta", lambda n, x: _gemm_c(n, x, 6, beta=0.5), (2, 2, 5), "flat", "relu")
case("gemm_c_activation_narrow", lambda n, x: _gemm_c(n, x, 1), (2, 2, 5), "flat", "relu")
case(
    "gemm_trans_a_default_perm",
    lambda n, x: n.op("Gemm", n.op("Transpose", x), n.weight(40, 6), transA=1),
    (2, 2, 5),
    "flat",
    "relu",
)


def matmul(name: str, step: Step, shape: tuple[int, ...]) -> None:
    def with_relu(n: Net, x: str) -> str:
        return step(n, n.relu(step(n, x)))

    case(f"matmul_{name}", with_relu, shape=shape, before="input", after="relu")


matmul("rank2", lambda n, x: n.op("MatMul", x, n.weight(6, 6)), (6,))
matmul("rank2_bias", lambda n, x: n.add(n.op("MatMul", x, n.weight(6, 6)), n.weight(6)), (6,))
matmul(
    "rank2_bias_first",
    lambda n, x: n.add(n.weight(1, 6), n.op("MatMul", x, n.weight(6, 6))),
    (6,),
)
matmul("tokens", lambda n, x: n.op("MatMul", x, n.weight(6, 6)), (4, 6))
matmul("tokens_bias", lambda n, x: n.add(n.op("MatMul", x, n.weight(6, 6)), n.weight(6)), (4, 6))
matmul("left", lambda n, x: n.op("MatMul", n.weight(4, 4), x), (4, 6))
matmul(
    "left_bias",
    lambda n, x: n.add(n.op("MatMul", n.weight(4, 4), x), n.uniform(-0.3, 0.5, 4, 1)),
    (4, 6),
)
matmul("rank4", lambda n, x: n.op("MatMul", x, n.weight(6, 6)), (2, 3, 6))
matmul("rank4_stack_of_one", lambda n, x: n.op("MatMul", x, n.weight(1, 6, 6)), (2, 3, 6))
matmul("left_stack_of_one", lambda n, x: n.op("MatMul", n.weight(1, 1, 3, 3), x), (2, 3, 6))
matmul("tokens_stack_of_one", lambda n, x: n.op("MatMul", n.weight(1, 4, 4), x), (4, 6))
case(
    "matmul_of_flattened",
    lambda n, x: n.add(n.op("MatMul", x, n.weight(n.shape(x)[1], 9)), n.weight(9)),
    before="flat",
    after="relu",
)
case(
    "matmul_weight_transposed",  # as exported from a linear layer without constant folding
    lambda n, x: n.op("MatMul", x, n.op("Transpose", n.weight(9, n.shape(x)[1]), perm=[1, 0])),
    before="flat",
    after="relu",
)


# ---- BatchNormalization anywhere

case("bn_after_conv", lambda n, x: n.bn(x), before="conv", after="relu")
case("bn_after_conv_no_bias", lambda n, x: n.conv_bn(x, 5), after="relu")
case("bn_after_depthwise", lambda n, x: n.conv_bn(x, 4, group=4), after="relu")
case("bn_after_grouped", lambda n, x: n.conv_bn(x, 6, group=2), after="relu")
case("bn_twice", lambda n, x: n.bn(n.bn(x)), before="conv", after="relu")
case("bn_epsilon", lambda n, x: n.bn(x, epsilon=0.25), before="conv", after="relu")
case("bn_momentum", lambda n, x: n.bn(x, momentum=0.5), before="conv", after="relu")
case("bn_opset_8", lambda n, x: n.bn(x, epsilon=0.01), before="conv", after="relu", opset=8)
case("bn_opset_14", lambda n, x: n.bn(x, training_mode=0), before="conv", after="relu", opset=14)
case("bn_after_gemm", lambda n, x: n.bn(n.gemm(x, 7)), before="flat", after="relu")
case("bn_before_gemm", lambda n, x: n.gemm(n.bn(x), 7), before="flat", after="relu")
case("bn_on_input", lambda n, x: n.relu(n.bn(x)), before="input")
case("bn_on_input_before_padded_conv", lambda n, x: n.bn(x), before="input")
case("bn_before_padded_conv", lambda n, x: n.conv(n.bn(x), 5, 5, strides=2), after="relu")
case("bn_before_same_upper", lambda n, x: n.conv(n.bn(x), 5, auto_pad="SAME_UPPER", strides=2))
case("bn_between_convs", lambda n, x: n.conv(n.bn(n.conv(x, 3)), 5), after="relu")
case("bn_after_concat", lambda n, x: n.bn(n.concat(x, n.conv_relu(x, 3))))
case("bn_after_concat_of_convs", lambda n, x: n.bn(n.concat(n.conv(x, 2), n.conv(x, 3, 1))))
case("bn_after_add", lambda n, x: n.relu(n.bn(n.add(x, n.conv(x, 4)))))
case("bn_after_relu", lambda n, x: n.bn(x))
case("bn_after_maxpool", lambda n, x: n.bn(n.pool(x, 3, strides=2, pads=1)))
case("bn_between_conv_and_maxpool", lambda n, x: n.relu(n.pool(n.bn(n.conv(x, 4)), 2)))
case("bn_after_avgpool", lambda n, x: n.relu(n.bn(n.pool(x, 2, "Average"))))
case("bn_1d", lambda n, x: n.bn(x), shape=(3, 9), before="conv", after="relu")
case("bn_3d", lambda n, x: n.bn(x), shape=(2, 4, 3, 5), before="conv", after="relu")
case("bn_rank2_input", lambda n, x: n.bn(x), shape=(7,), before="input", after="conv")


def _bn_after_conv_transpose(n: Net, x: str) -> str:
    y = n.op("ConvTranspose", x, n.weight(4, 3, 2, 2), strides=[2, 2], group=2)
    return n.bn(y)


case("bn_after_conv_transpose", _bn_after_conv_transpose, after="relu", shape=(3, 4, 4))


def _bn_scale(scale: list[float]) -> Step:
    def step(n: Net, x: str) -> str:
        arrays = np.array(scale, np.float32), n.weight(4), n.weight(4), n.uniform(0.5, 2, 4)
        return n.op("BatchNormalization", x, *arrays)

    return step


case("bn_negative_scale", _bn_scale([1, -1, 0.5, -2]), before="conv", after="relu")
case("bn_negative_scale_after_relu", _bn_scale([1, -1, 0.5, -2]))
case("bn_zero_scale", _bn_scale([1, 0, 0.5, 0]), before="conv", after="relu")
case(
    "bn_negative_scale_after_maxpool",
    lambda n, x: n.relu(_bn_scale([1, -1, 0.5, -2])(n, n.pool(x, 2))),
)


# ---- arithmetic with constants, in front of and behind a Relu

CONSTANT_SHAPES = {
    "scalar": (),
    "one": (1,),
    "c11": (4, 1, 1),
    "1c11": (1, 4, 1, 1),
    "map": (1, 4, 5, 6),
    "row": (6,),
    "plane": (5, 6),
    "channel_map": (4, 5, 6),
}


def arithmetic(op: str, kind: str, first: bool = False) -> None:
    def step(n: Net, x: str) -> str:
        c = n.uniform(0.4, 1.6, *CONSTANT_SHAPES[kind])
        if op in ("Add", "Sub"):
            c = c - np.float32(1)
        if op in ("Mul", "Div") and c.size > 1:
            c[..., :1] *= np.float32(-1)
        return n.op(op, c, x) if first else n.op(op, x, c)

    name = f"{op.lower()}_{kind}{'_first' if first else ''}"
    case(name, step, shape=(3, 5, 6), before="conv", after="relu")
    if kind in ("scalar", "c11", "map"):
        case(f"{name}_after_relu", step, shape=(3, 5, 6))


for _op, _kind in itertools.product(("Add", "Sub", "Mul", "Div"), CONSTANT_SHAPES):
    arithmetic(_op, _kind)
for _op, _kind in itertools.product(("Add", "Sub", "Mul"), ("scalar", "c11", "map")):
    arithmetic(_op, _kind, first=True)

case("mul_flat", lambda n, x: n.op("Mul", x, n.uniform(0.5, 2, 60)), (2, 3, 5), "flat")
case("add_flat", lambda n, x: n.add(x, n.weight(1, 20)), shape=(2, 1, 5), before="flat")
case("mul_by_zero", lambda n, x: n.add(n.op("Mul", x, 0.0), n.conv(x, 4)))
case("mul_makes_channels", lambda n, x: n.op("Mul", x, n.uniform(0.5, 2, 4, 1, 1)), channels=1)
case("add_makes_channels", lambda n, x: n.add(x, n.weight(4, 1, 1)), channels=1)
case("neg", lambda n, x: n.op("Neg", x), before="conv", after="relu")
case("neg_after_relu", lambda n, x: n.op("Neg", x))


@whole
def preprocess_in_graph() -> ModelProto:
    """Normalisation of the input inside the network: (x - mean) / deviation."""
    net = Net()
    x = net.op("Sub", net.input(3, 8, 8), net.uniform(-0.5, 0.5, 1, 3, 1, 1))
    x = net.op("Div", x, net.uniform(0.2, 0.3, 1, 3, 1, 1))
    return net.model(net.head(net.conv_relu(x, 4, 3, strides=2)))


def _caffe_scale(n: Net, x: str) -> str:
    """A Caffe "Scale" layer: two Unsqueezes of constants, Mul, Add."""
    axes = np.array([1, 2])
    scale, shift = n.uniform(-1, 2, 4), n.uniform(-0.5, 0.5, 4)
    if n.opset < 13:
        unsqueezed = [
            n.op("Unsqueeze", n.constant(c, f"scale{i}"), axes=axes.tolist())
            for i, c in enumerate((scale, shift))
        ]
    else:
        unsqueezed = [n.op("Unsqueeze", c, axes) for c in (scale, shift)]
    return n.add(n.op("Mul", n.bn(x), unsqueezed[0]), unsqueezed[1])


case("caffe_scale_opset_9", _caffe_scale, before="conv", after="relu", opset=9)
case("caffe_scale_opset_13", _caffe_scale, before="conv", after="relu", opset=13)
case("caffe_scale_after_relu", _caffe_scale, opset=9)


# ---- sums, differences and concatenations of activations

case("add_branches", lambda n, x: n.add(n.conv(x, 5), n.conv(x, 5, 1)), after="relu")
case("add_identity", lambda n, x: n.relu(n.add(n.conv(x, 4), x)))
case("add_identity_no_relu", lambda n, x: n.add(x, n.conv_relu(x, 4)))
case("add_projection", lambda n, x: n.relu(n.add(n.conv_bn(x, 6), n.conv_bn(x, 6, 1))))
case("add_to_itself", lambda n, x: n.add(x, x))
case("add_with_input", lambda n, x: n.relu(n.add(x, n.conv(n.conv_relu(x, 5), 3))), before="input")
case("add_spatial_broadcast", lambda n, x: n.add(x, n.op("GlobalAveragePool", n.conv_relu(x, 4))))
case("add_channel_broadcast", lambda n, x: n.add(n.conv_relu(x, 1), x))
case("add_flat_branches", lambda n, x: n.add(n.gemm(x, 6), n.gemm(x, 6)), (2, 3, 4), "flat", "relu")
case("sum_1", lambda n, x: n.add(x))
case("sum_2", lambda n, x: n.op("Sum", x, n.conv(x, 4)))
case("sum_3", lambda n, x: n.relu(n.add(x, n.conv(x, 4), n.conv_relu(x, 4, 1))))
case("sum_4", lambda n, x: n.add(n.conv(x, 4), x, n.conv(x, 4, 5), x), after="relu")
case("sum_broadcast", lambda n, x: n.add(n.op("GlobalAveragePool", x), x, n.conv(x, 1)))
case("sum_with_constant", lambda n, x: n.add(x, n.conv(x, 4), n.weight(4, 1, 1)), after="relu")
case("sub_activations", lambda n, x: n.op("Sub", n.conv(x, 5), n.conv(x, 5, 1)), after="relu")
case("sub_spikes", lambda n, x: n.op("Sub", x, n.conv_relu(x, 4)))
case("sub_then_relu", lambda n, x: n.relu(n.op("Sub", x, n.conv_relu(x, 4))))
case("concat", lambda n, x: n.concat(x, n.conv_relu(x, 3)))
case("concat_negative_axis", lambda n, x: n.concat(x, n.conv_relu(x, 3), axis=-3))
case("concat_rows", lambda n, x: n.concat(x, n.conv_relu(x, 4), axis=2))
case("concat_columns", lambda n, x: n.concat(n.conv_relu(x, 4), x, axis=-1))
case("concat_one", lambda n, x: n.concat(x))
case("concat_same_twice", lambda n, x: n.concat(x, x))
case("concat_with_input", lambda n, x: n.concat(n.conv_relu(x, 2), x), before="input")
case("concat_convs", lambda n, x: n.concat(n.conv(x, 2), n.conv(x, 3, 1)), after="relu")
case("concat_flat", lambda n, x: n.concat(x, n.relu(n.gemm(x, 5))), shape=(2, 3, 4), before="flat")
case("concat_nested", lambda n, x: n.concat(n.concat(x, n.conv_relu(x, 2)), n.conv_relu(x, 3), x))
case("concat_sppf", lambda n, x: n.concat(x, n.pool(x, 3, strides=1, pads=1)))


def _concat_constant(n: Net, x: str) -> str:
    # a constant has batch 1, so this works with a hard-coded batch only
    return n.op("Concat", x, n.uniform(0, 1, 1, 2, 8, 8), axis=1)


enter("concat_constant", around(_concat_constant, batch=1), EITHER)


# ---- Split and Slice


def split(name: str, sizes: list[int], opset: int = 17, axis: int = 1, **attributes) -> None:
    """Split, treat the parts differently, concatenate."""

    def step(n: Net, x: str) -> str:
        given = [] if opset < 13 or "num_outputs" in attributes or not sizes else [np.array(sizes)]
        if opset < 13 and sizes:
            attributes["split"] = sizes
        parts = n.op("Split", x, *given, axis=axis, outputs=2, **attributes)
        return n.concat(n.conv_relu(parts[0], 3), n.conv_relu(parts[1], 3), axis=axis)

    case(f"split_{name}", step, opset=opset)


split("equal", [])
split("equal_opset_11", [], opset=11)
split("sizes_attribute", [1, 3], opset=11)
split("sizes_input", [3, 1], opset=13)
split("sizes_input_opset_18", [1, 3], opset=18)
split("num_outputs", [], opset=18, num_outputs=2)
split("negative_axis", [1, 3], axis=-3)
split("rows", [3, 5], axis=2)


@whole
def split_num_outputs_uneven() -> ModelProto:
    """Five channels in two parts: the last one is smaller."""
    net = Net(opset=18)
    x = net.conv_relu(net.input(3, 8, 8), 5)
    first, second = net.op("Split", x, axis=1, num_outputs=2, outputs=2)
    return net.model(net.head(net.relu(net.add(net.conv(first, 4), net.conv(second, 4)))))


@whole
def split_in_three_one_unused() -> ModelProto:
    """A Split with an output that nobody reads."""
    net = Net()
    x = net.conv_relu(net.input(3, 8, 8), 6)
    first, _, third = net.op("Split", x, np.array([1, 2, 3]), axis=1, outputs=3)
    return net.model(net.head(net.conv_relu(net.concat(third, first), 4)))


def slices(name: str, starts, ends, axes=None, steps=None, shape=(3, 8, 8)) -> None:
    def step(n: Net, x: str) -> str:
        parts = [np.array(part) for part in (starts, ends, axes, steps) if part is not None]
        return n.op("Slice", x, *parts)

    case(f"slice_{name}", step, shape=shape)


slices("channels", [1], [3], [1])
slices("rows_columns", [1, 2], [6, 7], [2, 3])
slices("negative", [-3, -6], [-1, -1], [1, 2])
slices("negative_axes", [1, 0], [8, 5], [-1, -2])
slices("steps", [0, 1], [8, 8], [2, 3], [2, 2])
slices("open_end", [1, 1], [INT64_MAX, INT64_MAX], [2, 3], [1, 3])
slices("reverse", [-1], [-INT64_MAX], [3], [-1])
slices("all_axes", [0, 1, 0, 2], [INT64_MAX, 3, 8, 8])


def _slice_attributes(n: Net, x: str) -> str:
    return n.op("Slice", x, starts=[1, -5], ends=[3, INT64_MAX], axes=[1, 2])


case("slice_attributes_opset_9", _slice_attributes, opset=9)
case("slice_attributes_opset_7", _slice_attributes, opset=7)


def _focus(n: Net, x: str) -> str:
    """Space to depth by strided slices, as in a YOLO stem."""
    corners = itertools.product((0, 1), repeat=2)
    ends, axes, steps = np.array([INT64_MAX] * 2), np.array([2, 3]), np.array([2, 2])
    parts = [n.op("Slice", x, np.array(corner), ends, axes, steps) for corner in corners]
    return n.concat(*parts)


case("slice_focus", _focus)
case("slice_focus_on_input", _focus, before="input")


# ---- activations


def activation(name: str, op: str, *inputs: object, opset: int = 17, **attributes: object) -> None:
    def step(n: Net, x: str) -> str:
        return n.op(op, x, *inputs, **attributes)

    case(name, step, before="conv", opset=opset)


activation("relu", "Relu")
activation("relu_opset_7", "Relu", opset=7)
case("relu_on_input", lambda n, x: n.relu(x), before="input")
case("relu_twice", lambda n, x: n.relu(x))
case("relu_as_max_with_zero", lambda n, x: n.op("Max", x, 0.0), before="conv")
case("relu_as_max_of_zeros", lambda n, x: n.op("Max", np.zeros(1, np.float32), x), before="conv")
case("relu_of_pool", lambda n, x: n.relu(n.pool(x, 2, "Average")))
case("relu_of_add_of_spikes", lambda n, x: n.relu(n.add(x, n.conv_relu(x, 4))))
activation("relu6", "Clip", 0.0, 6.0)
activation("relu6_opset_11", "Clip", 0.0, 6.0, opset=11)
activation("relu6_attributes_opset_7", "Clip", opset=7, min=0.0, max=6.0)
activation("relu6_attributes_opset_10", "Clip", opset=10, min=0.0, max=6.0)
activation("clip_0_1", "Clip", 0.0, 1.0)
activation("clip_0_half", "Clip", 0.0, 0.5)
activation("clip_min_only", "Clip", 0.0)
activation("clip_min_only_empty_max", "Clip", 0.0, "")
activation("clip_min_only_attribute", "Clip", opset=10, min=0.0)
case("clip_max_only_after_relu", lambda n, x: n.op("Clip", x, "", 0.5))
case("clip_max_only_attribute_after_relu", lambda n, x: n.op("Clip", x, max=0.5), opset=9)
case("clip_without_bounds", lambda n, x: n.op("Clip", x))
activation("leaky_relu", "LeakyRelu", alpha=0.1)
activation("leaky_relu_default", "LeakyRelu")
activation("leaky_relu_half_opset_7", "LeakyRelu", opset=7, alpha=0.5)
activation("prelu_channels", "PRelu", np.array([0.1, 0.25, 0.5, 0.0], np.float32).reshape(4, 1, 1))
activation("prelu_one", "PRelu", np.array([0.25], np.float32))
activation("prelu_scalar", "PRelu", 0.25)
activation("prelu_1c11", "PRelu", np.full((1, 4, 1, 1), 0.25, np.float32))
activation("prelu_map_of_one_slope", "PRelu", np.full((4, 8, 8), 0.25, np.float32))
activation("prelu_opset_7", "PRelu", np.full((4, 1, 1), 0.25, np.float32), opset=7)
case("relu6_after_relu", lambda n, x: n.op("Clip", x, 0.0, 0.75))
case("leaky_relu_flat", lambda n, x: n.op("LeakyRelu", n.gemm(x, 9), alpha=0.1), before="flat")
case(
    "prelu_flat",
    lambda n, x: n.op("PRelu", n.gemm(x, 9), n.uniform(0, 0.5, 9)),
    before="flat",
)
case("leaky_relu_residual", lambda n, x: n.op("LeakyRelu", n.add(x, n.conv(x, 4)), alpha=0.2))
case("leaky_relu_maxpool", lambda n, x: n.pool(n.op("LeakyRelu", x, alpha=0.2), 2), before="conv")
case("relu6_maxpool", lambda n, x: n.pool(n.op("Clip", x, 0.0, 6.0), 3, strides=2), before="conv")


@whole
def clip_bounds_in_constant_nodes() -> ModelProto:
    """Clip with bounds made by Constant nodes, the way PyTorch exports a Relu6."""
    net = Net()
    x = net.conv(net.input(3, 8, 8), 4)
    low, high = (net.op("Constant", value=_tensor(np.float32(v))) for v in (0, 6))
    return net.model(net.head(net.op("Clip", x, low, high)))


# ---- pooling


def pool(name: str, kind: str, kernel, shape=(3, 7, 8), before="relu", opset=17, **options) -> None:
    case(
        f"{'max' if kind == 'Max' else 'avg'}pool_{name}",
        lambda n, x: n.pool(x, kernel, kind, **options),
        shape=shape, before=before, after="relu" if before == "conv" else "conv", opset=opset,
    )  # fmt: skip


for _kind in ("Max", "Average"):
    pool("plain", _kind, 2)
    pool("opset_7", _kind, 2, opset=7)
    pool("overlap", _kind, 3, strides=2)
    pool("pads", _kind, 3, strides=2, pads=1)
    pool("asymmetric_pads", _kind, 3, strides=2, pads=[0, 1, 2, 1])
    pool("asymmetric_kernel", _kind, [3, 2], strides=[1, 2])
    pool("stride1_same", _kind, 3, strides=1, pads=1)
    pool("kernel1_stride2", _kind, 1, strides=2)
    pool("gaps", _kind, 2, strides=3)
    pool("ceil_mode", _kind, 3, strides=2, ceil_mode=1, shape=(3, 8, 6))
    pool("ceil_mode_pads", _kind, 3, strides=2, pads=1, ceil_mode=1, shape=(3, 8, 7))
    pool("ceil_mode_opset_10", _kind, 2, ceil_mode=1, opset=10)
    pool("same_upper", _kind, 3, strides=2, auto_pad="SAME_UPPER")
    pool("same_lower", _kind, 3, strides=2, auto_pad="SAME_LOWER")
    pool("same_upper_even_kernel", _kind, 2, strides=1, auto_pad="SAME_UPPER")
    pool("valid", _kind, 3, strides=2, auto_pad="VALID")
    pool("valid_ceil_mode", _kind, 3, strides=2, auto_pad="VALID", ceil_mode=1, shape=(3, 8, 8))
    pool("1d", _kind, 3, strides=2, pads=1, shape=(3, 9))
    pool("3d", _kind, 2, strides=[1, 2, 2], pads=[1, 0, 0, 0, 0, 1], shape=(2, 3, 4, 5))
    pool("whole_map", _kind, [7, 8])
    pool("before_relu", _kind, 3, before="conv", strides=2, pads=1)

pool("dilated", "Max", 2, strides=1, dilations=[2, 2])
pool("dilated_pads", "Max", 3, strides=2, pads=[1, 2, 1, 2], dilations=[1, 2])
pool("dilated_ceil_mode", "Max", 2, strides=2, dilations=[3, 2], ceil_mode=1)
# what hangs over the edge is as long as the kernel, which onnxruntime refuses as a pad
pool(
    "dilated_ceil_mode_overhang", "Max", [2, 3],
    strides=[3, 2], dilations=[2, 1], ceil_mode=1, pads=[1, 0, 0, 1], shape=(3, 9, 8),
)  # fmt: skip
pool(
    "dilated_ceil_mode_overhang_1d", "Max", 2, strides=5, dilations=[4], ceil_mode=1, shape=(3, 11)
)
pool("before_relu_ceil_mode", "Max", 2, before="conv", ceil_mode=1)
pool("row_major", "Max", 2, storage_order=0)
pool("include_pad", "Average", 3, strides=2, pads=1, count_include_pad=1)
pool("include_pad_opset_7", "Average", 3, strides=2, pads=1, count_include_pad=1, opset=7)
pool("include_asymmetric_pads", "Average", 3, strides=1, pads=[2, 0, 1, 1], count_include_pad=1)
pool("include_pad_same_upper", "Average", 3, strides=2, auto_pad="SAME_UPPER", count_include_pad=1)
pool("include_pad_ceil_mode", "Average", 3, strides=2, pads=1, count_include_pad=1, ceil_mode=1)
pool(
    "include_pad_ceil_mode_even", "Average", 3,
    strides=2, pads=1, count_include_pad=1, ceil_mode=1, shape=(3, 8, 6),
)  # fmt: skip
pool("dilated_opset_19", "Average", 2, strides=1, dilations=[2, 2], opset=19)

# The last window would lie wholly in the padding and is dropped; the shape inference of onnx before
# opset 22 keeps it, so nothing behind may depend on the inferred size.
for _kind in ("Max", "Average"):
    case(
        f"{'max' if _kind == 'Max' else 'avg'}pool_ceil_mode_window_in_padding",
        lambda n, x, kind=_kind: n.op(
            "GlobalAveragePool",
            n.conv_relu(n.pool(x, 2, kind, strides=3, pads=1, ceil_mode=1), 4),
        ),
        shape=(3, 7, 7),
        after="head",
    )

case("maxpool_default_strides", lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 2]))
case("avgpool_default_strides", lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 2]))
case("maxpool_before_bn_relu", lambda n, x: n.relu(n.bn(n.pool(n.conv(x, 5), 2))))
case("maxpool_before_leaky_relu", lambda n, x: n.op("LeakyRelu", n.pool(x, 2)), before="conv")
case("maxpool_twice", lambda n, x: n.pool(n.pool(x, 3, strides=1), 2))
case("maxpool_after_concat", lambda n, x: n.pool(n.concat(x, n.conv_relu(x, 3)), 3, strides=2))
case("maxpool_after_add_of_spikes", lambda n, x: n.pool(n.add(x, n.conv_relu(x, 4)), 2))
case("maxpool_after_avgpool", lambda n, x: n.pool(n.pool(x, 3, "Average", strides=1), 2))
case("maxpool_last", lambda n, x: n.flatten(n.pool(x, 4)), after="head")
case("avgpool_after_maxpool", lambda n, x: n.pool(n.pool(x, 2), 3, "Average", strides=1))
case("global_average_pool", lambda n, x: n.op("GlobalAveragePool", x), after="head")
case("global_average_pool_conv", lambda n, x: n.conv(n.op("GlobalAveragePool", x), 6, 1))
case("global_average_pool_last", lambda n, x: n.op("GlobalAveragePool", x), after="output")
case("global_average_pool_1d", lambda n, x: n.op("GlobalAveragePool", x), (3, 9), after="head")
case("global_average_pool_3d", lambda n, x: n.op("GlobalAveragePool", x), (2, 3, 4, 5))
case("global_average_pool_before_relu", lambda n, x: n.op("GlobalAveragePool", x), before="conv")
case("global_max_pool", lambda n, x: n.op("GlobalMaxPool", x), after="head")
case("global_max_pool_conv", lambda n, x: n.conv(n.op("GlobalMaxPool", x), 6, 1))
case("global_max_pool_1d", lambda n, x: n.op("GlobalMaxPool", x), shape=(3, 9))
case("global_max_pool_3d", lambda n, x: n.op("GlobalMaxPool", x), shape=(2, 3, 4, 5))
case("global_max_pool_before_relu", lambda n, x: n.relu(n.op("GlobalMaxPool", x)), before="conv")


def reduced(n: Net, op: str, x: str, axes: list[int], opset: int, **attributes: object) -> str:
    if opset < (13 if op == "ReduceSum" else 18):
        return n.op(op, x, axes=axes, **attributes)
    return n.op(op, x, np.array(axes), **attributes)


def reduce_mean(name: str, axes: list[int], opset: int = 17, **attributes: object) -> None:
    case(
        f"reduce_mean_{name}",
        lambda n, x: reduced(n, "ReduceMean", x, axes, opset, **attributes),
        shape=(3, 5, 6),
        opset=opset,
    )


def reduce(
    op: str, name: str, axes: list[int], opset: int = 17, before: str = "relu", **attributes: object
) -> None:
    case(
        f"{op}_{name}",
        lambda n, x: n.relu(reduced(n, op, x, axes, opset, **attributes)),
        shape=(3, 5, 6),
        before=before,
        opset=opset,
    )


reduce_mean("attribute", [2, 3])
reduce_mean("attribute_flat", [2, 3], keepdims=0, opset=13)
reduce_mean("input", [2, 3], opset=18)
reduce_mean("input_flat", [2, 3], keepdims=0, opset=18)
reduce_mean("negative_axes", [-1, -2], keepdims=1)
reduce_mean("negative_axes_flat", [-2, -1], keepdims=0, opset=18)
reduce_mean("rows", [2])
reduce_mean("columns_flat", [3], keepdims=0)
reduce_mean("opset_9", [2, 3], keepdims=0, opset=9)
reduce_mean("channels", [1])
reduce_mean("channels_flat", [1], keepdims=0)
reduce_mean("channels_and_rows", [1, 2])
for _op in ("ReduceSum", "ReduceMax"):
    reduce(_op, "space", [2, 3])
    reduce(_op, "space_flat", [-1, -2], opset=18, keepdims=0)
    reduce(_op, "space_of_currents", [2, 3], before="conv")
    reduce(_op, "space_of_currents_flat", [2, 3], before="conv", keepdims=0, opset=18)
    reduce(_op, "columns_flat", [3], keepdims=0)
    reduce(_op, "opset_9", [2, 3], keepdims=0, opset=9)
reduce("ReduceSum", "channels", [1])
case(
    "reduce_max_before_prelu",
    lambda n, x: n.op(
        "PRelu", n.op("ReduceMax", x, axes=[2, 3]), np.full((4, 1, 1), 0.25, np.float32)
    ),
    before="conv",
)


# ---- Resize and Upsample

HALF = "half_pixel"


def resize(
    name: str,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    shape=(3, 4, 5),
    opset: int = 17,
    batch: object = "N",
    roi: object = "",
    **attributes: object,
) -> None:
    """A Resize by scales or to sizes, given for the spatial axes only unless they are longer."""

    def step(n: Net, x: str) -> str:
        options = dict(attributes)
        if scales is not None and len(scales) == len(shape) - 1:
            inputs = [np.array([1, 1, *scales], np.float32)]
        elif scales is not None:
            inputs = [np.array(scales, np.float32)]
        else:
            # opset 11 wants scales even so, but empty
            inputs = [np.zeros(0, np.float32) if opset == 11 else "", np.array(sizes)]
        if opset > 10:
            inputs.insert(0, roi)
        return n.op("Resize", x, *inputs, **options)

    case(f"resize_{name}", step, shape=shape, opset=opset, batch=batch)


for _mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
    for _round in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        resize(
            f"nearest_{_mode}_{_round}", [2, 1.5],
            mode="nearest", coordinate_transformation_mode=_mode, nearest_mode=_round,
        )  # fmt: skip
    resize(f"linear_{_mode}", [2, 1.5], mode="linear", coordinate_transformation_mode=_mode)
    resize(f"linear_down_{_mode}", [0.5, 0.7], mode="linear", coordinate_transformation_mode=_mode)
    resize(f"nearest_down_{_mode}", [0.5, 0.7], coordinate_transformation_mode=_mode)

resize("default", [2, 2])
resize("by_1", [1, 1])
resize("rows_only", [2, 1], mode="linear")
resize("1d", [2], shape=(3, 6))
resize("1d_linear", [2], shape=(3, 6), mode="linear")
resize("3d", [2, 1, 2], shape=(2, 2, 3, 2))
resize("3d_linear", [2, 1.5, 2], shape=(2, 2, 3, 2), mode="linear")
resize("opset_10", [2, 2], opset=10)
resize("opset_10_fraction", [1.5, 2.5], opset=10)
resize("opset_10_linear", [2, 2], opset=10, mode="linear")
resize("opset_11", [2, 2], opset=11, roi=np.zeros(0, np.float32))
resize("opset_11_tf_half_pixel", [2, 3], opset=11, roi=np.zeros(0, np.float32),
       coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor")  # fmt: skip
resize("opset_11_sizes", None, [1, 4, 8, 10], opset=11, batch=1, roi=np.zeros(0, np.float32))
resize("opset_13_linear", [2, 2], opset=13, mode="linear")
resize("opset_18", [2, 2], opset=18, mode="linear")
resize("opset_18_axes", [2, 3], shape=(3, 4, 5), opset=18, axes=[0, 1, 2, 3])
resize("opset_18_sizes_axes", None, [8, 9], opset=18, axes=[2, 3])
resize("opset_18_sizes_not_larger", None, [8, 15], opset=18, axes=[2, 3],
       keep_aspect_ratio_policy="not_larger")  # fmt: skip
resize("opset_19_symmetric", [2, 1.5], opset=19, mode="linear",
       coordinate_transformation_mode="half_pixel_symmetric")  # fmt: skip
resize("opset_19", [2, 2], opset=19)
resize("sizes_batch_1", None, [1, 4, 8, 10], batch=1)
resize("sizes_batch_1_linear", None, [1, 4, 7, 9], batch=1, mode="linear")
resize("sizes_batch_1_align_corners", None, [1, 4, 7, 9], batch=1, mode="linear",
       coordinate_transformation_mode="align_corners")  # fmt: skip


def _resize_scales_axes(n: Net, x: str) -> str:
    scales = np.array([2, 3], np.float32)
    return n.op("Resize", x, "", scales, axes=[2, 3], mode="nearest")


case("resize_opset_18_scales_axes", _resize_scales_axes, shape=(3, 4, 5), opset=18)


def _resize_computed_sizes(n: Net, x: str) -> str:
    """Sizes put together from the dynamic batch, as exported by PyTorch for `interpolate(size)`."""
    front = n.op("Slice", n.op("Shape", x), np.array([0]), np.array([2]), np.array([0]))
    sizes = n.op("Concat", front, np.array([8, 10]), axis=0)
    return n.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode=HALF)


case("resize_computed_sizes", _resize_computed_sizes, shape=(3, 4, 5))


def _upsample(n: Net, x: str, mode: str) -> str:
    scales = [1.0, 1.0, 2.0, 3.0]
    if n.opset < 9:
        return n.op("Upsample", x, scales=scales, mode=mode)
    return n.op("Upsample", x, np.array(scales, np.float32), mode=mode)


for _opset, _mode in itertools.product((7, 9), ("nearest", "linear")):
    case(
        f"upsample_{_mode}_opset_{_opset}",
        lambda n, x, mode=_mode: _upsample(n, x, mode),
        shape=(3, 4, 5),
        opset=_opset,
    )


# ---- Pad


def pad(name: str, pads: list[int], value=None, opset=17, axes=None, before="relu", **attributes):
    def step(n: Net, x: str) -> str:
        if opset < 11:
            options = {} if value is None else {"value": value}
            return n.op("Pad", x, pads=pads, **attributes, **options)
        inputs = [np.array(pads)]
        if value is not None or axes:
            inputs.append("" if value is None else np.float32(value))
        if axes:
            inputs.append(np.array(axes))
        return n.op("Pad", x, *inputs, **attributes)

    case(f"pad_{name}", step, shape=(3, 5, 6), opset=opset, before=before)


SPACE = [0, 0, 1, 2, 0, 0, 2, 0]
pad("zeros", SPACE)
pad("zeros_value", SPACE, 0.0)
pad("constant", SPACE, 1.5)
pad("constant_negative", SPACE, -0.5)
pad("constant_attribute_mode", SPACE, 1.5, mode="constant")
pad("reflect", SPACE, mode="reflect")
pad("edge", SPACE, mode="edge")
pad("wrap_opset_19", SPACE, mode="wrap", opset=19)
pad("crop", [0, 0, -1, 0, 0, 0, 0, -2])
pad("crop_and_pad", [0, 0, -1, 2, 0, 0, 1, -2], 1.5)
pad("channels", [0, 2, 0, 0, 0, 1, 0, 0])
pad("nothing", [0] * 8)
pad("opset_7", SPACE, opset=7)
pad("opset_7_constant", SPACE, 1.5, opset=7)
pad("opset_10_reflect", SPACE, mode="reflect", opset=10)
pad("opset_10_edge", SPACE, mode="edge", opset=10)
pad("opset_10_crop", [0, 0, -1, 0, 0, 0, 0, -2], opset=10)
pad("opset_11", SPACE, 1.5, opset=11)
pad("opset_18_axes", [1, 2, 2, 0], 1.5, opset=18, axes=[2, 3])
pad("opset_18_axes_no_value", [1, 2, 2, 0], opset=18, axes=[-2, -1])
pad("input", SPACE, before="input")
pad("input_constant", SPACE, 1.5, before="input")
pad("input_reflect", SPACE, mode="reflect", before="input")
pad("before_relu", SPACE, 1.5, before="conv")


def _pad_below(n: Net, x: str, fill: float = -np.inf, **attributes: object) -> str:
    x = n.op("Pad", x, np.array([1, 0, 1, 1]), np.float32(fill), np.array([2, 3]))
    return n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **attributes)


case("pad_below_before_maxpool", _pad_below, opset=18)
case("pad_below_before_padded_maxpool", lambda n, x: _pad_below(n, x, pads=[0, 1, 1, 0]), opset=18)
case(
    "pad_lowest_before_maxpool_relu",
    lambda n, x: n.relu(_pad_below(n, x, np.finfo(np.float32).min, auto_pad="VALID")),
    before="conv",
    opset=18,
)
case("pad_flat", lambda n, x: n.op("Pad", x, np.array([0, 2, 0, 1]), 1.5), (2, 3, 4), "flat")


# ---- data movement

for _mode in ("DCR", "CRD"):
    case(
        f"depth_to_space_{_mode}",
        lambda n, x, mode=_mode: n.op("DepthToSpace", x, blocksize=2, mode=mode),
        shape=(3, 3, 5),
        channels=8,
        opset=13,
    )
case("depth_to_space_of_currents", lambda n, x: n.op("DepthToSpace", x, blocksize=2), before="conv")
case("depth_to_space_last", lambda n, x: n.op("DepthToSpace", x, blocksize=2), after="output")
case("depth_to_space_opset_9", lambda n, x: n.op("DepthToSpace", x, blocksize=2), opset=9)


def _depth_of_half(n: Net, x: str) -> str:
    """The first half of the channels, their number computed from the shape, as of `chunk`."""
    count = n.op("Gather", n.op("Shape", x), np.array([1]), axis=0)
    half = n.op("Div", count, np.array([2]))
    part = n.op("Slice", x, np.array([0]), half, np.array([1]))
    return n.op("Reshape", n.op("DepthToSpace", part, blocksize=2), np.array([0, 1, 16, 16]))


case("depth_to_space_of_computed_half", _depth_of_half, channels=8)


def _shuffled(n: Net, x: str) -> str:
    """Half of the channels beside a convolution of them, shuffled by numbers from the shape.

    The second shape is known only once the first one has been computed.
    """
    half = n.op("Div", n.op("Gather", n.op("Shape", x), np.array([1]), axis=0), np.array([2]))
    part = n.declare(n.op("Slice", x, np.array([0]), half, np.array([1])), 4, 8, 8)
    both = n.op("Concat", part, n.conv_relu(part, 4), axis=1)
    sizes = [n.op("Gather", n.op("Shape", both), np.int64(i), axis=0) for i in range(4)]
    sizes.append(n.op("Div", sizes[1], np.int64(2)))
    batch, all_channels, height, width, each = (
        n.op("Unsqueeze", size, np.array([0])) for size in sizes
    )
    split = n.op("Concat", batch, np.array([2]), each, height, width, axis=0)
    whole = n.op("Concat", batch, all_channels, height, width, axis=0)
    turned = n.op("Transpose", n.op("Reshape", both, split), perm=[0, 2, 1, 3, 4])
    return n.op("Reshape", turned, whole)


case("channels_shuffled_by_computed_sizes", _shuffled, channels=8)
case("space_to_depth", lambda n, x: n.op("SpaceToDepth", x, blocksize=2), shape=(3, 4, 6))
case("space_to_depth_input", lambda n, x: n.op("SpaceToDepth", x, blocksize=2), before="input")
case("flatten", lambda n, x: n.flatten(x), shape=(2, 3, 4))
case("flatten_negative_axis", lambda n, x: n.flatten(x, -3), shape=(2, 3, 4))
case("flatten_default_axis", lambda n, x: n.op("Flatten", x), shape=(2, 3, 4))
case("flatten_flat", lambda n, x: n.flatten(n.gemm(x, 7)), before="flat")
case("flatten_input", lambda n, x: n.flatten(x), shape=(2, 3, 4), before="input")
case("flatten_opset_7", lambda n, x: n.flatten(x), shape=(2, 3, 4), opset=7)
case("flatten_axis_2_one_channel", lambda n, x: n.flatten(x, 2), (2, 3, 4), channels=1)


def reshape(name: str, target: list[int], batch: object = "N", **attributes: object) -> None:
    case(
        f"reshape_{name}",
        lambda n, x: n.op("Reshape", x, np.array(target), **attributes),
        shape=(3, 4, 6),
        batch=batch,
    )


reshape("minus_one_features", [-1, 96])
reshape("zero_minus_one", [0, -1])
reshape("zero_zero_minus_one", [0, 0, -1])
reshape("minus_one_split_channels", [-1, 2, 2, 4, 6])
reshape("zero_merge_channels", [0, 16, 6])
reshape("minus_one_space", [-1, 4, 6, 4])
reshape("batch_1", [1, -1], batch=1)
reshape("batch_1_features", [1, 96], batch=1)
reshape("batch_1_split_channels", [1, 2, 2, 4, 6], batch=1)
reshape("batch_1_tokens", [1, 4, -1], batch=1)
case("reshape_allowzero", lambda n, x: n.op("Reshape", x, np.array([-1, 256]), allowzero=1))


def _target(n: Net, x: str, *rest: int, gather: bool) -> str:
    """A Reshape target put together from the dynamic batch, as exported by PyTorch."""
    batch = n.op("Shape", x)
    if gather:
        batch = n.op("Gather", batch, np.int64(0), axis=0)
        batch = n.op("Unsqueeze", batch, np.array([0]))
    else:
        batch = n.op("Slice", batch, np.array([0]), np.array([1]), np.array([0]))
    return n.op("Concat", batch, *(np.array([dim]) for dim in rest), axis=0)


def _computed(n: Net, x: str, gather: bool = True) -> str:
    return n.op("Reshape", x, _target(n, x, -1, gather=gather))


def _gemm_after(step: Step) -> Builder:
    """Shape inference loses the feature count here, so the head is written out."""

    def build() -> ModelProto:
        net = Net(seed=3)
        y = step(net, net.conv_relu(net.input(3, 4, 6), 4))
        y = net.op("Gemm", y, net.weight(5, 96), net.weight(5), transB=1)
        return net.model(net.head(net.relu(y)))

    return build


enter("reshape_computed_gather", _gemm_after(_computed))
enter("reshape_computed_slice", _gemm_after(lambda n, x: _computed(n, x, gather=False)))


def _shuffle(n: Net, x: str, first: int) -> str:
    _, channels, height, width = n.shape(x)
    x = n.op("Reshape", x, np.array([first, 2, channels // 2, height, width]))
    x = n.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return n.op("Reshape", x, np.array([first, channels, height, width]))


case("channel_shuffle", lambda n, x: n.conv(_shuffle(n, x, -1), 4, group=2), after="relu")
case("channel_shuffle_zero", lambda n, x: n.conv(_shuffle(n, x, 0), 4, group=2), after="relu")
case("channel_shuffle_batch_1", lambda n, x: _shuffle(n, x, 1), batch=1)


@whole
def channel_shuffle_computed() -> ModelProto:
    """A channel shuffle whose targets are computed from the batch size, as PyTorch exports it."""
    net = Net()
    x = net.conv_relu(net.input(3, 5, 5), 6)
    y = net.op("Reshape", x, _target(net, x, 2, 3, 5, 5, gather=True))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, _target(net, y, 6, 5, 5, gather=True))
    y = net.op("Conv", y, net.weight(6, 3, 3, 3), group=2, pads=[1] * 4)
    y = net.flatten(net.relu(y))
    return net.model(net.op("Gemm", y, net.weight(5, 150), net.weight(5), transB=1))


def _nhwc(n: Net, x: str) -> str:
    y = n.op("Relu", n.op("Transpose", n.conv(x, 4), perm=[0, 2, 3, 1]))
    return n.op("Transpose", y, perm=[0, 3, 1, 2])


case("transpose_nhwc_and_back", _nhwc, shape=(3, 5, 6))
case("transpose_space", lambda n, x: n.op("Transpose", x, perm=[0, 1, 3, 2]), shape=(3, 5, 6))
case("transpose_nhwc_flatten", lambda n, x: n.flatten(n.op("Transpose", x, perm=[0, 2, 3, 1])))
case("transpose_tokens", lambda n, x: n.op("Transpose", x, perm=[0, 2, 1]), shape=(3, 9))


@whole
def transpose_nhwc_input() -> ModelProto:
    """A network with channels last at its input and output, as tf2onnx writes it."""
    net = Net()
    x = net.op("Transpose", net.input(6, 7, 3), perm=[0, 3, 1, 2])
    x = net.conv(net.conv_relu(x, 4, 3, auto_pad="SAME_UPPER", strides=2), 5)
    return net.model(net.op("Transpose", x, perm=[0, 2, 3, 1]))


@whole
def transpose_nhwc_bias() -> ModelProto:
    """Bias and affine constants on the last axis between two Transposes."""
    net = Net()
    x = net.op("Transpose", net.conv_relu(net.input(3, 6, 6), 4), perm=[0, 2, 3, 1])
    x = net.add(net.op("Mul", x, net.uniform(0.5, 2, 4)), net.weight(4))
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    return net.model(net.head(net.conv_relu(x, 4)))


def _squeeze(op: str, n: Net, x: str, axes: list[int]) -> str:
    if n.opset < 13:
        return n.op(op, x, axes=axes)
    return n.op(op, x, np.array(axes))


def _squeezed_pool(axes: list[int]) -> Step:
    return lambda n, x: _squeeze("Squeeze", n, n.op("GlobalAveragePool", x), axes)


def _unsqueezed(axes: list[int], back: list[int]) -> Step:
    """A 1-D network computed by a Conv with one row."""

    def step(n: Net, x: str) -> str:
        y = n.conv_relu(_squeeze("Unsqueeze", n, x, axes), 4, [1, 3])
        return _squeeze("Squeeze", n, y, back)

    return step


case("squeeze_attribute_opset_11", _squeezed_pool([2, 3]), opset=11)
case("squeeze_attribute_opset_9", _squeezed_pool([2, 3]), opset=9)
case("squeeze_input", _squeezed_pool([2, 3]), opset=13)
case("squeeze_negative_axes", _squeezed_pool([-1, -2]))
case("squeeze_one_axis", _squeezed_pool([3]))
case("unsqueeze_attribute_opset_11", _unsqueezed([2], [2]), shape=(3, 9), opset=11)
case("unsqueeze_input", _unsqueezed([2], [2]), shape=(3, 9))
case("unsqueeze_negative_axes", _unsqueezed([-2], [-2]), shape=(3, 9))
case("unsqueeze_flat", lambda n, x: _squeeze("Unsqueeze", n, n.gemm(x, 9), [1]), (7,), "input")
case(
    "unsqueeze_to_1x1",
    lambda n, x: _squeeze("Unsqueeze", n, n.relu(n.gemm(x, 9)), [2, 3]),
    before="flat",
)


# ---- nodes without effect

case("identity", lambda n, x: n.op("Identity", x))
case("identity_of_input", lambda n, x: n.op("Identity", x), before="input")
case("identity_last", lambda n, x: n.op("Identity", n.head(x)), after="output")
case("dropout_opset_7", lambda n, x: n.op("Dropout", x, ratio=0.3), opset=7)
case("dropout_opset_10", lambda n, x: n.op("Dropout", x), opset=10)
case("dropout", lambda n, x: n.op("Dropout", x))
case("dropout_ratio", lambda n, x: n.op("Dropout", x, 0.3))
case("dropout_inference", lambda n, x: n.op("Dropout", x, 0.3, np.bool_(False)), opset=13)
case("dropout_seed", lambda n, x: n.op("Dropout", x, seed=3))
case("dropout_mask_unused", lambda n, x: n.op("Dropout", x, 0.5, outputs=2)[0], before="flat")
case("dropout_last", lambda n, x: n.op("Dropout", n.head(x)), after="output")
case("cast_to_float", lambda n, x: n.op("Cast", x, to=TensorProto.FLOAT))
case("cast_of_input", lambda n, x: n.op("Cast", x, to=TensorProto.FLOAT), before="input")


# ---- the last node

LAST = {
    "softmax": ("Softmax", {"axis": -1}, 17),
    "softmax_axis_1": ("Softmax", {"axis": 1}, 17),
    "softmax_default_axis": ("Softmax", {}, 13),
    "softmax_opset_9": ("Softmax", {"axis": 1}, 9),
    "logsoftmax": ("LogSoftmax", {"axis": 1}, 17),
    "sigmoid": ("Sigmoid", {}, 17),
    "relu": ("Relu", {}, 17),
}
for _name, (_op, _attributes, _opset) in LAST.items():
    case(
        f"last_{_name}",
        lambda n, x, op=_op, attributes=_attributes: n.op(op, n.head(x), **attributes),
        after="output",
        opset=_opset,
    )


def _last_softmax_4d(n: Net, x: str, axis: int = 1) -> str:
    x = n.op("GlobalAveragePool", n.conv(x, 6, 1))
    return n.op("Softmax", x, axis=axis)


case("last_softmax_4d_opset_11", _last_softmax_4d, after="output", opset=11)
case("last_softmax_4d_opset_13", _last_softmax_4d, after="output", opset=13)
case(  # before opset 13 everything from the axis on is flattened
    "last_softmax_map_opset_11",
    lambda n, x: n.op("Softmax", n.conv(x, 3), axis=1),
    after="output",
    opset=11,
)
case(
    "last_softmax_map_opset_13",
    lambda n, x: n.op("Softmax", n.conv(x, 3), axis=1),
    after="output",
    opset=13,
)
case(
    "last_softmax_reshape",
    lambda n, x: n.op("Reshape", _last_softmax_4d(n, x), np.array([0, -1])),
    after="output",
)
case("last_softmax_dropout", lambda n, x: n.op("Dropout", n.op("Softmax", n.head(x))),
     after="output")  # fmt: skip
case("last_sigmoid_map", lambda n, x: n.op("Sigmoid", n.conv(x, 1)), after="output")
case("last_relu_map", lambda n, x: n.conv_relu(x, 2), after="output")
case("last_flatten", lambda n, x: n.flatten(n.conv(x, 2)), after="output", shape=(3, 4, 4))
case("last_maxpool", lambda n, x: n.pool(n.conv_relu(x, 2), 4), after="output")
case("last_add", lambda n, x: n.add(n.head(x), n.head(x)), after="output")


@whole
def outputs_two() -> ModelProto:
    """Two outputs, one of them in front of the other."""
    net = Net()
    x = net.conv_relu(net.input(3, 8, 8), 4, 3, strides=2)
    return net.model(net.head(net.conv_relu(x, 4)), net.conv(x, 2))


@whole
def outputs_spikes_and_logits() -> ModelProto:
    """A Relu that is read inside the network and is an output too."""
    net = Net()
    x = net.conv_relu(net.input(3, 8, 8), 4, 3, strides=2)
    return net.model(net.head(x), x)


@whole
def outputs_logits_and_softmax() -> ModelProto:
    """The logits and their Softmax, both as outputs."""
    net = Net()
    x = net.head(net.conv_relu(net.input(3, 8, 8), 4, 3, strides=2))
    return net.model(x, net.op("Softmax", x, axis=1))


@whole
def linear_only() -> ModelProto:
    """A network without a single neuron."""
    net = Net()
    return net.model(net.head(net.conv(net.input(3, 6, 6), 4)))


# ---- ways to write a file


def plain(opset: int = 17) -> Net:
    """Return the builder of the plainest network, with its one output called "y"."""
    net = Net(seed=opset, opset=opset)
    x = net.pool(net.conv_bn_relu(net.input(3, 8, 8), 4), 2)
    x = net.relu(net.gemm(net.flatten(x), 8))
    net.op("Identity", net.head(x), name="last")
    return net


for _opset in (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23):
    enter(f"opset_{_opset}", lambda opset=_opset: plain(opset).model("last_out"))


def _tensor(array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array))


@whole
def initializers_are_inputs() -> ModelProto:
    """IR version 3: every initialiser is a graph input as well."""
    model = plain(8).model("last_out")
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    return model


@whole
def initializers_first_among_inputs() -> ModelProto:
    """As above, with the data input last."""
    model = initializers_are_inputs()
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(inputs[::-1])
    return model


@whole
def initializers_from_constant_nodes() -> ModelProto:
    """All weights in Constant nodes."""
    model = plain().model("last_out")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for tensor in model.graph.initializer:
        name = f"{tensor.name}_node"
        node = helper.make_node("Constant", [], [tensor.name], name=name, value=tensor)
        model.graph.node.append(node)
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    return model


@whole
def initializers_from_constant_of_shape() -> ModelProto:
    """Weights filled with one value, as in the ONNX model zoo's "light" models."""
    net = Net(opset=9)
    x = net.input(3, 6, 6)
    weight = net.op("ConstantOfShape", np.array([4, 3, 3, 3]), value=_tensor(np.float32([0.02])))
    bias = net.op("ConstantOfShape", np.array([4]), value=_tensor(np.float32([0.02])))
    x = net.relu(net.op("Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1] * 4))
    return net.model(net.head(x))


@whole
def initializers_computed() -> ModelProto:
    """Weights that constant folding must work out: a product, a Reshape, a Transpose."""
    net = Net()
    x = net.input(3, 6, 6)
    weight = net.op("Mul", net.constant(net.weight(4, 27), "w"), net.uniform(0.5, 2, 4, 1))
    weight = net.op("Reshape", weight, np.array([4, 3, 3, 3]))
    x = net.flatten(net.relu(net.op("Conv", x, weight, pads=[1] * 4)))
    weight = net.op("Transpose", net.constant(net.weight(5, 144), "v"), perm=[1, 0])
    return net.model(net.op("MatMul", x, weight))


@whole
def initializers_unused() -> ModelProto:
    """Initialisers and nodes that lead nowhere."""
    net = plain()
    net.constant(net.weight(3, 3), "unused")
    net.op("Sigmoid", "relu1_out", name="dead_end")
    return net.model("last_out")


@whole
def nodes_without_names() -> ModelProto:
    """No node has a name."""
    model = plain().model("last_out")
    for node in model.graph.node:
        node.name = ""
    return model


@whole
def nodes_with_long_names() -> ModelProto:
    """Names with slashes, colons, dots and spaces."""
    model = plain().model("last_out")
    for index, node in enumerate(model.graph.node):
        node.name = f"/model/layers.{index}/{node.op_type}:0 (copy)"
    return model


@whole
def values_named_like_nodes() -> ModelProto:
    """Values with numbers as names, the same as the names of other nodes."""
    model = plain().model("last_out")
    names: dict[str, str] = {"x": "x"}
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, str(len(names)))
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.setdefault(value, str(len(names))) for value in field]
    for index, node in enumerate(model.graph.node):
        node.name = str(index)
    model.graph.output[0].name = names["last_out"]
    return model


@whole
def shared_weights() -> ModelProto:
    """Two Convs on different inputs share weights and bias (a head over two pyramid levels)."""
    net = Net()
    x = net.conv_relu(net.input(3, 8, 8), 4)
    weight, bias = net.constant(net.weight(4, 4, 3, 3), "w"), net.constant(net.weight(4), "b")
    first = net.relu(net.op("Conv", x, weight, bias, pads=[1] * 4))
    second = net.relu(net.op("Conv", net.pool(first, 2), weight, bias, pads=[1] * 4))
    return net.model(net.head(first), net.head(second))


@whole
def shared_weights_bn_in_one_branch() -> ModelProto:
    """Two Convs share their weights, but only one has a BatchNormalization."""
    net = Net()
    x = net.conv_relu(net.input(3, 8, 8), 4)
    weight = net.constant(net.weight(4, 4, 3, 3), "w")
    first = net.op("Conv", x, weight, pads=[1] * 4)
    second = net.bn(net.op("Conv", x, weight, pads=[2] * 4, dilations=[2, 2]))
    return net.model(net.head(net.relu(net.add(net.relu(first), net.relu(second)))))


@whole
def shared_conv_output_bn_in_one_branch() -> ModelProto:
    """A Conv feeds a BatchNormalization and something else: folding would be wrong."""
    net = Net()
    x = net.conv(net.input(3, 8, 8), 4)
    return net.model(net.head(net.concat(net.relu(net.bn(x)), net.relu(x))))


@whole
def shared_bn_parameters() -> ModelProto:
    """Two BatchNormalizations use the same four arrays."""
    net = Net()
    x = net.conv(net.input(3, 8, 8), 4)
    arrays = [net.constant(net.uniform(0.5, 1.5, 4), f"bn{i}") for i in range(4)]
    x = net.relu(net.op("BatchNormalization", x, *arrays))
    return net.model(net.head(net.relu(net.op("BatchNormalization", net.conv(x, 4), *arrays))))


@whole
def batch_hard_coded_3() -> ModelProto:
    """A batch of three, hard-coded at the input and in a Reshape."""
    net = Net()
    x = net.conv_relu(net.input(3, 4, 4, batch=3), 4)
    return net.model(net.head(net.op("Reshape", x, np.array([3, 64]))))


@whole
def batch_unnamed() -> ModelProto:
    """The batch dimension has neither a number nor a name."""
    net = Net()
    return net.model(net.head(net.conv_relu(net.input(3, 4, 4, batch=None), 4)))


# ---- valid networks that a compiler may convert or refuse

EITHER |= {
    "maxpool_between_convs": around(lambda n, x: n.pool(n.conv(x, 4), 2)),
    "maxpool_on_input": around(lambda n, x: n.pool(x, 2), before="input"),
    "maxpool_after_bn": around(lambda n, x: n.pool(n.bn(x), 2)),
    "maxpool_after_sub": around(lambda n, x: n.pool(n.op("Sub", x, n.conv_relu(x, 4)), 2)),
    "maxpool_column_major": around(lambda n, x: n.pool(x, 2, storage_order=1)),
    "global_max_pool_of_conv": around(lambda n, x: n.op("GlobalMaxPool", x), before="conv"),
    "matmul_stack": around(lambda n, x: n.op("MatMul", x, n.weight(4, 8, 3))),
    "clip_max_only": around(lambda n, x: n.op("Clip", x, "", 0.5), before="conv"),
    "clip_from_0_1": around(lambda n, x: n.op("Clip", x, 0.1, 0.5)),
    "abs": around(lambda n, x: n.op("Abs", x), before="conv"),
    "prelu_slope_above_1": around(lambda n, x: n.op("PRelu", x, 1.5), before="conv"),
    "leaky_relu_slope_0": around(lambda n, x: n.op("LeakyRelu", x, alpha=0.0), before="conv"),
    "resize_cubic": around(
        lambda n, x: n.op("Resize", x, "", np.float32([1, 1, 2, 2]), mode="cubic"),
        shape=(3, 4, 5),
    ),
    "resize_crop": around(lambda n, x: _resize_crop(n, x), batch=1),
    "resize_channels": around(
        lambda n, x: n.op("Resize", x, "", np.float32([1, 2, 2, 2]), mode="nearest"),
        shape=(3, 4, 5),
    ),
    "tile": around(lambda n, x: n.op("Tile", x, np.array([1, 2, 1, 1]))),
    "gather_channels": around(lambda n, x: n.op("Gather", x, np.array([2, 0, 3]), axis=1)),
    "squeeze_without_axes": around(
        lambda n, x: n.op("Unsqueeze", n.op("Squeeze", n.op("GlobalAveragePool", x)), [0]),
        batch=1,
    ),
    "einsum_linear": around(
        lambda n, x: n.op("Einsum", x, n.weight(5, 4), equation="nchw,oc->nohw")
    ),
    "last_argmax": around(lambda n, x: n.op("ArgMax", n.head(x), axis=1), after="output"),
    "last_tanh": around(lambda n, x: n.op("Tanh", n.head(x)), after="output"),
    "input_is_output": lambda: _input_is_output(),
}


def _resize_crop(n: Net, x: str) -> str:
    roi = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8], np.float32)
    mode = "tf_crop_and_resize"
    sizes = np.array([1, 4, 6, 6])
    return n.op("Resize", x, roi, "", sizes, mode="linear", coordinate_transformation_mode=mode)


def _input_is_output() -> ModelProto:
    net = Net()
    x = net.input(3, 4, 4)
    return net.model(net.head(net.conv_relu(x, 4)), net.op("Identity", x))


# ---- networks that must be refused


@refused("norm1", "norm2")
def lrn(n: Net, x: str) -> str:
    x = n.pool(n.op("LRN", x, size=3, name="norm1"), 2)
    return n.op("LRN", n.conv_relu(x, 4), size=5, name="norm2")


@refused("gate", before="conv")
def sigmoid(n: Net, x: str) -> str:
    return n.op("Sigmoid", x, name="gate")


@refused("squash", before="conv")
def tanh(n: Net, x: str) -> str:
    return n.op("Tanh", x, name="squash")


def _unary(op: str, opset: int = 22, **attributes: object) -> None:
    step = lambda n, x: n.op(op, x, name="odd", **attributes)  # noqa: E731
    REFUSED[op.lower()] = (around(step, before="conv", opset=opset), ["odd"])


for _op in (
    "Ceil", "Celu", "Elu", "Erf", "Exp", "Floor", "Gelu", "GlobalLpPool", "HardSigmoid",
    "HardSwish", "Hardmax", "LpNormalization", "Mish", "Reciprocal", "Round", "Selu", "Shrink",
    "Sign", "Sin", "Softplus", "Softsign", "ThresholdedRelu",
):  # fmt: skip
    _unary(_op, opset=20 if _op == "Gelu" else 18)


@refused("odd", opset=18)
def reduce_max(n: Net, x: str) -> str:
    return n.op("ReduceMax", x, np.array([1]), name="odd")


@refused("odd", opset=18)
def reduce_l2(n: Net, x: str) -> str:
    return n.op("ReduceL2", x, np.array([1]), name="odd")


@refused("odd")
def cumsum_batch(n: Net, x: str) -> str:
    return n.op("CumSum", x, np.int64(0), name="odd")


@refused("softmax", "scores", "mixed", before="input", shape=(4, 6), after="head")
def attention(n: Net, x: str) -> str:
    q, k, v = (n.op("MatMul", x, n.weight(6, 6)) for _ in range(3))
    k = n.op("Transpose", k, perm=[0, 2, 1])
    weights = n.op("Softmax", n.op("MatMul", q, k, name="scores"), axis=-1, name="softmax")
    return n.op("MatMul", weights, v, name="mixed")


@refused("middle")
def softmax_in_the_middle(n: Net, x: str) -> str:
    return n.op("Softmax", x, axis=1, name="middle")


@refused("product")
def mul_of_activations(n: Net, x: str) -> str:
    return n.op("Mul", x, n.conv_relu(x, 4), name="product")


@refused("square")
def mul_by_itself(n: Net, x: str) -> str:
    return n.op("Mul", x, x, name="square")


@refused("gate", "product")
def swish(n: Net, x: str) -> str:
    return n.op("Mul", x, n.op("Sigmoid", x, name="gate"), name="product")


@refused("gate", "product")
def squeeze_excite(n: Net, x: str) -> str:
    y = n.conv_relu(n.op("GlobalAveragePool", x), 2, 1)
    return n.op("Mul", x, n.op("Sigmoid", n.conv(y, 4, 1), name="gate"), name="product")


@refused("quotient")
def div_constant_by_activation(n: Net, x: str) -> str:
    return n.op("Div", 2.0, n.add(x, 1.0), name="quotient")


@refused("quotient")
def div_of_activations(n: Net, x: str) -> str:
    return n.op("Div", x, n.add(n.conv_relu(x, 4), 1.0), name="quotient")


@refused("power")
def power(n: Net, x: str) -> str:
    return n.op("Pow", x, 2.0, name="power")


@refused("larger")
def max_of_activations(n: Net, x: str) -> str:
    return n.op("Max", n.conv(x, 4), n.conv(x, 4, 1), name="larger")


@refused("smaller")
def min_of_activations(n: Net, x: str) -> str:
    return n.op("Min", x, n.conv_relu(x, 4), name="smaller")


@refused("fine", "coarse")
def activations_of_8_bits(n: Net, x: str) -> str:
    step, zero = np.float32(0.02), np.uint8(0)
    fine = n.op("QuantizeLinear", n.relu(n.conv(x, 4)), step, zero, name="fine")
    return n.op("DequantizeLinear", fine, step, zero, name="coarse")


@refused("mean")
def mean_of_all_samples_with_an_axis(n: Net, x: str) -> str:
    mean = n.op("ReduceMean", x, keepdims=0, name="mean")
    return n.op("Unsqueeze", mean, np.array([0, 1]), name="again")


@refused("norm")
def instance_normalization(n: Net, x: str) -> str:
    return n.op("InstanceNormalization", x, n.uniform(0.5, 1, 4), n.weight(4), name="norm")


@refused("norm", before="flat")
def layer_normalization(n: Net, x: str) -> str:
    size = n.shape(x)[1]
    return n.op("LayerNormalization", x, n.uniform(0.5, 1, size), n.weight(size), name="norm")


@refused("norm", opset=21)
def group_normalization(n: Net, x: str) -> str:
    scale, bias = n.uniform(0.5, 1, 4), n.weight(4)
    y = n.op("GroupNormalization", x, scale, bias, num_groups=2, name="norm")
    return n.declare(y, 4, 8, 8)


@refused("clip", before="conv")
def clip_signed(n: Net, x: str) -> str:
    return n.op("Clip", x, -1.0, 1.0, name="clip")


@refused("clip", before="conv", opset=10)
def clip_signed_attributes(n: Net, x: str) -> str:
    return n.op("Clip", x, min=-1.0, max=1.0, name="clip")


@refused("leaky", before="conv")
def prelu_negative_slope(n: Net, x: str) -> str:
    slopes = np.array([0.1, -0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1)
    return n.op("PRelu", x, slopes, name="leaky")


@refused("leaky", before="conv")
def leaky_relu_negative_slope(n: Net, x: str) -> str:
    return n.op("LeakyRelu", x, alpha=-0.5, name="leaky")


@refused("leaky", before="conv")
def prelu_computed_slope(n: Net, x: str) -> str:
    return n.op("PRelu", x, n.op("GlobalAveragePool", n.relu(x)), name="leaky")


@refused("dynamic", batch=1)
def conv_computed_weights(n: Net, x: str) -> str:
    return n.op("Conv", x, n.pool(n.conv_relu(x, 4), 3, strides=3), name="dynamic")


@refused("norm")
def bn_computed_scale(n: Net, x: str) -> str:
    scale = n.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0, name="statistics")
    arrays = n.weight(4), n.weight(4), n.uniform(0.5, 1.5, 4)
    return n.op("BatchNormalization", x, scale, *arrays, name="norm")


@refused("norm", opset=15)
def bn_training(n: Net, x: str) -> str:
    arrays = n.uniform(0.5, 1.5, 4), n.weight(4), n.weight(4), n.uniform(0.5, 1.5, 4)
    return n.op("BatchNormalization", x, *arrays, name="norm", training_mode=1, outputs=3)[0]


@refused("pool", after="head")
def maxpool_same_dilated(n: Net, x: str) -> str:
    # onnxruntime leaves the dilation out of the pads
    same = {"kernel_shape": [3, 3], "dilations": [2, 2], "auto_pad": "SAME_UPPER"}
    return n.op("GlobalAveragePool", n.op("MaxPool", x, name="pool", **same))


@refused("dilated", after="head")
def conv_same_dilated(n: Net, x: str) -> str:
    same = {"dilations": [2, 2], "auto_pad": "SAME_LOWER"}
    return n.op("Conv", x, n.weight(5, 4, 3, 3), name="dilated", **same)


@refused("pool")
def maxpool_indices(n: Net, x: str) -> str:
    values, indices = n.op("MaxPool", x, kernel_shape=[2, 2], name="pool", outputs=2)
    return n.add(values, n.op("Cast", indices, to=TensorProto.FLOAT, name="cast"))


@refused("pool")
def maxpool_unpool(n: Net, x: str) -> str:
    pooled = n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], name="pool", outputs=2)
    return n.op("MaxUnpool", *pooled, kernel_shape=[2, 2], strides=[2, 2], name="unpool")


@refused("mix", after="output")
def reshape_mixes_batch(n: Net, x: str) -> str:
    y = n.op("Reshape", x, np.array([-1, 64]), name="mix")
    return n.relu(n.gemm(y, 5))


@refused("mix", after="output")
def flatten_mixes_batch(n: Net, x: str) -> str:
    return n.relu(n.gemm(n.op("Flatten", x, axis=2, name="mix"), 5))


@refused("mix", shape=(3, 5, 6))
def transpose_moves_batch(n: Net, x: str) -> str:
    y = n.op("Transpose", x, perm=[1, 0, 2, 3], name="mix")
    y = n.op("MatMul", y, n.weight(6, 6))
    return n.op("Transpose", y, perm=[1, 0, 2, 3], name="back")


@refused("mix", after="head")
def concat_batch(n: Net, x: str) -> str:
    return n.op("Concat", x, n.conv_relu(x, 4), axis=0, name="mix")


@refused("mix", after="head")
def slice_batch(n: Net, x: str) -> str:
    return n.op("Slice", x, np.array([0]), np.array([1]), np.array([0]), name="mix")


@refused("mix", after="head")
def pad_batch(n: Net, x: str) -> str:
    return n.op("Pad", x, np.array([0, 0, 0, 0, 1, 0, 0, 0]), name="mix")


@refused("border")
def pad_below_before_conv(n: Net, x: str) -> str:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    return n.op("Pad", x, pads, np.finfo(np.float32).min, name="border")


@refused("border")
def pad_infinite(n: Net, x: str) -> str:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    return n.pool(n.op("Pad", x, pads, np.float32(np.inf), name="border"))


@refused("mix", after="head")
def reduce_mean_batch(n: Net, x: str) -> str:
    return n.op("ReduceMean", x, axes=[0], keepdims=1, name="mix")


@refused("mix", after="head")
def gather_batch(n: Net, x: str) -> str:
    return n.op("Gather", x, np.array([0]), axis=0, name="mix")


@refused("drop", opset=13)
def dropout_training(n: Net, x: str) -> str:
    return n.op("Dropout", x, 0.5, np.bool_(True), name="drop")


@refused("rounded")
def cast_to_integer(n: Net, x: str) -> str:
    y = n.op("Cast", x, to=TensorProto.INT32, name="rounded")
    return n.op("Cast", y, to=TensorProto.FLOAT, name="back")


@refused("choice")
def where(n: Net, x: str) -> str:
    mask = n.op("Greater", x, 0.5, name="mask")
    return n.op("Where", mask, x, n.conv_relu(x, 4), name="choice")


@refused("best", after="output")
def topk(n: Net, x: str) -> str:
    return n.op("TopK", n.flatten(x), np.array([3]), name="best", outputs=2)[0]


@refused("noise")
def random_normal(n: Net, x: str) -> str:
    return n.add(x, n.op("RandomNormalLike", x, name="noise"))


@refused("gru", shape=(5, 3), before="input")
def gru(n: Net, x: str) -> str:
    return _recurrent(n, x, "GRU", "gru", 3)


@refused("lstm", shape=(5, 3), before="input")
def lstm(n: Net, x: str) -> str:
    return _recurrent(n, x, "LSTM", "lstm", 4)


@refused("rnn", shape=(5, 3), before="input")
def rnn(n: Net, x: str) -> str:
    return _recurrent(n, x, "RNN", "rnn", 1)


def _recurrent(n: Net, x: str, op: str, name: str, gates: int) -> str:
    x = n.op("Transpose", x, perm=[1, 0, 2], name="time_first")
    weights = n.weight(1, 4 * gates, 3), n.weight(1, 4 * gates, 4)
    _, last = n.op(op, x, *weights, hidden_size=4, name=name, outputs=2)
    return n.op("Squeeze", last, np.array([0]), name="last_state")


def _branch(name: str, op_type: str, x: str) -> onnx.GraphProto:
    node = helper.make_node(op_type, [x], [name], name=f"{name}_node")
    info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [info])


@refused("choose")
def if_node(n: Net, x: str) -> str:
    # the condition depends on the data: it cannot be folded away
    mean = n.op("ReduceMean", x, keepdims=0, name="mean")
    condition = n.op("Greater", mean, 0.5, name="condition")
    y = n.op(
        "If", condition, name="choose",
        then_branch=_branch("then", "Relu", x), else_branch=_branch("else", "Neg", x),
    )  # fmt: skip
    return n.declare(y, 4, 8, 8)


@refused("repeat")
def loop(n: Net, x: str) -> str:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["still"], name="condition"),
            helper.make_node("Add", ["state", "state"], ["next"], name="double"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    y = n.op("Loop", np.int64(3), np.bool_(True), x, body=body, name="repeat")
    return n.declare(y, 4, 8, 8)


@refused("magic")
def unknown_domain(n: Net, x: str) -> str:
    return n.declare(n.op("Magic", x, domain="com.example", name="magic"), 4, 8, 8)


@refused("norm1", "gate", "product", "attention", "noise")
def several_at_once(n: Net, x: str) -> str:
    x = n.conv_relu(n.op("LRN", x, size=3, name="norm1"), 4)
    x = n.op("Mul", x, n.op("Sigmoid", n.conv(x, 4), name="gate"), name="product")
    x = n.op("Softmax", n.conv(x, 4), axis=-1, name="attention")
    return n.op("Tanh", n.conv(x, 4), name="noise")


# ---- self check


def check(name: str, build: Builder, *, strict: bool = True) -> str | None:
    """Return what is wrong with a network, or None: validity, batch by batch results, dead nets."""
    import onnxruntime as ort

    model = build()
    assert build() == model, f"{name} is not deterministic"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(model, full_check=True)
        session = ort.InferenceSession(model.SerializeToString(), options)
    except Exception as error:
        return f"cannot be loaded: {error}"
    batch = fixed_batch(model)
    x = sample_input(model, batch or 3, 1)
    try:
        together = session.run(None, {"x": x})
        one_by_one = [x] if batch else [x[i : i + 1] for i in range(3)]
        alone = zip(*(session.run(None, {"x": part}) for part in one_by_one), strict=True)
        alone = [np.concatenate(parts) for parts in alone]
    except Exception as error:
        return f"cannot be run: {error}"
    if not strict:
        return None
    for one, three in zip(alone, together, strict=True):
        if not np.allclose(one, three, rtol=1e-4, atol=1e-5):
            return "the samples of a batch are mixed"
        if not np.isfinite(three).all() or np.std(three) < 1e-4:
            return f"dead or exploding: {three.ravel()[:5]}"
    return None


if __name__ == "__main__":
    print(f"{len(CASES)} cases, {len(EITHER)} of either kind, {len(REFUSED)} to refuse")
    for table_name, table in {"CASES": CASES, "EITHER": EITHER}.items():
        for case_name, builder in table.items():
            if trouble := check(case_name, builder):
                print(f"{table_name} {case_name}: {trouble}")
    for case_name, (builder, nodes) in REFUSED.items():
        missing = set(nodes) - {node.name for node in builder().graph.node}
        trouble = f"no node {missing}" if missing else check(case_name, builder, strict=False)
        if trouble and case_name != "unknown_domain":  # which onnxruntime cannot load
            print(f"REFUSED {case_name}: {trouble}")
