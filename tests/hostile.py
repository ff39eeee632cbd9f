"""Files that must be refused with a clear message, and odd ones that must work all the same.

A model that is odd but valid as a network is in `opcases`; here are the broken, the malicious and
the mistaken ones. Nothing here runs or opens what it writes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from networks import Net
from opcases import REFUSED

INPUT_SHAPE = (3, 8, 8)
CLASSES = 5
HUGE = 2**31

MODELS: dict[str, Callable[[], ModelProto | bytes]] = {}  # refused, one file each
FILES: dict[str, Callable[[Path], Path]] = {}  # refused, needing more than the bytes of one file
EITHER: dict[str, Callable[[], ModelProto | bytes]] = {}  # to be converted rightly or refused
USABLE: dict[str, Callable[[Path], Path]] = {}  # odd, but to be converted
DATA: dict[str, Callable[[Path], Path]] = {}  # .npz files to be refused for `base()`
USABLE_DATA: dict[str, Callable[[Path], Path]] = {}  # odd, but to be read
EITHER_DATA: dict[str, Callable[[Path], Path]] = {}  # to be read rightly or refused


def base(opset: int = 17) -> ModelProto:
    """Return the innocent network that the others spoil: Conv, Relu, MaxPool, Flatten, Gemm."""
    net = Net(opset=opset, name="base")
    x = net.pool(net.conv_relu(net.input(*INPUT_SHAPE), 4), 2)
    return net.model(net.gemm(net.flatten(x), CLASSES))


def write_all(folder: Path) -> dict[str, Path]:
    """Write every model that must be refused, each into its own folder; return their paths."""
    return _write(folder, {name: _as_file(build) for name, build in MODELS.items()} | FILES)


def write_either(folder: Path) -> dict[str, Path]:
    """Write the models that may be accepted or refused."""
    return _write(folder, {name: _as_file(build) for name, build in EITHER.items()})


def write_usable(folder: Path) -> dict[str, Path]:
    """Write the odd models that must be accepted."""
    return _write(folder, USABLE)


def write_data(folder: Path) -> dict[str, Path]:
    """Write every .npz that must be refused for `base()`."""
    return _write(folder, DATA)


def write_usable_data(folder: Path) -> dict[str, Path]:
    """Write the odd .npz files that must be read."""
    return _write(folder, USABLE_DATA)


def write_either_data(folder: Path) -> dict[str, Path]:
    """Write the .npz files that may be read or refused."""
    return _write(folder, EITHER_DATA)


def _write(folder: Path, table: dict[str, Callable[[Path], Path]]) -> dict[str, Path]:
    paths = {}
    for name, write in table.items():
        own = Path(folder) / name
        own.mkdir(parents=True)
        paths[name] = write(own)
    return paths


def _as_file(build: Callable[[], ModelProto | bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = build()
        return _save(folder, content if isinstance(content, bytes) else content.SerializeToString())

    return write


def _save(folder: Path, content: bytes, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def model(build: Callable[[], ModelProto | bytes]) -> Callable[[], ModelProto | bytes]:
    """Enter a function that builds a bad model."""
    MODELS[build.__name__] = build
    return build


def spoiled(change: Callable[[GraphProto], None]) -> Callable[[GraphProto], None]:
    """Enter a bad model made from `base()` by changing its graph."""

    def build() -> ModelProto:
        result = base()
        change(result.graph)
        return result

    MODELS[change.__name__] = build
    return change


def file(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Enter a function that writes a bad model and what belongs to it."""
    FILES[write.__name__] = write
    return write


