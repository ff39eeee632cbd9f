"""Whole compilations of random networks: what must hold whatever the network looks like."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from backends.onnx_runtime import OnnxRuntimeBackend
from backends.reference import NumpyBackend
from networks import ARCHITECTURES, Net, data_input, fixed_batch, random_dag, sample_input
from opcases import CASES
from passes.base import Context
from passes.normalise import Normalise
from passes.recipes import RECIPES
from passes.schedule import Schedule
from runs import SPIKES, calibration, chunks, compiled, differences, every, float64, fresh, original
from snncompiler.ann import relative_error, run
from snncompiler.driver import Compiled, compile_model, import_network
from snncompiler.graph import CLIP, KIND, attribute, sources
from snncompiler.ops import NEURONS
from snncompiler.rate import rate_model
from snncompiler.record import RECORD, record_of
from snncompiler.text import compact
from snncompiler.verify import checked_proto

T = 6
MODELS = Path(__file__).parent.parent / "models"
#: Recipes to take turns, all at max-norm; potentials start off the lattice of thresholds, for a
#: one-to-one synapse between two thresholds meets them exactly, and any rounding decides.
KINDS: list[tuple[str, dict[str, object]]] = [
    (name, {"thresholds.method": "max", "thresholds.channelwise": True, "neurons.v_init": v_init})
    for name, v_init in (
        ("binary", 0.5),
        ("max-norm", 0.3),
        ("ternary", 0.5),
        ("burst-lipool", 0.3),
        ("graded", 0.5),
        ("spicalib", 0.3),
    )
]


@cache
def physical(seed: int) -> Compiled:
    """Form A of a random network: weights as trained, a spike carries its threshold."""
    recipe, options = KINDS[seed % len(KINDS)]
    if seed // len(KINDS) % 2:
        options = {**options, "thresholds.channelwise": False}
    settings = {"recipe": recipe, "options": options, "form": "physical"}
    return compiled(random_dag(seed), seed, timesteps=T, **settings)


@cache
def normalised(seed: int) -> Compiled:
    """Form B made of it: thresholds 1."""
    return in_form_b(physical(seed))


def in_form_b(made: Compiled) -> Compiled:
    """The pass alone; `test_the_driver_makes_the_same_normalised_form`, at less cost."""
    model = made.model.clone()
    context = Context(np.zeros((0,), np.float32), T)
    Normalise().run(model, context)
    Schedule().run(model, context)
    record = json.loads(model.metadata_props[RECORD])
    model.metadata_props[RECORD] = json.dumps({**record, "form": "normalised"})
    return Compiled(**{**vars(made), "model": model})


@chunks(200)
def test_the_rescaled_network_computes_what_the_original_does(seeds: range) -> None:
    def check(seed: int) -> object:
        model = random_dag(seed)
        x = fresh(model, seed)
        ann = rate_model(normalised(seed).model)
        errors = [
            relative_error(a, b)
            for a, b in zip(run(ann, x).values(), original(model, x), strict=True)
        ]
        return max(errors) if max(errors) > 1e-5 else None

    every(seeds, check)


@chunks(200)
def test_at_max_norm_all_activations_lie_in_the_range_of_the_neurons(seeds: range) -> None:
    def check(seed: int) -> object:
        network = normalised(seed).model
        neurons = [n for n in network.graph if n.op_type in NEURONS]
        names = [str(n.outputs[0].name) for n in neurons]
        found = run(rate_model(network), calibration(random_dag(seed), seed), names)
        wrong = {}
        for node, name in zip(neurons, names, strict=True):
            # A Clip that may burst saturates at the most spikes it may send per step.
            most = attribute(node, "gamma") if CLIP in node.metadata_props else 1.0
            low, high = float(found[name].min()), float(found[name].max())
            # Small channels of a layer inherit the rounding of the large values they sum.
            slack = 1e-4 if seed // len(KINDS) % 2 == 0 else 1e-5
            if low < 0 or high > most * (1 + slack):
                wrong[node.name] = (low, high)
        return wrong

    every(seeds, check)


@chunks(200)
def test_both_forms_send_the_same_spikes(seeds: range) -> None:
    def check(seed: int) -> object:
        x = fresh(random_dag(seed), seed, 1)
        return differences(float64(physical(seed), x, T), float64(normalised(seed), x, T))

    every(seeds, check)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_driver_makes_the_same_normalised_form(seed: int) -> None:
    recipe, options = KINDS[seed % len(KINDS)]
    off = {**options, "grid.enabled": False}
    made = compiled(random_dag(seed), seed, timesteps=T, recipe=recipe, options=off)
    assert compact(made.model) == compact(normalised(seed).model)


@pytest.mark.parametrize("recipe", ["p-norm", "graded", "spicalib"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_forms_of_architectures_send_the_same_spikes(name: str, recipe: str) -> None:
    model = ARCHITECTURES[name]()
    options = {"neurons.v_init": RECIPES[recipe].options["neurons.v_init"] or 0.3}
    made = compiled(model, 1, recipe=recipe, form="physical", options=options, timesteps=T)
    x = fresh(model, 1)
    assert not differences(float64(made, x, T), float64(in_form_b(made), x, T))


@chunks(200)
def test_every_node_names_the_original_nodes_it_stands_for(seeds: range) -> None:
    def check(seed: int) -> object:
        names = {node.name for node in random_dag(seed).graph.node}
        nodes = normalised(seed).model.graph
        return [n.name for n in nodes if not sources(n) or not set(sources(n)) <= names]

    every(seeds, check)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_artifacts_name_the_original_nodes_too(name: str) -> None:
    model = ARCHITECTURES[name]()
    names = {node.name for node in model.graph.node}
    for node in compiled(model, 0, timesteps=2).model.graph:
        assert sources(node), node.name
        assert set(sources(node)) <= names, node.name


@pytest.mark.parametrize("recipe", ["binary", "spicalib"])
def test_compilation_is_deterministic(recipe: str, tmp_path: Path) -> None:
    for build in (ARCHITECTURES["inception"], lambda: random_dag(8)):
        files = [tmp_path / name for name in ("a.onnx", "b.onnx")]
        for file in files:
            compiled(build(), 0, recipe=recipe, output=file)
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("recipe", ["binary", "max-norm", "p-norm"])
def test_the_order_of_the_calibration_data_does_not_matter(recipe: str) -> None:
    x = np.load(MODELS / "digits_train.npz")["x"][:100]
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    a, b = (
        compile_model(MODELS / "digits.onnx", c, recipe=recipe, timesteps=4) for c in (x, shuffled)
    )
    assert a.thresholds == b.thresholds
    assert compact(a.model) == compact(b.model)


@pytest.mark.parametrize("recipe", ["binary", "ternary", "spicalib", "stage2-only", "separated"])
def test_activations_currents_and_pools_inside_may_be_outputs(recipe: str) -> None:
    net = Net(0)
    current = net.conv(net.input(3, 6, 6), 4)
    activation = net.relu(current)
    pool = net.pool(activation, 2)
    last = net.relu(net.conv(pool, 4))
    again = net.op("Dropout", activation)
    outputs = (current, activation, pool, again, net.head(last, 3), last)
    model = net.model(*outputs)
    x = calibration(model, 0, 40)
    network = compile_model(model, x, recipe=recipe, timesteps=64 if recipe != "separated" else 16)
    steps = int(str(record_of(network.model)["timesteps"]))
    trace = float64(network, x[:4], steps)
    assert tuple(trace.readout) == outputs
    for found, wanted in zip(trace.readout.values(), original(model, x[:4]), strict=True):
        assert np.abs(found[-1] - wanted).mean() < 0.1 * np.abs(wanted).mean()
    other = OnnxRuntimeBackend().build(network.model).run(x[:4], steps, SPIKES)
    assert not differences(trace, other)


def test_rows_of_currents_may_be_chosen() -> None:
    net = Net(0)
    current = net.conv(net.conv_relu(net.input(3, 4, 4), 4), 4)
    for axis in (2, 3):
        current = net.op("Gather", current, np.array([0, 0, 2, 1]), axis=axis)
    model = net.model(net.head(net.relu(current), 3))
    network = compiled(model, 0, recipe="graded", timesteps=64)
    x = fresh(model, 0)
    assert relative_error(float64(network, x, 64).output, original(model, x)[0]) < 0.1


@pytest.mark.parametrize("delay", [0, 3])
def test_a_delay_freezes_the_neurons_and_the_readout_waits(delay: int) -> None:
    model = ARCHITECTURES["mlp"]()
    options = {"neurons.delay": delay, "coding.start": delay}
    trace = float64(compiled(model, 0, options=options), fresh(model, 0), delay + 8)
    for train in trace.trains.values():
        assert not train[:delay].any()
        assert train[delay:].any()
    assert all(not r[:delay].any() and r[delay:].any() for r in trace.readout.values())


# ---- signed neurons, saturating neurons, pools of currents: the readout converges


def has_more_than_relu(model: ModelProto) -> bool:
    return bool({"LeakyRelu", "PRelu", "Clip"} & {n.op_type for n in model.graph.node})


CONVERGING = [n for n, b in CASES.items() if has_more_than_relu(b()) and "opset" not in n]
CONVERGING += ["sum_broadcast", "mul_makes_channels", "add_makes_channels", "bn_after_relu"]
CONVERGING += ["maxpool_dilated_ceil_mode_overhang", "gemm_c_activation_narrow"]
CONVERGING += ["maxpool_before_bn_relu", "maxpool_after_add_of_spikes", "maxpool_after_avgpool"]


@pytest.mark.parametrize("recipe", ["graded", "burst-lipool"])
@pytest.mark.parametrize("name", CONVERGING)
def test_the_readout_approaches_the_trained_network_as_one_over_t(name: str, recipe: str) -> None:
    model = CASES[name]()
    n = fixed_batch(model) or 4
    x = sample_input(model, n, 1)  # other samples may exceed what any neuron can send
    network = compile_model(model, x, recipe=recipe, timesteps=8)
    expected = import_network(model).outputs(x)
    trace = NumpyBackend().build(network.model).run(x, 128, SPIKES)
    for readout, truth in zip(trace.readout.values(), expected, strict=True):
        errors = {t: t * relative_error(readout[t - 1], truth) for t in (16, 64, 128)}
        assert max(errors.values()) < 6, errors


def test_pools_of_currents_are_among_them() -> None:
    for name in CONVERGING[-3:]:
        network = compiled(CASES[name](), 1, timesteps=4).model
        pools = [n for n in network.graph if n.op_type == "MLIPool"]
        assert any(n.outputs[0].metadata_props[KIND] == "current" for n in pools), name


def test_the_input_keeps_its_name_even_if_it_comes_last() -> None:
    model = CASES["initializers_first_among_inputs"]()
    network = compiled(model, 0, timesteps=2)
    assert network.model.graph.inputs[0].name == data_input(model).name
    assert [o.name for o in checked_proto(network.model).graph.output] == [
        o.name for o in model.graph.output
    ]
