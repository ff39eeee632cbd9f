"""Quantised activations: recognised however they are spelled, their thresholds kept."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import networks
from passes.threshold_rules import quantised
from snncompiler import frontend
from snncompiler.ann import run
from snncompiler.diagnostics import InputError
from snncompiler.driver import check_model, compile_model, import_network
from snncompiler.graph import ACTIVATIONS, scale_of, shape
from snncompiler.quantisers import insert, limits_of

#: theta = 1.5 and T = 4, or as the case says; x is a convolution's output.
SPELLINGS = {
    "qcfs": """
        a = Div(x, theta)  b = Clip(a, zero, one)  c = Mul(b, four)  d = Add(c, half)
        e = Floor(d)  f = Div(e, four)  y = Mul(f, theta)""",
    "round": "a = Div(x, step)  b = Round(a)  c = Clip(b, zero, four)  y = Mul(c, step)",
    "clip first": "a = Clip(x, zero, theta)  b = Div(a, step)  c = Round(b)  y = Mul(c, step)",
    "relu and min": """
        a = Relu(x)  b = Min(a, theta)  c = Mul(b, rate)  d = Add(half, c)  e = Floor(d)
        y = Mul(step, e)""",
    "clip last": "a = Mul(x, rate)  b = Round(a)  c = Mul(b, step)  y = Clip(c, zero, theta)",
    "straight through": """
        a = Div(x, theta)  b = Clip(a, zero, one)  c = Mul(b, four)  d = Round(c)  e = Sub(d, c)
        f = Add(c, e)  g = Div(f, four)  y = Mul(g, theta)""",
    "straight through the whole": """
        a = Clip(x, zero, theta)  b = Div(a, step)  c = Round(b)  d = Mul(c, step)  e = Sub(d, a)
        y = Add(a, e)""",
    "straight through, the error taken away": """
        a = Div(x, step)  b = Clip(a, zero, four)  c = Round(b)  d = Sub(b, c)  e = Sub(b, d)
        y = Mul(e, step)""",
    "max and min": """
        a = Div(x, step)  b = Max(a, zero)  c = Min(b, four)  d = Round(c)  y = Mul(d, step)""",
}


def network(body: str, theta: object = 1.5, opset: int = 17) -> onnx.ModelProto:
    """Conv - the spelled activation - Conv, on [N, 2, 4, 4]."""
    theta = np.asarray(theta, np.float32)
    text = f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        net (float[N, 2, 4, 4] image) => (float[N, 3, 4, 4] z) {{
            x = Conv(image, w0)
            {body}
            z = Conv(y, w1)
        }}"""
    model = onnx.parser.parse_model(text.replace(")  ", ")\n"))
    r = np.random.default_rng(0)
    constants = {
        "w0": r.standard_normal((3, 2, 1, 1)),
        "w1": r.standard_normal((3, 3, 1, 1)),
        "theta": theta,
        "step": theta / 4,
        "rate": 4 / theta,
        "zero": 0.0,
        "one": 1.0,
        "half": 0.5,
        "four": 4.0,
        "minus": -4.0,
        "slope": np.array([0.1, 0.0, 0.3]).reshape(3, 1, 1),
    }
    used = {v for n in model.graph.node for v in n.input}
    for name, value in constants.items():
        if name in used:
            array = np.asarray(value, np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(n: int = 40) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 2, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_one_population_that_keeps_its_threshold(spelling: str) -> None:
    model = network(SPELLINGS[spelling])
    loaded = frontend.load(model)
    assert loaded.quantisers == 1
    compiled = compile_model(model, samples(), recipe="ternary", timesteps=4)
    (theta,) = compiled.thresholds.values()
    np.testing.assert_allclose(theta, 1.5, rtol=1e-6)
    verdicts = check_model(model)
    assert verdicts.convertible
    assert verdicts.counts["spiking"] >= 3


def test_thresholds_per_channel_are_kept_per_channel() -> None:
    theta = np.array([0.5, 1.0, 2.0]).reshape(1, 3, 1, 1)
    if_channelwise = network(SPELLINGS["round"], theta)
    compiled = compile_model(if_channelwise, samples(), timesteps=4)
    (found,) = compiled.thresholds.values()
    np.testing.assert_allclose(found, [0.5, 1.0, 2.0], rtol=1e-6)


def test_the_spiking_network_computes_the_quantised_one() -> None:
    model = network(SPELLINGS["qcfs"])
    options = {"search.rounds": 0, "calibrate.weights": None, "grid.enabled": False}
    x = samples()
    compiled = compile_model(model, x, recipe="ternary", timesteps=4, options=options)
    (wanted,) = frontend.load(model).outputs(x)
    np.testing.assert_allclose(compiled.run(x, 4).output, wanted, atol=1e-5)


def test_scales_around_a_quantiser_belong_to_the_synapses() -> None:
    model = network("a = Div(x, step)  b = Round(a)  c = Clip(b, zero, four)  y = Mul(c, theta)")
    options = {"search.rounds": 0, "calibrate.weights": None, "grid.enabled": False}
    compiled = compile_model(model, samples(), recipe="ternary", timesteps=4, options=options)
    (wanted,) = frontend.load(model).outputs(samples())
    np.testing.assert_allclose(compiled.run(samples(), 4).output, wanted, atol=1e-4)


def test_without_the_half_a_bias_makes_up_for_it() -> None:
    floored = network("a = Div(x, step)  b = Floor(a)  c = Clip(b, zero, four)  y = Mul(c, step)")
    loaded = import_network(floored)
    (relu,) = [n for n in loaded.model.graph if n.op_type == "Relu"]
    conv = limits_of(relu)[-1].inputs[0].producer()
    assert conv.op_type == "Conv"
    bias = conv.inputs[2].const_value.numpy()
    np.testing.assert_allclose(bias, -1.5 / 8, rtol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, step)  b = Round(a)  c = Clip(b, minus, four)  y = Mul(c, step)",  # negative
        "a = Div(x, step)  b = Round(a)  y = Mul(b, step)",  # never saturates
    ],
)
def test_what_no_neuron_computes_is_refused(body: str) -> None:
    with pytest.raises(InputError, match="cannot convert"):
        import_network(network(body))