def usable(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Enter a function that writes an odd but good model."""
    USABLE[write.__name__] = write
    return write


# ---- not a model at all


@model
def empty() -> bytes:
    return b""


@model
def text() -> bytes:
    return b"This is not a model.\n" * 20


@model
def garbage() -> bytes:
    return np.random.default_rng(0).bytes(4096)


@model
def truncated_half() -> bytes:
    content = base().SerializeToString()
    return content[: len(content) // 2]


@model
def truncated_by_one_byte() -> bytes:
    return base().SerializeToString()[:-1]


@model
def npz_as_model() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


@model
def no_graph() -> ModelProto:
    result = base()
    result.ClearField("graph")
    return result


@file
def a_folder(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.mkdir()
    return path


@file
def missing_file(folder: Path) -> Path:
    return folder / "model.onnx"


@file
def a_pipe(folder: Path) -> Path:
    path = folder / "model.onnx"
    os.mkfifo(path)
    return path


# ---- external data


def _external(folder: Path, location: str, *, offset: int = 0, data: bytes | None = None) -> Path:
    """Save `base()` with its first weight outside, at `location`; `data` goes to weights.bin."""
    result = base()
    tensor = result.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": len(raw)}.items():
        tensor.external_data.add(key=key, value=str(value))
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret.bin").write_bytes(raw)
    if data is not None:
        (inner / "weights.bin").write_bytes(data)
    return _save(inner, result.SerializeToString())


def _weight_bytes() -> bytes:
    return base().graph.initializer[0].raw_data


@file
def external_parent(folder: Path) -> Path:
    return _external(folder, "../secret.bin")


@file
def external_parent_hidden(folder: Path) -> Path:
    return _external(folder, "sub/../../secret.bin")


@file
def external_absolute(folder: Path) -> Path:
    return _external(folder, str((folder / "secret.bin").resolve()))


@file
def external_missing(folder: Path) -> Path:
    return _external(folder, "weights.bin")


@file
def external_too_short(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=_weight_bytes()[:-4])


@file
def external_offset_past_end(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=_weight_bytes(), offset=10**6)


@file
def external_offset_negative(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=_weight_bytes(), offset=-4)


@file
def external_offset_word(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=_weight_bytes(), offset="many")


@file
def external_empty_location(folder: Path) -> Path:
    return _external(folder, "")


@file
def external_symlink(folder: Path) -> Path:
    path = _external(folder, "weights.bin")
    (path.parent / "weights.bin").symlink_to("../secret.bin")
    return path


@file
def external_symlinked_folder(folder: Path) -> Path:
    path = _external(folder, "sub/secret.bin")
    (path.parent / "sub").symlink_to("..")
    return path


@file
def external_folder(folder: Path) -> Path:
    path = _external(folder, "weights.bin")
    (path.parent / "weights.bin").mkdir()
    return path


@file
def external_pipe(folder: Path) -> Path:
    """A named pipe: whoever opens it carelessly waits for ever."""
    path = _external(folder, "weights.bin")
    os.mkfifo(path.parent / "weights.bin")
    return path


@file
def external_name_too_long(folder: Path) -> Path:
    return _external(folder, "w" * 1000)


@file
def external_name_with_nul(folder: Path) -> Path:
    return _external(folder, "weights\0.bin")


def _external_constant(folder: Path, location: str) -> Path:
    """Save `base()` with its first weight in a Constant node, and that one's data outside."""
    path = _external(folder, location, data=_weight_bytes())
    result = ModelProto.FromString(path.read_bytes())
    tensor = result.graph.initializer[0]
    node = helper.make_node("Constant", [], [tensor.name], name="weight", value=tensor)
    del result.graph.initializer[0]
    result.graph.node.insert(0, node)
    path.write_bytes(result.SerializeToString())
    return path


@file
def external_parent_in_constant_node(folder: Path) -> Path:
    return _external_constant(folder, "../secret.bin")


@file
def external_parent_in_function(folder: Path) -> Path:
    """The file outside is named in the body of a function that nobody calls."""
    path = _external_constant(folder, "../secret.bin")
    result = ModelProto.FromString(path.read_bytes())
    node = result.graph.node[0]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    body = helper.make_function("local", "Weight", [], [node.output[0]], [node], opsets)
    result = base()
    result.functions.append(body)
    result.opset_import.append(opsets[1])
    path.write_bytes(result.SerializeToString())
    return path


@file
def external_nan(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=np.full_like(_floats(), np.nan).tobytes())


def _floats() -> np.ndarray:
    return np.frombuffer(_weight_bytes(), np.float32)


@usable
def external_data(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=_weight_bytes())


@usable
def external_data_offset(folder: Path) -> Path:
    return _external(folder, "weights.bin", data=b"\0" * 64 + _weight_bytes(), offset=64)


@usable
def external_data_in_constant_node(folder: Path) -> Path:
    return _external_constant(folder, "weights.bin")


# ---- bad numbers


def _fill(graph: GraphProto, index: int, value: float) -> None:
    tensor = graph.initializer[index]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[-1] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@spoiled
def nan_weight(graph: GraphProto) -> None:
    _fill(graph, 0, np.nan)


@spoiled
def inf_weight(graph: GraphProto) -> None:
    _fill(graph, 2, -np.inf)


@spoiled
def nan_bias(graph: GraphProto) -> None:
    _fill(graph, 1, np.nan)


@model
def nan_in_constant_node() -> ModelProto:
    net = Net()
    value = numpy_helper.from_array(np.float32([1, np.nan, 1]))
    x = net.op("Mul", net.input(3), net.op("Constant", value=value))
    return net.model(net.head(net.relu(x)))


def _bn(variance: float, epsilon: float) -> ModelProto:
    net = Net()
    x = net.bn(net.conv(net.input(*INPUT_SHAPE), 4), epsilon=epsilon)
    result = net.model(net.head(net.relu(x)))
    name = next(n for n in result.graph.node if n.op_type == "BatchNormalization").input[4]
    index = [tensor.name for tensor in result.graph.initializer].index(name)
    _fill(result.graph, index, variance)
    return result


@model
def bn_negative_variance() -> ModelProto:
    return _bn(-1.0, 1e-5)


@model
def bn_zero_variance() -> ModelProto:
    return _bn(0.0, 0.0)


@model
def division_by_zero() -> ModelProto:
    net = Net()
    x = net.op("Div", net.conv(net.input(*INPUT_SHAPE), 4), 0.0)
    return net.model(net.head(net.relu(x)))


def _converted(dtype: type) -> ModelProto:
    """Return `base()` in another floating-point type."""
    result = base()
    graph = result.graph
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for info in (*graph.input, *graph.output):
        info.type.tensor_type.elem_type = kind
    return result


@model
def float16() -> ModelProto:
    return _converted(np.float16)


@model
def float64() -> ModelProto:
    return _converted(np.float64)


@model
def float16_inside() -> ModelProto:
    """float32 at both ends, float16 between two Casts."""
    net = Net()
    x = net.op("Cast", net.conv_relu(net.input(*INPUT_SHAPE), 4), to=TensorProto.FLOAT16)
    x = net.op("Relu", net.op("Conv", x, net.weight(4, 4, 3, 3).astype(np.float16)))
    return net.model(net.head(net.op("Cast", x, to=TensorProto.FLOAT)))


@model
def quantized() -> ModelProto:
    """Already quantised to eight bits."""
    net = Net()
    scale, zero = np.float32(0.05), np.uint8(128)
    x = net.op("QuantizeLinear", net.input(*INPUT_SHAPE), scale, zero)
    weight = net.rng.integers(-90, 90, (4, 3, 3, 3)).astype(np.int8)
    x = net.op("QLinearConv", x, scale, zero, weight, scale, np.int8(0), scale, zero)
    return net.model(net.head(net.op("DequantizeLinear", x, scale, zero)))


# ---- control flow, domains, versions

for _name in ("if_node", "loop", "unknown_domain", "gru"):
    MODELS[_name] = REFUSED[_name][0]


@model
def unknown_operator() -> ModelProto:
    result = base()
    result.graph.node[1].op_type = "Reluu"
    return result


@model
def domain_without_import() -> ModelProto:
    result = base()
    result.graph.node[1].domain = "com.example"
    return result


def _opset(version: int) -> ModelProto:
    result = base()
    result.opset_import[0].version = version
    return result


@model
def opset_99() -> ModelProto:
    return _opset(99)


@model
def opset_0() -> ModelProto:
    return _opset(0)


@model
def opset_3() -> ModelProto:
    return _opset(3)


@model
def no_opset() -> ModelProto:
    result = base()
    del result.opset_import[:]
    return result


@model
def ir_version_99() -> ModelProto:
    result = base()
    result.ir_version = 99
    return result


def _function(inner: str, inner_domain: str, domain: str) -> ModelProto:
    """Replace the Relu by a function `IF` of the given domain that calls `inner`."""
    result = base()
    node = helper.make_node(inner, ["a"], ["b"], domain=inner_domain)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    result.functions.append(helper.make_function(domain, "IF", ["a"], ["b"], [node], opsets))
    result.graph.node[1].op_type, result.graph.node[1].domain = "IF", domain
    result.opset_import.append(opsets[1])
    return result


@model
def function_with_our_domain() -> ModelProto:
    """A network that brings its own, false definition of one of our neurons."""
    return _function("Sigmoid", "", "snn")


@model
def function_recursive() -> ModelProto:
    return _function("IF", "local", "local")


# ---- bad attributes


def _attribute(graph: GraphProto, index: int, name: str, value: object) -> None:
    node = graph.node[index]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


CONV, RELU, POOL, FLATTEN, GEMM = range(5)
BAD_ATTRIBUTES = {
    "conv_strides_0": (CONV, "strides", [0, 0]),
    "conv_strides_negative": (CONV, "strides", [-1, 1]),
    "conv_strides_too_many": (CONV, "strides", [1, 1, 1]),
    "conv_strides_float": (CONV, "strides", [1.5, 1.5]),
    "conv_dilations_0": (CONV, "dilations", [0, 1]),
    "conv_kernel_shape_wrong": (CONV, "kernel_shape", [5, 5]),
    "conv_kernel_shape_0": (CONV, "kernel_shape", [0, 3]),
    "conv_group_0": (CONV, "group", 0),
    "conv_group_wrong": (CONV, "group", 2),
    "conv_pads_negative": (CONV, "pads", [-9, -9, -9, -9]),
    "conv_pads_huge": (CONV, "pads", [HUGE] * 4),
    "conv_auto_pad_unknown": (CONV, "auto_pad", "SOMEHOW"),
    "conv_unknown_attribute": (CONV, "speed", 3),
    "pool_kernel_0": (POOL, "kernel_shape", [0, 2]),
    "pool_kernel_missing": (POOL, "kernel_shape", None),
    "pool_kernel_too_large": (POOL, "kernel_shape", [99, 99]),
    "pool_strides_0": (POOL, "strides", [0, 0]),
    "pool_pads_beyond_kernel": (POOL, "pads", [5, 5, 5, 5]),
    "flatten_axis_9": (FLATTEN, "axis", 9),
    "gemm_trans_a": (GEMM, "transA", 1),
}


def _with_attribute(index: int, name: str, value: object) -> Callable[[], ModelProto]:
    def build() -> ModelProto:
        result = base()
        _attribute(result.graph, index, name, value)
        return result

    return build


for _name, _change in BAD_ATTRIBUTES.items():
    MODELS[_name] = _with_attribute(*_change)


@spoiled
def attribute_twice(graph: GraphProto) -> None:
    graph.node[CONV].attribute.append(helper.make_attribute("group", 1))


@spoiled
def attribute_without_type(graph: GraphProto) -> None:
    graph.node[CONV].attribute[0].type = AttributeProto.UNDEFINED


# ---- bad sizes: what they ask for must not be allocated


@spoiled
def initializer_dims_negative(graph: GraphProto) -> None:
    graph.initializer[0].dims[0] = -4


@spoiled
def initializer_dims_huge(graph: GraphProto) -> None:
    graph.initializer[0].dims[:] = [HUGE, HUGE]


@spoiled
def initializer_too_little_data(graph: GraphProto) -> None:
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]


