"""The doctor: parts that add up, and planted faults that are found and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import networks
from runs import calibration, fresh
from snncompiler import ann
from snncompiler.artifact import simulate
from snncompiler.data import Samples
from snncompiler.diagnostics import InputError
from snncompiler.doctor import Diagnosis, Site, diagnose
from snncompiler.driver import compile_model, import_network
from snncompiler.graph import add_constant, constant, make_node, scale_of, weights
from snncompiler.ops import NEURONS
from snncompiler.trace import Observe

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
T = 16


def arrays(name: str) -> Samples:
    with np.load(MODELS / name) as file:
        return Samples(file["x"][:200], file["y"][:200])


@pytest.fixture(scope="module")
def train() -> Samples:
    return arrays("digits_train.npz")


@pytest.fixture(scope="module")
def test() -> Samples:
    data = arrays("digits_test.npz")
    return Samples(data.x[:12], data.y[:12])


@pytest.fixture(scope="module")
def physical(train: Samples) -> ir.Model:
    """Weights as trained, a spike carries its threshold: thresholds can be changed one by one."""
    return compile_model(DIGITS, train.x, timesteps=T, form="physical").model


@pytest.fixture(scope="module")
def normalised(train: Samples) -> ir.Model:
    return compile_model(DIGITS, train.x, timesteps=T).model


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph if n.name == name)


def rescale(node: ir.Node, factor: float | np.ndarray) -> None:
    """Multiply the threshold, and the initial potential with it."""
    for index in (1, 2):
        new = weights(node.inputs[index]).astype(np.float64) * factor
        node.replace_input_with(index, add_constant(node.graph, f"{node.name}_{index}", new))


def site_of(result: Diagnosis, name: str | None) -> Site:
    return next(s for s in result.sites if s.name == name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", ["binary", "spicalib"])
def test_the_parts_add_up_to_the_error_that_is_measured_without_the_doctor(
    seed: int, recipe: str
) -> None:
    model = networks.random_dag(seed)
    x, steps = fresh(model, seed, 3), 5
    network = compile_model(model, calibration(model, seed), timesteps=steps, recipe=recipe).model
    result = diagnose(model, network, Samples(x, None))
    names = [str(n.outputs[0].name) for n in network.graph if n.op_type in NEURONS]
    truth = ann.run(import_network(model).model, x, names)
    trains = simulate(network, x, steps, observe=Observe(spikes=True)).trains
    measured = 0
    for node in network.graph:
        if node.op_type not in NEURONS:
            continue
        users = [u.node for u in node.outputs[0].uses()]
        layer = next((u for u in users if u.op_type == "TwinSynapse"), node)
        rate = trains[str(layer.name)].mean(0)
        scale = scale_of(node.outputs[0])
        assert scale is not None
        a = truth[str(node.outputs[0].name)].astype(np.float64)
        wrong = rate * scale.reshape(-1, *[1] * (rate.ndim - 2)) - a
        expected = np.linalg.norm(wrong) / (np.linalg.norm(a) or 1.0)
        site = site_of(result, str(node.name))
        assert site.error == pytest.approx(expected, abs=1e-6)
        assert sum(site.parts.values()) == pytest.approx(expected, abs=1e-6)
        measured += 1
    assert measured
    for site in result.sites:
        assert sum(site.parts.values()) == pytest.approx(site.error, abs=1e-9)
        assert site.parts["pooling"] == pytest.approx(0, abs=1e-9)


def test_a_constant_current_is_never_uneven_and_exact_pools_pool_exactly(
    normalised: ir.Model, test: Samples
) -> None:
    result = diagnose(DIGITS, normalised, test)
    first = result.sites[0]
    assert first.sizes["unevenness"] == 0
    assert first.sin == first.overfired == first.underfired == 0
    assert first.alone == pytest.approx(first.error, rel=1e-3)  # nothing to inherit but rounding
    pools = [s for s in result.sites if s.op == "MLIPool"]
    assert [s.sizes["pooling"] for s in pools] == [0, 0]
    assert result.accuracy == result.ann_accuracy == 1
    assert result.sites[-1].op == "Readout"
    assert result.sites[-1].error == pytest.approx(result.output_error)


def test_both_forms_have_the_same_errors(physical: ir.Model, train: Samples, test: Samples) -> None:
    options = {"grid.enabled": False}
    other = compile_model(DIGITS, train.x, timesteps=T, options=options).model
    one, two = (diagnose(DIGITS, m, test, timesteps=8) for m in (physical, other))
    for a, b in zip(one.sites, two.sites, strict=True):
        assert a.error == pytest.approx(b.error, abs=1e-5)
        assert a.parts == pytest.approx(b.parts, abs=1e-4)


@pytest.mark.parametrize("layer", ["relu2", "block1.relu2"])
def test_a_percentile_of_50_in_one_layer_is_clipping_there(
    physical: ir.Model, train: Samples, test: Samples, layer: str
) -> None:
    model = physical.clone()
    node = node_of(model, layer)
    a = ann.run(import_network(DIGITS).model, train.x, [str(node.outputs[0].name)])
    positive = a[str(node.outputs[0].name)]
    wanted = np.percentile(positive[positive > 0], 50)
    rescale(node, wanted / weights(node.inputs[1]).astype(np.float64))
    result = diagnose(DIGITS, model, test)
    assert (result.first, result.cause, result.also) == (layer, "clipping", [])
    assert "percentile" in result.advice
    assert "neurons.gamma=5" in result.advice
    found = site_of(result, layer)
    assert found.saturated is not None
    assert found.saturated > 0.1
    assert found.effect > 0.3


def test_too_high_thresholds_and_few_steps_are_quantisation(
    physical: ir.Model, test: Samples
) -> None:
    model = physical.clone()
    for node in model.graph:
        if node.op_type in NEURONS:
            rescale(node, 100)
    result = diagnose(DIGITS, model, test, timesteps=4)
    assert (result.first, result.cause) == ("relu1", "quantisation")
    assert "time steps" in result.advice
    assert result.sites[0].error == pytest.approx(1, abs=0.1)  # hardly a spike


def test_a_naive_max_pool_is_pooling(normalised: ir.Model, test: Samples) -> None:
    model = normalised.clone()
    old = node_of(model, "pool1")
    settings = {a.name: a.value for a in old.attributes.values()}
    new = make_node("MaxPool", [old.inputs[0]], settings, name="pool1")
    new.outputs[0].shape, new.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    new.outputs[0].metadata_props.update(old.outputs[0].metadata_props)
    name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(
        model.graph, old, [old], [new], [old.outputs[0]], [new.outputs[0]]
    )
    new.outputs[0].name = name
    result = diagnose(DIGITS, model, test)
    assert (result.first, result.cause) == ("pool1", "pooling")
    assert "MLIPool" in result.advice


@pytest.mark.parametrize("layer", ["relu2", "block1.relu1"])
def test_a_bias_flipped_after_compilation_is_found_in_its_layer(
    normalised: ir.Model, test: Samples, layer: str
) -> None:
    model = normalised.clone()
    synapse = node_of(model, layer).inputs[0].producer()
    assert synapse is not None
    bias = constant(synapse.inputs[2])
    assert bias is not None
    synapse.replace_input_with(2, add_constant(model.graph, "flipped", -bias))
    result = diagnose(DIGITS, model, test)
    assert (result.first, result.cause) == (layer, "synapses")
    assert "compile again" in result.advice


SIN = """
<ir_version: 8, opset_import: ["": 17]>
false_alarm (float[N,1] x) => (float[N,2] y)
<float[2,1] w1 = {1, 1}, float[3,2] w2 = {1, -1, 1, 0, 0, 1}, float[3] b2 = {-0.01, 0, 0},
 float[2,3] w3 = {1, 0.1, 0, 0, 0.1, 0.1}>
{
  [split] h = Gemm <transB = 1> (x, w1)
  [relu1] a = Relu (h)
  [meet] i = Gemm <transB = 1> (a, w2, b2)
  [relu2] r = Relu (i)
  [head] y = Gemm <transB = 1> (r, w3)
}
"""


def test_spikes_of_inactivated_neurons_are_unevenness() -> None:
    # Two neurons with the same rate, one in single spikes, one in rare large ones: what arrives
    # at the first neuron of relu2 sums to less than nothing, and yet it fires.
    source = onnx.parser.parse_model(SIN)
    x = np.full((4, 1), 0.5, np.float32)
    network = compile_model(source, 2 * x, form="physical", timesteps=16).model
    node = node_of(network, "relu1")
    theta = weights(node.inputs[1])
    rescale(node, np.array([4.0, 1.0]) / theta)
    result = diagnose(source, network, Samples(x, None))
    found = site_of(result, "relu2")
    assert (result.first, result.cause) == ("relu2", "unevenness")
    assert found.sin == pytest.approx(1 / 3)
    assert found.overfired == pytest.approx(1 / 3)
    assert "ternary" in result.advice


def test_signed_neurons_are_not_uneven(train: Samples, test: Samples) -> None:
    model = compile_model(DIGITS, train.x, timesteps=T, recipe="graded").model
    result = diagnose(DIGITS, model, test)
    neurons = [s for s in result.sites if s.op == "IF"]
    assert max(s.sizes["unevenness"] for s in neurons) < 0.01
    assert all(s.sin is not None and s.sin < 1e-3 for s in neurons)


def test_networks_that_do_not_belong_together_are_refused(
    normalised: ir.Model, test: Samples
) -> None:
    with pytest.raises(InputError, match="not compiled from this trained network"):
        diagnose(networks.mlp(), normalised, test)
    with pytest.raises(InputError, match="T = 0"):
        diagnose(DIGITS, normalised, test, timesteps=0)


def test_the_diagnosis_does_not_depend_on_the_batch(normalised: ir.Model, test: Samples) -> None:
    whole = diagnose(DIGITS, normalised, test)
    halves = [
        diagnose(DIGITS, normalised, Samples(test.x[part], None), timesteps=T)
        for part in (slice(0, 8), slice(8, 12))
    ]
    for site, *pieces in zip(whole.sites, *(h.sites for h in halves), strict=True):
        if site.sin is not None:
            mean = sum(n * float(p.sin or 0) for n, p in zip((8, 4), pieces, strict=True)) / 12
            assert site.sin == pytest.approx(mean)
