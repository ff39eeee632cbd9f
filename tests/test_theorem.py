"""The theorem of the signed neuron: a spiking network that can be computed without simulating it.

With v_init = theta / 2, and while no cap binds, a signed neuron has sent

    C(t) = max(0, floor(X(t) / theta + 1/2)),   X(t) the current it has received up to step t,

at every t (LeakyIF: the same of its leaky current, without max). So the whole network after t steps
is one pass of the network over cumulated values: inputs and biases times t, activations rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto

from backends import numpy_ops
from backends.reference import NumpyBackend
from networks import ARCHITECTURES, fixed_batch, random_dag, sample_input
from opcases import CASES
from runs import SPIKES, VGG, calibration, chunks, cifar10, every, fresh, real_data, vgg_group
from snncompiler.driver import Compiled, compile_model
from snncompiler.graph import MOVEMENT, attribute, constant, data_inputs, rank, weights
from snncompiler.movement import move

Array = np.ndarray
UNCAPPED = {
    "thresholds.method": "percentile",  # least-squares ones are as small as so large bursts allow
    "neurons.gamma": 1024.0,
    "neurons.gamma_neg": 1024.0,
    "grid.enabled": False,
}


def predicted(model: ir.Model, x: Array, t: int) -> dict[str, Array]:
    """Spikes sent by each neuron layer, and what the readouts say, after t steps."""
    values: dict[ir.Value, Array] = {model.graph.inputs[0]: x.astype(np.float64)}
    times: dict[ir.Value, int] = {model.graph.inputs[0]: 1}
    result = {}
    for node in model.graph:
        data, output = data_inputs(node), node.outputs[0]
        # Before Encode a value stands for one step, behind it for t of them.
        times[output] = t if node.domain else max(times[v] for v in data)
        constants = [c.astype(np.float64) for v in node.inputs if (c := constant(v)) is not None]
        value = cumulated(node, [values[v] for v in data], constants, times[output], t)
        if node.op_type in ("IF", "LeakyIF"):
            result[str(node.name)] = value
            value = value * theta_of(node)
        if node.op_type == "Readout":
            result[str(output.name)] = value
        values[output] = value
    return result


def theta_of(node: ir.Node) -> Array:
    """A neuron's threshold per channel."""
    theta = weights(node.inputs[1]).astype(np.float64)
    return theta.reshape(-1, *[1] * (rank(node.outputs[0]) - 2))


def cumulated(
    node: ir.Node, data: list[Array], constants: list[Array], times: int, t: int
) -> Array:
    """One op on values that are sums over `times` steps."""
    x = data[0]
    settings = {
        a.name: list(a.value) if isinstance(a.value, tuple) else a.value
        for a in node.attributes.values()
    }
    window = {k: settings.get(k) for k in ("strides", "pads", "dilations")}
    match node.op_type:
        case "IF":
            return np.maximum(0, np.floor(x / theta_of(node) + 0.5))
        case "LeakyIF":
            slope = np.float32(attribute(node, "alpha")).astype(np.float64)
            leaky = np.where(x > 0, x, x * slope.reshape(-1, *[1] * (x.ndim - 2)))
            return np.floor(leaky / theta_of(node) + 0.5)
        case "Encode":
            return x * t
        case "Readout":
            return x / t
        case "Conv" | "ConvTranspose" | "Gemm":
            w, b = constants[0], constants[1] * times if len(constants) > 1 else None
            if node.op_type == "Gemm":
                return numpy_ops.gemm(x, w, b)
            if node.op_type == "Conv":
                return numpy_ops.conv(x, w, b, group=settings["group"], **window)
            extra = {k: settings[k] for k in ("group", "output_padding")}
            return numpy_ops.conv_transpose(x, w, b, **extra, **window)
        case "MaxPool" | "MLIPool":
            extra = {k: settings[k] for k in ("kernel_shape", "ceil_mode")}
            return numpy_ops.max_pool(x, **extra, **window)
        case "Add":
            return x + (data[1] if len(data) > 1 else constants[0] * times)
        case "Mul":
            return x * constants[0]
        case "Clip":
            return np.clip(x, *constants)
        case "Round":
            return np.rint(x)
        case "MatMul":
            left = constant(node.inputs[0]) is not None
            return constants[0] @ x if left else x @ constants[0]
    assert node.op_type in MOVEMENT, node.op_type
    return move(node, data)