@spoiled
def initializer_two_kinds_of_data(graph: GraphProto) -> None:
    graph.initializer[0].float_data.extend([0.0] * 108)


@spoiled
def initializer_unknown_type(graph: GraphProto) -> None:
    graph.initializer[0].data_type = 77


@spoiled
def initializer_of_strings(graph: GraphProto) -> None:
    name = graph.initializer[1].name
    graph.initializer[1].CopyFrom(helper.make_tensor(name, TensorProto.STRING, [4], [b"a"] * 4))


@spoiled
def weight_shape_wrong(graph: GraphProto) -> None:
    graph.initializer[0].dims[:] = [4, 9, 3, 1]


@spoiled
def conv_bias_too_short(graph: GraphProto) -> None:
    """Onnxruntime would read beyond its end."""
    graph.initializer[1].CopyFrom(numpy_helper.from_array(_zeros(2), graph.initializer[1].name))


@spoiled
def conv_bias_too_long(graph: GraphProto) -> None:
    graph.initializer[1].CopyFrom(numpy_helper.from_array(_zeros(5), graph.initializer[1].name))


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@model
def sparse_weight() -> ModelProto:
    result = base()
    dense = result.graph.initializer[2]
    values = numpy_helper.from_array(np.float32([0.5, -0.5]), dense.name)
    indices = numpy_helper.from_array(np.int64([3, 40]), "indices")
    result.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dense.dims))
    del result.graph.initializer[2]
    return result


