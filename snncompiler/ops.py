"""The spiking domain `snn`: one OpSchema per op, its discrete step in the documentation.

Registered once, the schemas make onnx's own checker and shape inference work through our ops;
the function bodies (`op_bodies.py`) travel in every compiled file, so that a stock onnxruntime,
which has never heard of this package, runs it.

Time is folded into axis 0: a tensor over time has shape [T*N, C, ...], row t*N + n, and `T` is an
int64[1] input of the graph, so linear ops need no change. Steps are t = 1..T; the network is
synchronous: a spike of step t reaches its consumers within step t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx
import onnx.defs
import onnx.parser

from snncompiler.op_bodies import BODIES

DOMAIN = "snn"
VERSION = 1
OPSET = 21
IR_VERSION = 10

#: Ops that are populations of neurons: they own a threshold and make spikes out of current.
NEURONS = ("IF", "LeakyIF", "WindowedIF")
#: Neurons with an initial potential, their third input.
WITH_POTENTIAL = ("IF", "WindowedIF")
#: Ops whose output carries spike counts whenever their input does (neurons: always).
SPIKING = (*NEURONS, "MLIPool", "TwinSynapse", "Delay")

_Infer = Callable[[onnx.shape_inference.InferenceContext], None]
_Kind = onnx.defs.OpSchema.AttrType


def pooled_size(
    size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil_mode: int
) -> int:
    """Number of pooling windows along one axis.

    In ceil mode a last, partial window counts only if it starts inside the input or its left
    padding (the rule of PyTorch, and of ONNX since its text was corrected).
    """
    span = size + begin + end - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + begin else count


def _same_shape(ctx: onnx.shape_inference.InferenceContext) -> None:
    known = ctx.get_input_type(0)
    if known is not None:
        ctx.set_output_type(0, known)


def _batch_named(name: str) -> _Infer:
    """The shape of input 0, but for axis 0, which becomes the symbolic dimension `name`."""

    def infer(ctx: onnx.shape_inference.InferenceContext) -> None:
        known = ctx.get_input_type(0)
        if known is None:
            return
        result = onnx.TypeProto()
        result.CopyFrom(known)
        dims = result.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            dims[0].dim_param = name
        ctx.set_output_type(0, result)

    return infer


def _pooled_shape(ctx: onnx.shape_inference.InferenceContext) -> None:
    known = ctx.get_input_type(0)
    if known is None:
        return
    result = onnx.TypeProto()
    result.CopyFrom(known)
    kernel, strides, pads, dilations = (
        list(ctx.get_attribute(name).ints)
        for name in ("kernel_shape", "strides", "pads", "dilations")
    )
    ceil_mode = ctx.get_attribute("ceil_mode").i
    spatial = list(result.tensor_type.shape.dim)[2:]
    for i, dim in enumerate(spatial):
        if dim.HasField("dim_value"):
            dim.dim_value = pooled_size(
                dim.dim_value,
                kernel[i],
                strides[i],
                dilations[i],
                pads[i],
                pads[i + len(spatial)],
                ceil_mode,
            )
    ctx.set_output_type(0, result)


# name: (step, inputs, attributes, output, shape inference)
_OPS: dict[str, tuple[str, tuple[str, ...], dict[str, _Kind], str, _Infer]] = {
    "Encode": (
        "Constant current: y_t = X at every step. Commutes with linear ops.\n"
        "X [N, ...] -> Y [T*N, ...]. mode is 'current'.",
        ("X", "T"),
        {"mode": _Kind.STRING},
        "Y",
        _batch_named("TN"),
    ),
    "IF": (
        "Integrate-and-fire neuron with soft reset, per channel threshold theta [C] or [1] and\n"
        "initial potential v_init [1], [C] or [C, ...], V(0) = v_init, C(0) = 0. At step t:\n"
        "  t <= delay: frozen, the input is discarded and s = 0; else\n"
        "  U = V + I;  s = clip(floor(U / theta), -gamma_neg, gamma);  s = max(s, -C)\n"
        "  V = U - theta s;  C = C + s;  output theta s.\n"
        "It fires at U == theta. gamma 1, gamma_neg 0: the classic binary neuron; gamma > 1:\n"
        "burst; gamma_neg > 0: signed, never takes back more than it has sent.",
        ("I", "theta", "v_init", "T"),
        {"gamma": _Kind.FLOAT, "gamma_neg": _Kind.FLOAT, "delay": _Kind.INT},
        "S",
        _same_shape,
    ),
    "LeakyIF": (
        "Signed neuron of a LeakyRelu or PRelu, X(0) = C(0) = 0. At step t:\n"
        "  t <= delay: frozen; else  X = X + I;  f = max(X, 0) + alpha min(X, 0)\n"
        "  s = clip(floor(f / theta + 1/2) - C, -gamma, gamma);  C = C + s;  output theta s.\n"
        "alpha holds one slope or one per channel. Exact for every t while gamma does not bind.",
        ("I", "theta", "T"),
        {"gamma": _Kind.FLOAT, "alpha": _Kind.FLOATS, "delay": _Kind.INT},
        "S",
        _same_shape,
    ),
    "MLIPool": (
        "Max pooling of spike trains, exact for every window (MLIPooling of Li et al. 2022 in\n"
        "closed form): C = running sum of I, padded with -inf;\n"
        "  output_t = maxpool(C_t) - maxpool(C_{t-1}), with maxpool(C_0) = 0.\n"
        "Attributes as of MaxPool, all written.",
        ("I", "T"),
        {
            "kernel_shape": _Kind.INTS,
            "strides": _Kind.INTS,
            "pads": _Kind.INTS,
            "ceil_mode": _Kind.INT,
            "dilations": _Kind.INTS,
        },
        "P",
        _pooled_shape,
    ),
    "TwinSynapse": (
        "SpiCalib (Li et al. 2022): a neuron that has been silent for longer than its mean\n"
        "inter-spike interval plus allowance takes its spikes back. State F (firing events),\n"
        "L (time of the last one), N (net count), all 0; a burst is one event, so the mean\n"
        "interval is L / F. At step t, with s = round(I / theta):\n"
        "  s > 0: F = F + 1, L = t\n"
        "  else if (t - L - allowance) F > L and N > 0: s = -min(N, gamma)\n"
        "  s = max(s, -N);  N = N + s;  output theta s. So N never falls below zero.",
        ("I", "theta", "T"),
        {"gamma": _Kind.FLOAT, "allowance": _Kind.FLOAT},
        "S",
        _same_shape,
    ),
    "WindowedIF": (
        "Integrate-and-fire neuron that first listens, then speaks (temporal separation), the\n"
        "l-th on its path, with windows of W steps; V(0) = v_init. At step t:\n"
        "  (l - 1) W < t <= l W: V = V + I, s = 0\n"
        "  l W < t <= (l + 1) W: s = clip(floor(V / theta), 0, gamma); V = V - theta s\n"
        "  else s = 0;  output theta s.\n"
        "So it sends clip(floor((sum of I + v_init) / theta), 0, gamma W) spikes in all, exactly.\n"
        "layer is l, window is W.",
        ("I", "theta", "v_init", "T"),
        {"gamma": _Kind.FLOAT, "layer": _Kind.INT, "window": _Kind.INT},
        "S",
        _same_shape,
    ),
    "Delay": (
        "The input of `steps` steps ago: output_t = I_{t - steps}, 0 for t <= steps. A branch\n"
        "that meets a longer one waits for it.",
        ("I", "T"),
        {"steps": _Kind.INT},
        "S",
        _same_shape,
    ),
    "Readout": (
        "Accumulated input, no spikes: the sum of I over the steps t > start, divided by\n"
        "max(T - start, 1) if mode is 'mean' (mode 'sum': not). I [T*N, ...] -> Y [N, ...].",
        ("I", "T"),
        {"mode": _Kind.STRING, "start": _Kind.INT},
        "Y",
        _batch_named("N"),
    ),
}


def _schema(name: str) -> onnx.defs.OpSchema:
    doc, inputs, attributes, output, infer = _OPS[name]
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc=doc,
        inputs=[parameter(i, "tensor(int64)" if i == "T" else "tensor(float)") for i in inputs],
        outputs=[parameter(output, "tensor(float)")],
        attributes=[onnx.defs.OpSchema.Attribute(a, kind) for a, kind in attributes.items()],
    )
    for attribute in attributes:
        assert schema.attributes[attribute].required
    schema.set_type_and_shape_inference_function(infer)
    return schema


@cache
def register() -> None:
    """Make the domain known to onnx in this process (once; later calls do nothing)."""
    for name in _OPS:
        onnx.defs.register_schema(_schema(name))


@cache
def functions() -> tuple[onnx.FunctionProto, ...]:
    """The function bodies of all ops, parsed."""
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
    return tuple(onnx.parser.parse_function(head + body) for body in BODIES.values())
