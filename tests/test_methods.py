"""The methods on whole networks: what each one promises, held against simulation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from backends.onnx_runtime import OnnxRuntimeBackend
from backends.reference import NumpyBackend
from backends.sweep import Sweep
from networks import ARCHITECTURES, Net, fpn, random_dag, residual
from passes.recipes import RECIPES
from runs import SPIKES, calibration, differences, fresh
from snncompiler.diagnostics import InputError
from snncompiler.driver import Compiled, compile_model, import_network
from snncompiler.graph import attribute, scale_of
from snncompiler.ops import NEURONS
from snncompiler.record import record_of
from snncompiler.verify import checked_proto
from test_theorem import predicted, without_clips

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"


@cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    data = np.load(MODELS / f"digits_{split}.npz")
    return data["x"], data["y"]


@cache
def truth() -> np.ndarray:
    (ann,) = import_network(DIGITS).outputs(digits("test")[0][:200])
    return np.asarray(ann)


@cache
def compiled(recipe: str, timesteps: int = 4, **options: object) -> Compiled:
    changes = {k.replace("__", "."): v for k, v in options.items()}
    x, y = digits("train")
    settings = {"recipe": recipe, "timesteps": timesteps, "labels": y[:200]}
    return compile_model(DIGITS, x[:200], options=changes, **settings)  # type: ignore[arg-type]


def output_error(network: Compiled) -> float:
    output = network.run(digits("test")[0][:200]).output
    return float(np.square(output - truth()).mean() / truth().var())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_compiles_and_comes_close(recipe: str) -> None:
    network = compiled(recipe, 16, fine__iterations=50)  # of 200: it takes a minute
    assert record_of(network.model)["gridded"] is True
    assert network.model.metadata_props
    # Clamped layers have less time; thresholds at maxima need more of it.
    slow = {"max-norm": 1.5, "spike-norm": 1.5, "fast-inference": 0.5}
    assert output_error(network) < slow.get(recipe, 0.3)


def test_corrections_found_in_few_steps_fade_where_there_are_many() -> None:
    assert compiled("binary", 128).predictions["inf"].output_error < 1e-4  # uncorrected: 1e-5


@pytest.mark.parametrize("recipe", ["binary", "ternary", "calibration-light", "separated"])
def test_the_corrections_of_a_recipe_lower_the_output_error(recipe: str) -> None:
    off = {"calibrate__weights": None, "calibrate__potential": None, "search__rounds": 0}
    plain = compiled(recipe, **off, calibrate__bias=False)
    assert output_error(compiled(recipe)) < output_error(plain)


@pytest.mark.parametrize("recipe", ["calibration-light", "calibration-advanced", "binary"])
def test_no_stage_of_a_calibration_raises_a_layers_held_out_error(recipe: str) -> None:
    (step,) = (p for p in compiled(recipe).passes if p.name == "calibrate")
    for part in step.changed.partition("; ")[2].split(", error x ")[1:]:
        assert float(part.split(",")[0]) <= 1


def test_compiling_twice_gives_the_same_bytes() -> None:
    x, _ = digits("train")
    for recipe in ("binary", "calibration-advanced"):
        a, b = (
            checked_proto(compile_model(DIGITS, x[:64], recipe=recipe, timesteps=4).model)
            for _ in range(2)
        )
        assert a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


@pytest.mark.parametrize("recipe", ["ternary", "ltb"])
def test_the_order_of_the_calibration_data_does_not_matter(recipe: str) -> None:
    x = digits("train")[0][:96]
    mixed = x[np.random.default_rng(0).permutation(len(x))]
    a, b = (compile_model(DIGITS, s, recipe=recipe, timesteps=4) for s in (x, mixed))
    for layer, thresholds in a.thresholds.items():
        np.testing.assert_allclose(thresholds, b.thresholds[layer], rtol=1e-5)


def test_the_prediction_bounds_what_is_simulated_and_counts_labels() -> None:
    network = compiled("ternary", 8)
    assert list(network.predictions) == ["1", "2", "4", "8", "inf"]
    errors = [p.output_error for p in network.predictions.values()]
    assert errors[0] > errors[3] > errors[4]
    assert network.predictions["8"].accuracy == pytest.approx(1, abs=0.05)
    assert network.predictions["8"].capped < 0.05
    # Without labels there is no accuracy, with few samples no prediction.
    x, _ = digits("train")
    assert compile_model(DIGITS, x[:20]).predictions["1"].accuracy is None
    assert compile_model(DIGITS, x[:4]).predictions == {}


def branches() -> ModelProto:
    """Synapses first, their activations later and in another order, as exporters may sort them."""
    net = Net(0)
    x = net.conv_relu(net.input(3, 6, 6), 4)
    y = net.conv_relu(x, 4)
    early, late = net.conv(x, 4), net.conv(y, 4)
    late = net.conv(net.relu(late), 4)
    return net.model(net.head(net.relu(net.add(net.relu(early), late)), 3))


@pytest.mark.parametrize("recipe", ["binary", "calibration-advanced", "stage2-only", "separated"])
@pytest.mark.parametrize("make", [branches, fpn])
def test_corrections_do_not_depend_on_the_order_of_branches(make, recipe: str) -> None:
    model = make()
    network = compile_model(model, calibration(model, 0, 40), recipe=recipe, timesteps=4)
    story = {step.name: step.changed for step in network.passes}
    assert "layers on 40 samples" in story["fine" if recipe == "stage2-only" else "calibrate"]


# ---- the sweep ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_a_simulated_sweep_is_the_simulation(seed: int) -> None:
    model = random_dag(seed)
    recipe = list(RECIPES)[seed // 2 % len(RECIPES)]
    try:
        network = compile_model(model, calibration(model, seed), recipe=recipe, timesteps=5)
    except InputError:
        pytest.skip("signed neurons do not take turns")
    x = fresh(model, seed)
    steps = record_of(network.model)["timesteps"]
    assert isinstance(steps, int)
    trace = NumpyBackend(np.float64).build(network.model).run(x, steps)
    if steps == 5:
        sweep = Sweep(network.model, x, steps, predicted=False, dtype=np.float64)
        starts = {attribute(n, "start") for n in network.model.graph if n.op_type == "Readout"}
        if starts == {0}:
            for name, output in sweep.run().items():
                np.testing.assert_allclose(output, trace.readout[name][-1], atol=1e-9)


@pytest.mark.parametrize("seed", range(1, 12))
def test_a_predicted_sweep_is_the_independent_prediction(seed: int) -> None:
    model = without_clips(random_dag(seed))
    options = {
        "thresholds.method": "percentile",
        "neurons.gamma": 1024.0,
        "neurons.gamma_neg": 1024.0,
    }
    network = compile_model(model, calibration(model, seed), recipe="graded", options=options)
    x = fresh(model, seed)
    expected = predicted(network.model, x, 5)
    for name, output in Sweep(network.model, x, 5, predicted=True).run().items():
        np.testing.assert_allclose(output, expected[name], atol=1e-9)


# ---- layers that take turns -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_a_separated_network_is_its_prediction_exactly(seed: int) -> None:
    model = random_dag(seed)
    x, window = fresh(model, seed), 3
    try:
        network = compile_model(
            model, calibration(model, seed), recipe="separated", timesteps=window
        )
    except InputError:
        assert {"LeakyRelu", "PRelu"} & {n.op_type for n in model.graph.node}
        return
    steps = record_of(network.model)["timesteps"]
    assert isinstance(steps, int)
    trace = NumpyBackend(np.float64).build(network.model).run(x, steps, SPIKES)
    sweep = Sweep(network.model, x, window, predicted=True, keep=True)
    for name, output in sweep.run().items():
        np.testing.assert_allclose(output, trace.readout[name][-1], atol=1e-12)
    for node in network.model.graph:
        if node.op_type in NEURONS:  # every sample, every neuron
            np.testing.assert_array_equal(
                sweep.values[node.outputs[0]], trace.trains[str(node.name)].sum(0)
            )
    if seed < 6:
        other = OnnxRuntimeBackend().build(network.model).run(x, steps, SPIKES)
        assert not differences(trace, other)


def test_spikes_wait_and_not_what_a_projection_makes_of_them() -> None:
    model = residual(0)
    network = compile_model(model, calibration(model, 0), recipe="separated", timesteps=3)
    waiting = [n.inputs[0] for n in network.model.graph if n.op_type == "Delay"]
    assert waiting
    for value in waiting:
        assert value is not None
        producer = value.producer()
        assert producer is not None
        assert producer.op_type == "WindowedIF"


def test_a_separated_network_says_how_long_it_takes() -> None:
    network = compiled("separated", 4)
    record = record_of(network.model)
    depth = max(attribute(n, "layer") for n in network.model.graph if n.op_type == "WindowedIF")
    assert (record["window"], record["timesteps"]) == (4, 4 * (depth + 1))
    trains = NumpyBackend().build(network.model).run(digits("test")[0][:3], 4 * (depth + 1), SPIKES)
    for node in network.model.graph:
        if node.op_type == "WindowedIF":
            train = trains.trains[str(node.name)]
            speaks = train.reshape(depth + 1, -1).any(1)  # in which windows
            assert set(np.flatnonzero(speaks)) == {attribute(node, "layer")}
            assert set(np.unique(train)) == {0, 1}
    with pytest.raises(InputError, match="answers after"):
        network.run(digits("test")[0][:1], 7)


# ---- voltage clamping -----------------------------------------------------------------------


def test_clamped_layers_are_silent_until_their_turn() -> None:
    model = ARCHITECTURES["residual"]()
    x = calibration(model, 0)
    network = compile_model(
        model, x, recipe="fast-inference", timesteps=24, options={"clamp.delay": 2}
    )
    trace = NumpyBackend().build(network.model).run(x, 24, SPIKES)
    depths = {str(n.name): attribute(n, "delay") for n in network.model.graph if n.op_type == "IF"}
    assert len(set(depths.values())) > 1
    for name, delay in depths.items():
        train = trace.trains[name]
        assert delay % 2 == 0
        assert not train[:delay].any()
        assert train[delay:].any()
    (start,) = {attribute(n, "start") for n in network.model.graph if n.op_type == "Readout"}
    assert start == 2 + max(depths.values())
    with_warning = compile_model(model, x, recipe="fast-inference", timesteps=2)
    assert any("too short" in w for w in with_warning.warnings)


def test_spike_norm_thresholds_are_never_exceeded_by_a_step_of_current() -> None:
    network = compile_model(
        DIGITS, digits("train")[0][:64], recipe="spike-norm", timesteps=8, form="physical"
    )
    x = digits("train")[0][:64]
    sweep = Sweep(network.model, x, 8, predicted=False, keep=True)
    sweep.run()
    for node in network.model.graph:
        if node.op_type == "IF":
            scale = scale_of(node.outputs[0])
            assert scale is not None
            top = sweep.values[node.inputs[0]].max()
            assert top == pytest.approx(scale[0], rel=1e-4)