@model
def sparse_constant_node() -> ModelProto:
    net = Net()
    values, indices = numpy_helper.from_array(np.float32([1]), "v"), np.int64([4])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), [3, 5])
    return net.model(net.op("MatMul", net.input(3), net.op("Constant", sparse_value=sparse)))


@spoiled
def gemm_shape_wrong(graph: GraphProto) -> None:
    graph.initializer[2].dims[:] = [64, 5]


@model
def constant_bomb() -> ModelProto:
    """A constant of four terabytes in a few bytes: for whoever folds without looking."""
    net = Net()
    zeros = net.op("ConstantOfShape", np.array([2**20, 2**20]))
    total = net.op("ReduceMean", zeros, axes=[0, 1], keepdims=0)
    return net.model(net.head(net.relu(net.add(net.gemm(net.input(6), 7), total))))


@model
def tile_bomb() -> ModelProto:
    net = Net()
    tiled = net.op("Tile", net.weight(1, 7), np.array([2**40, 1]))
    total = net.op("ReduceMean", tiled, axes=[0], keepdims=1)
    return net.model(net.head(net.relu(net.add(net.gemm(net.input(6), 7), total))))


@model
def resize_bomb() -> ModelProto:
    net = Net()
    x = net.conv_relu(net.input(*INPUT_SHAPE), 4)
    x = net.op("Resize", x, "", np.float32([1, 1, 1e6, 1e6]), mode="nearest")
    return net.model(net.gemm(net.flatten(net.op("GlobalAveragePool", x)), CLASSES))