def contradictions(network: Compiled, x: Array, timesteps: int) -> Iterator[tuple[str, int, int]]:
    """(layer, t, neurons) wherever simulation and prediction differ."""
    trace = NumpyBackend(np.float64).build(network.model).run(x, timesteps, SPIKES)
    for t in range(1, timesteps + 1):
        for name, expected in predicted(network.model, x, t).items():
            if name in trace.trains:
                wrong = int((trace.trains[name][:t].sum(0) != expected).sum())
            else:
                close = np.allclose(trace.readout[name][t - 1], expected, rtol=1e-12, atol=1e-12)
                wrong = 0 if close else 1
            if wrong:
                yield name, t, wrong


def without_clips(model: ModelProto) -> ModelProto:
    """A Clip caps its neuron by design; the theorem is about those without a cap."""
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:], node.attribute[:]
    return model


@chunks(40)
def test_random_networks_send_what_is_predicted_at_every_step(seeds: range) -> None:
    def check(seed: int) -> object:
        model = without_clips(random_dag(seed))
        network = compile_model(
            model,
            calibration(model, seed),
            recipe=("ternary", "graded")[seed % 2],
            options=UNCAPPED,
            form=("normalised", "physical")[seed // 2 % 2],
        )
        return list(contradictions(network, fresh(model, seed, 1), 6))

    every(seeds, check)


LEAKY = [
    n for n, b in CASES.items() if {"LeakyRelu", "PRelu"} & {i.op_type for i in b().graph.node}
]


@pytest.mark.parametrize("name", [n for n in LEAKY if "opset" not in n])
def test_leaky_neurons_send_what_is_predicted_at_every_step(name: str) -> None:
    model = CASES[name]()
    n = fixed_batch(model) or 3
    network = compile_model(model, sample_input(model, n, 1), recipe="ternary", options=UNCAPPED)
    assert not list(contradictions(network, fresh(model, 1, n), 8))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_the_grid_nothing_is_left_to_chance(name: str) -> None:
    model = without_clips(ARCHITECTURES[name]())
    x = calibration(model, 1)  # here membranes meet thresholds exactly
    options = {"thresholds.method": "max"}
    network = compile_model(model, x, recipe="ternary", options=options)
    for node in network.model.graph:
        for cap in {"gamma", "gamma_neg"} & set(node.attributes):
            node.attributes[cap] = ir.AttrFloat32(cap, 1024.0)
    assert not list(contradictions(network, x[:2], 6))


def test_the_prediction_is_of_that_neuron_and_no_other() -> None:
    model = ARCHITECTURES["mlp"]()
    x = fresh(model, 0)
    for spoilt in ({"neurons.v_init": 0.0}, {"neurons.gamma": 1.0, "neurons.gamma_neg": 0.0}):
        network = compile_model(
            model, calibration(model, 0), recipe="ternary", options={**UNCAPPED, **spoilt}
        )
        layers = {layer for layer, _, _ in contradictions(network, x, 8)}
        assert {"relu1", "relu2", "relu3"} <= layers


@real_data
@vgg_group
def test_the_vgg_sends_what_is_predicted_at_every_step() -> None:
    x, _ = cifar10("train", 64)
    options = {**UNCAPPED, "search.rounds": 0, "calibrate.weights": None}  # as good a network
    network = compile_model(VGG, x, recipe="ternary", options=options)
    test, _ = cifar10("test", 2)
    assert not list(contradictions(network, test, 6))