@pytest.mark.parametrize("op", ["Min(x, half)", "Max(x, half)"])
def test_a_limit_that_others_read_too_is_refused_by_name(op: str) -> None:
    quantiser = SPELLINGS["round"].replace("y =", "r =").replace("x,", "m,")
    model = network(f"m = {op}  {quantiser}  y = Add(r, m)")
    model.graph.node[1].name = "shared"
    with pytest.raises(InputError, match="at node 'shared'"):
        import_network(model)


def test_a_pool_before_the_activation_is_swapped_behind_it() -> None:
    body = "p = MaxPool<kernel_shape = [1, 1]>(x)  " + SPELLINGS["round"].replace("x,", "p,")
    loaded = import_network(network(body, np.array([0.5, 1.0, 2.0]).reshape(3, 1, 1)))
    ops = [n.op_type for n in loaded.model.graph]
    assert ops.index("Relu") < ops.index("MaxPool")
    (relu,) = [n for n in loaded.model.graph if n.op_type == "Relu"]
    assert scale_of(relu.outputs[0]) is not None


@pytest.mark.parametrize("op", ["LeakyRelu<alpha = 0.25>(x)", "PRelu(x, slope)"])
def test_leaky_activations_saturate_on_both_sides(op: str) -> None:
    body = f"s = {op}  a = Div(s, step)  b = Round(a)  c = Clip(b, minus, four)  y = Mul(c, step)"
    model = network(body)
    options = {"search.rounds": 0, "calibrate.weights": None, "grid.enabled": False}
    x = 6 * samples()
    compiled = compile_model(model, x, recipe="ternary", timesteps=4, options=options)
    (wanted,) = frontend.load(model).outputs(x)
    assert (np.abs(wanted).max()) > 1
    trace = compiled.run(x, 4)
    assert np.abs(trace.output - wanted).max() < 1e-4 * np.abs(wanted).max() + 1e-4


@pytest.mark.parametrize("make", [networks.residual, networks.depthwise, networks.inception])
def test_what_is_inserted_computes_the_quantiser_and_is_recognised(make) -> None:
    model = make(0)
    network_ = import_network(model)
    thresholds, before = {}, {}
    for node in network_.model.graph:
        if node.op_type in ACTIVATIONS:
            name = str(node.outputs[0].name)
            thresholds[name] = np.linspace(0.5, 2, shape(node.outputs[0])[0])
            before[name] = str(node.inputs[0].name)
    insert(network_.model, thresholds, 3)
    proto = ir.to_proto(network_.model)
    x = networks.sample_input(model, 4, 0)
    values = run(proto, x, [*thresholds, *before.values()])
    for name, theta in thresholds.items():
        level = theta.reshape(-1, *[1] * (values[name].ndim - 2))
        wanted = quantised(values[before[name]], level, 3, 1, 0.5)
        np.testing.assert_allclose(values[name], wanted, atol=1e-5)
    again = import_network(proto)
    assert again.quantisers == len(thresholds)
    found = [scale_of(n.outputs[0]) for n in again.model.graph if n.op_type in ACTIVATIONS]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate([*thresholds.values()]))