# ---- bad inputs and outputs


def _input_dim(graph: GraphProto, index: int, value: int | str) -> None:
    dim = graph.input[0].type.tensor_type.shape.dim[index]
    dim.Clear()
    if isinstance(value, int):
        dim.dim_value = value
    elif value:
        dim.dim_param = value


@spoiled
def input_dim_negative(graph: GraphProto) -> None:
    _input_dim(graph, 2, -8)


@spoiled
def input_dim_0(graph: GraphProto) -> None:
    _input_dim(graph, 2, 0)


@spoiled
def input_dim_huge(graph: GraphProto) -> None:
    _input_dim(graph, 2, HUGE)


@spoiled
def input_dim_wrong(graph: GraphProto) -> None:
    _input_dim(graph, 1, 7)


@model
def input_space_dynamic() -> ModelProto:
    net = Net()
    x = net.conv_relu(net.input(3, "height", "width"), 4)
    return net.model(net.head(net.op("GlobalAveragePool", x)))


@model
def input_space_unnamed() -> ModelProto:
    net = Net()
    x = net.conv_relu(net.input(3, None, None), 4)
    return net.model(net.head(net.op("GlobalAveragePool", x)))


@spoiled
def input_without_shape(graph: GraphProto) -> None:
    graph.input[0].type.tensor_type.ClearField("shape")


@spoiled
def input_without_type(graph: GraphProto) -> None:
    graph.input[0].ClearField("type")


@model
def input_scalar() -> ModelProto:
    net = Net()
    net.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, []))
    return net.model(net.relu("x"))


@model
def input_int64() -> ModelProto:
    net = Net()
    x = net.input(*INPUT_SHAPE, dtype=TensorProto.INT64)
    return net.model(net.head(net.conv_relu(net.op("Cast", x, to=TensorProto.FLOAT), 4)))


@model
def input_uint8() -> ModelProto:
    net = Net()
    x = net.input(*INPUT_SHAPE, dtype=TensorProto.UINT8)
    return net.model(net.head(net.conv_relu(net.op("Cast", x, to=TensorProto.FLOAT), 4)))


@model
def input_tokens() -> ModelProto:
    """Integers that pick rows of an embedding."""
    net = Net()
    x = net.input(9, dtype=TensorProto.INT64)
    x = net.op("Gather", net.constant(net.weight(20, 6), "embedding"), x)
    return net.model(net.head(net.relu(x)))


@model
def inputs_two() -> ModelProto:
    net = Net()
    first, second = net.input(6, name="x"), net.input(4, name="z")
    return net.model(net.head(net.relu(net.gemm(net.concat(first, second), 8))))


@model
def inputs_none() -> ModelProto:
    net = Net()
    return net.model(net.op("Relu", net.weight(1, 5)))


@spoiled
def outputs_none(graph: GraphProto) -> None:
    del graph.output[:]


@spoiled
def nodes_none(graph: GraphProto) -> None:
    del graph.node[:]


@model
def nodes_none_at_all() -> ModelProto:
    """The output is the input."""
    net = Net()
    return net.model(net.input(3))


@spoiled
def output_twice(graph: GraphProto) -> None:
    graph.output.append(graph.output[0])


@spoiled
def output_undefined(graph: GraphProto) -> None:
    graph.output[0].name = "nowhere"


@spoiled
def output_is_integer(graph: GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


@model
def output_does_not_depend_on_input() -> ModelProto:
    net = Net()
    net.input(3)
    return net.model(net.op("Relu", net.weight(1, 5)))


@spoiled
def output_is_the_input(graph: GraphProto) -> None:
    graph.output.append(graph.input[0])


@spoiled
def output_is_a_weight(graph: GraphProto) -> None:
    tensor = graph.initializer[0]
    info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    graph.output.append(info)


@model
def output_is_a_mask() -> ModelProto:
    net = Net()
    x, mask = net.op("Dropout", net.conv_relu(net.input(3, 8, 8), 4), outputs=2)
    model = net.model(net.head(x), mask)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.BOOL
    return model


# ---- bad graphs


@spoiled
def duplicate_value(graph: GraphProto) -> None:
    graph.node[RELU].output[0] = graph.node[CONV].output[0]


@spoiled
def duplicate_initializer(graph: GraphProto) -> None:
    other = np.zeros((4, 3, 3, 3), np.float32)
    graph.initializer.append(numpy_helper.from_array(other, graph.initializer[0].name))


@spoiled
def duplicate_node_name(graph: GraphProto) -> None:
    graph.node[RELU].name = graph.node[CONV].name


@spoiled
def duplicate_input(graph: GraphProto) -> None:
    graph.input.append(graph.input[0])


@spoiled
def initializer_named_like_a_node_output(graph: GraphProto) -> None:
    array = np.zeros((1, 4, 8, 8), np.float32)
    graph.initializer.append(numpy_helper.from_array(array, graph.node[CONV].output[0]))


@spoiled
def initializer_named_like_the_input(graph: GraphProto) -> None:
    """The only input has a default value, so nothing is left to feed."""
    array = np.zeros((1, *INPUT_SHAPE), np.float32)
    graph.initializer.append(numpy_helper.from_array(array, "x"))


@spoiled
def cycle(graph: GraphProto) -> None:
    # the Relu reads the sum of the Conv and of its own pooled output
    pooled, relu = graph.node[POOL].output[0], graph.node[RELU]
    graph.node.insert(
        RELU, helper.make_node("Add", [relu.input[0], pooled], ["sum"], name="feedback")
    )
    graph.node[RELU + 1].input[0] = "sum"


@spoiled
def cycle_of_one(graph: GraphProto) -> None:
    graph.node[RELU].input[0] = graph.node[RELU].output[0]


@spoiled
def not_sorted(graph: GraphProto) -> None:
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes[::-1])


@spoiled
def undefined_input(graph: GraphProto) -> None:
    graph.node[RELU].input[0] = "nowhere"


@spoiled
def missing_required_input(graph: GraphProto) -> None:
    del graph.node[CONV].input[1:]


@spoiled
def empty_required_input(graph: GraphProto) -> None:
    graph.node[RELU].input[0] = ""


@spoiled
def too_many_inputs(graph: GraphProto) -> None:
    graph.node[RELU].input.append("x")


@spoiled
def node_without_operator(graph: GraphProto) -> None:
    graph.node[RELU].op_type = ""


@spoiled
def node_without_output(graph: GraphProto) -> None:
    del graph.node[RELU].output[:]


@model
def node_name_not_utf8() -> bytes:
    result = base()
    result.graph.node[RELU].name = "qqqq"
    return result.SerializeToString().replace(b"qqqq", b"\xff\xfe\xc3\x28")


for _name in (
    "initializer_named_like_the_input", "node_name_not_utf8", "not_sorted", "output_twice",
    "output_does_not_depend_on_input",
):  # fmt: skip
    EITHER[_name] = MODELS.pop(_name)


# ---- odd names, which must neither be obeyed nor break anything


def _renamed(name: Callable[[str], str], *, values: bool = False) -> Callable[[Path], Path]:
    """Rename the nodes of `base()`, and with `values` the values and outputs as well."""

    def write(folder: Path) -> Path:
        result = base()
        graph = result.graph
        for node in graph.node:
            node.name = name(node.name)
            if values:
                node.input[:] = [name(value) for value in node.input]
                node.output[:] = [name(value) for value in node.output]
        if values:
            for item in (*graph.initializer, *graph.input, *graph.output):
                item.name = name(item.name)
        return _save(folder, result.SerializeToString())

    return write


NAMES: dict[str, Callable[[str], str]] = {
    "escape_codes": lambda name: f"\x1b[31m\x1b[2J{name}\x07\r\n",
    "paths": lambda name: f"../../{name}/..",
    "absolute_paths": lambda name: f"/etc/{name}",
    "markup": lambda name: f"[bold red]{name}[/] [/link]",
    "format_codes": lambda name: f"{{0}} %s %n {{{name}}}",
    "quotes": lambda name: f"\"'`{name}\\\n;--",
    "text_syntax": lambda name: f"<{name}> = (x) => {{}} # [1,2]",
    "html": lambda name: f"<script>alert('{name}')</script>&amp;",
    "unicode": lambda name: f"层_слой_🧠_\u202e{name}",
    "long": lambda name: name + "_" * 5000,
    "spaces": lambda name: f"  {name} \t",
    "surrounded_by_nul": lambda name: f"\0{name}\0",
    "ours": lambda name: f"snn.{name}",
}
for _name, _rename in NAMES.items():
    USABLE[f"node_names_{_name}"] = _renamed(_rename)
    USABLE[f"value_names_{_name}"] = _renamed(_rename, values=True)


@usable
def graph_without_name_and_producer(folder: Path) -> Path:
    result = base()
    result.producer_name = ""
    result.graph.name = "g"
    result.doc_string = "\x1b[2J" * 100
    return _save(folder, result.SerializeToString())


@usable
def file_name_with_spaces(folder: Path) -> Path:
    return _save(folder, base().SerializeToString(), "my model (1) [copy].v2.onnx")


@usable
def file_name_unicode(folder: Path) -> Path:
    return _save(folder, base().SerializeToString(), "модель_模型.onnx")


@usable
def file_name_without_suffix(folder: Path) -> Path:
    return _save(folder, base().SerializeToString(), "model")


@usable
def metadata_odd(folder: Path) -> Path:
    """Metadata under our own keys that is not what we would write."""
    result = base()
    for key, value in {"snn": "{not json", "snn.recipe": "../../x", "": "empty"}.items():
        result.metadata_props.add(key=key, value=value)
    result.graph.node[0].metadata_props.add(key="snn.source", value="\x1b[31mfalse")
    return _save(folder, result.SerializeToString())


# ---- data files for `base()`


def _samples(count: int = 6, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *INPUT_SHAPE)).astype(dtype)


def _labels(count: int = 6) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % CLASSES


def _npz(**arrays: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "data.npz"
        np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
        return path

    return write


def _raw(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: _save(folder, content(), "data.npz")


def _spoiled(value: float) -> np.ndarray:
    x = _samples()
    x[-1, -1, -1, -1] = value
    return x


def _npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz_of_members(members: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _huge_header() -> bytes:
    """A .npz whose array claims to be far larger than the file."""
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (2**32, *INPUT_SHAPE)}
    np.lib.format.write_array_header_1_0(header, description)
    return _npz_of_members({"x.npy": header.getvalue() + b"\0" * 64})


class _Touch:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def pickle_marker(path: Path) -> Path:
    """Return the file that appears beside a data file if its pickle was run."""
    return path.parent / "pickle_was_run"


def _pickled(field: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "data.npz"
        evil = np.array([_Touch(pickle_marker(path))] * 6, dtype=object)
        arrays = {"x": _samples(), "y": _labels(), field: evil}
        np.savez(path, **arrays)
        return path

    return write


DATA |= {
    "empty": _raw(lambda: b""),
    "text": _raw(lambda: b"x,y\n1,2\n" * 50),
    "garbage": _raw(lambda: np.random.default_rng(0).bytes(2000)),
    "truncated": _raw(lambda: _npz_bytes(x=_samples())[:-1500]),
    "npy_instead": _raw(lambda: _npy_bytes(_samples())),
    "zip_of_text": _raw(lambda: _npz_of_members({"x.txt": b"hello", "x": b"hello"})),
    "member_damaged": _raw(lambda: _npz_of_members({"x.npy": b"\x93NUMPY\x01\0not a header"})),
    "member_too_short": _raw(lambda: _npz_of_members({"x.npy": _npy_bytes(_samples())[:-40]})),
    "header_huge": _raw(_huge_header),
    "model_instead": _raw(lambda: base().SerializeToString()),
    "missing_file": lambda folder: folder / "data.npz",
    "pickle_x": _pickled("x"),
    "pickle_y": _pickled("y"),
    "x_missing": _npz(images=_samples(), y=_labels()),
    "x_missing_all": _npz(),
    "x_integers": _npz(x=np.ones((6, *INPUT_SHAPE), np.int64)),
    "x_bytes": _npz(x=np.full((6, *INPUT_SHAPE), 128, np.uint8)),
    "x_booleans": _npz(x=np.ones((6, *INPUT_SHAPE), bool)),
    "x_complex": _npz(x=_samples().astype(np.complex64)),
    "x_strings": _npz(x=np.full((6, *INPUT_SHAPE), "1.0")),
    "x_one_sample_without_batch": _npz(x=_samples()[0]),
    "x_channels_last": _npz(x=_samples().transpose(0, 2, 3, 1)),
    "x_flat": _npz(x=_samples().reshape(6, -1)),
    "x_too_large": _npz(x=np.zeros((6, 3, 9, 8), np.float32)),
    "x_extra_axis": _npz(x=_samples()[:, None]),
    "x_scalar": _npz(x=np.float32(1)),
    "x_no_samples": _npz(x=_samples(0), y=_labels(0)),
    "x_nan": _npz(x=_spoiled(np.nan)),
    "x_inf": _npz(x=_spoiled(np.inf)),
    "y_too_short": _npz(x=_samples(), y=_labels(5)),
    "y_too_long": _npz(x=_samples(), y=_labels(7)),
    "y_floats": _npz(x=_samples(), y=_labels() + 0.5),
    "y_one_hot": _npz(x=_samples(), y=np.eye(CLASSES, dtype=np.int64)[_labels()]),
    "y_negative": _npz(x=_samples(), y=_labels() - 1),
    "y_beyond_classes": _npz(x=_samples(), y=_labels() + CLASSES),
    "y_strings": _npz(x=_samples(), y=np.full(6, "cat")),
    "y_scalar": _npz(x=_samples(), y=np.int64(1)),
}

USABLE_DATA |= {
    "plain": _npz(x=_samples(), y=_labels()),
    "without_y": _npz(x=_samples()),
    "y_int32": _npz(x=_samples(), y=_labels().astype(np.int32)),
    "y_uint8": _npz(x=_samples(), y=_labels().astype(np.uint8)),
    "more_arrays": _npz(x=_samples(), y=_labels(), names=np.full(6, "cat")),
    "one_sample": _npz(x=_samples(1), y=_labels(1)),
    "fortran_order": _npz(x=np.asfortranarray(_samples()), y=_labels()),
    "all_zeros": _npz(x=np.zeros((6, *INPUT_SHAPE), np.float32), y=_labels()),
    "compressed": lambda folder: _compressed(folder),
}

EITHER_DATA |= {
    "x_float64": _npz(x=_samples(dtype=np.float64), y=_labels()),
    "x_float16": _npz(x=_samples(dtype=np.float16), y=_labels()),
    "x_big_endian": _npz(x=_samples().astype(">f4"), y=_labels()),
    "x_enormous_values": _npz(x=_samples() * np.float32(1e30), y=_labels()),
    "x_denormal_values": _npz(x=_samples() * np.float32(1e-42), y=_labels()),
    "y_whole_floats": _npz(x=_samples(), y=_labels().astype(np.float32)),
    "y_column": _npz(x=_samples(), y=_labels()[:, None]),
    "y_booleans": _npz(x=_samples(), y=_labels() > 0),
    "pickle_elsewhere": _pickled("notes"),
    "member_path": _raw(
        lambda: _npz_of_members({"x.npy": _npy_bytes(_samples()), "../evil.npy": b"evil"})
    ),
}


def _compressed(folder: Path) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, x=_samples(), y=_labels())
    return path


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for write in (
            write_all, write_either, write_usable, write_data, write_usable_data, write_either_data,
        ):  # fmt: skip
            written = write(Path(scratch) / write.__name__)
            print(f"{write.__name__}: {len(written)} files")
