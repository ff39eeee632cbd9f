"""Exact arithmetic: a gridded network spikes the same everywhere, whoever computes it and how.

The reference is the NumPy backend in float64; float32, onnxruntime with everything it optimises on
one and two threads, and other batches must give the same trains, spike by spike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from backends.base import Program
from backends.event.program import EventBackend
from backends.onnx_runtime import OnnxRuntimeBackend
from backends.reference import NumpyBackend
from networks import ARCHITECTURES, Net, random_dag
from opcases import CASES
from passes.recipes import RECIPES
from runs import SPIKES, chunks, compiled, differences, every, fresh
from snncompiler.driver import Compiled, compile_model
from snncompiler.record import record_of
from snncompiler.trace import Trace, join
from snncompiler.verify import checked_proto

T = 6
MODELS = Path(__file__).parent.parent / "models"
RECIPE = list(RECIPES)
SHIFTED = ["bn_after_relu", "bn_after_maxpool", "add_map_after_relu", "bn_before_padded_conv"]
LEAKY = ["leaky_relu", "leaky_relu_residual", "leaky_relu_maxpool", "prelu_channels", "prelu_flat"]


def gridded(network: Compiled) -> bool:
    return record_of(network.model)["gridded"] is True


def in_parts(program: Program, x: np.ndarray, sizes: list[int], timesteps: int) -> Trace:
    parts = np.split(x, np.cumsum(sizes)[:-1])
    return join([program.run(part, timesteps, SPIKES) for part in parts])


def disagreements(
    network: Compiled, x: np.ndarray, timesteps: int = 0, threads: tuple[int, ...] = (1, 2)
) -> dict[str, object]:
    """Whoever differs from float64 NumPy, and where; timesteps 0: as compiled."""
    model = network.model
    timesteps = timesteps or int(str(record_of(model)["timesteps"]))
    expected = NumpyBackend(np.float64).build(model).run(x, timesteps, SPIKES)
    single = NumpyBackend(np.float32).build(model)
    ones = [1] * len(x)
    runs = {
        "float32": single.run(x, timesteps, SPIKES),
        "float32, sample by sample": in_parts(single, x, ones, timesteps),
        "event": EventBackend(threads=threads[0]).build(model).run(x, timesteps, SPIKES),
    }
    for n in threads:
        runtime = OnnxRuntimeBackend(optimise=True, threads=n).build(model)
        runs[f"onnxruntime, {n} threads"] = runtime.run(x, timesteps, SPIKES)
        sizes = [1, len(x) - 1]
        runs[f"onnxruntime, {n} threads, in batches"] = in_parts(runtime, x, sizes, timesteps)
    wrong: dict[str, object] = {k: d for k, r in runs.items() if (d := differences(expected, r))}
    file = artifact(network, x, timesteps)
    for name, readout in expected.readout.items():
        if not np.array_equal(readout[-1].astype(np.float32), file[name]):
            wrong[f"the file's output {name}"] = float(np.abs(readout[-1] - file[name]).max())
    return wrong


def artifact(network: Compiled, x: np.ndarray, timesteps: int) -> dict[str, np.ndarray]:
    """What stock onnxruntime makes of the file, none of our code involved."""
    session = onnxruntime.InferenceSession(
        checked_proto(network.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image, steps = (i.name for i in session.get_inputs())
    names = [o.name for o in session.get_outputs()]
    feeds = {image: x, steps: np.array([timesteps])}
    return dict(zip(names, session.run(names, feeds), strict=True))


@chunks(100)
def test_random_networks_spike_the_same_everywhere(seeds: range) -> None:
    def check(seed: int) -> object:
        model = random_dag(seed)
        network = compiled(model, seed, recipe=RECIPE[seed % len(RECIPE)], timesteps=T)
        if not gridded(network):
            return "not on the grid"
        return disagreements(network, fresh(model, seed, 3), threads=(1 + seed % 2,))

    every(seeds, check)


@pytest.mark.parametrize("recipe", ["binary", "ternary", "graded"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_spike_the_same_everywhere(name: str, recipe: str) -> None:
    model = ARCHITECTURES[name]()
    network = compiled(model, 1, recipe=recipe, timesteps=T)
    assert gridded(network), network.warnings
    assert not disagreements(network, fresh(model, 1, 3))


def wide_pyramid() -> onnx.ModelProto:
    """Three long sums between one layer of neurons and the next."""
    net = Net(3, name="wide_pyramid")
    low = net.conv_relu(net.input(3, 12, 12), 64, strides=2)
    top = net.conv(net.conv_relu(low, 96, strides=2), 40, 1)
    joined = net.add(net.upsample(top), net.conv(low, 40, 1))
    return net.model(net.head(net.relu(net.conv(net.conv(joined, 40), 40))))


def test_long_sums_without_neurons_between_them_leave_bits_for_the_weights() -> None:
    model = wide_pyramid()
    network = compiled(model, 1, recipe="graded", timesteps=T)
    assert gridded(network), network.warnings
    assert "bits between synapses" in next(p for p in network.passes if p.name == "grid").changed
    assert not disagreements(network, fresh(model, 1, 3))


def test_a_layer_that_sees_the_whole_image_spikes_the_same_everywhere() -> None:
    net = Net(3, name="mlp")
    hidden = net.relu(net.gemm(net.flatten(net.input(3, 32, 32)), 300))
    model = net.model(net.gemm(net.relu(net.gemm(hidden, 100)), 10))
    network = compiled(model, 1, timesteps=T)
    assert gridded(network), network.warnings
    assert not disagreements(network, fresh(model, 1, 3))


def test_what_a_prediction_leaves_out_is_said() -> None:
    x = fresh(wide_pyramid(), 1, 16)
    network = compile_model(wide_pyramid(), x, recipe="graded", timesteps=2)
    assert network.predictions
    assert any("rounded at every step" in w for w in network.warnings)
    narrow = ARCHITECTURES["mlp"]()
    network = compile_model(narrow, fresh(narrow, 1, 16), recipe="graded", timesteps=2)
    assert network.predictions
    assert not network.warnings


@pytest.mark.parametrize("name", SHIFTED)
def test_a_constant_between_spikes_and_a_synapse_keeps_its_bits(name: str) -> None:
    model = CASES[name]()
    network = compiled(model, 1, timesteps=T)
    assert gridded(network)
    assert not network.warnings
    assert not disagreements(network, fresh(model, 1, 3))


@pytest.mark.parametrize("name", LEAKY)
def test_leaky_neurons_spike_the_same_everywhere(name: str) -> None:
    model = CASES[name]()
    network = compiled(model, 1, recipe="graded", timesteps=T)
    assert gridded(network), network.warnings
    assert not disagreements(network, fresh(model, 1, 3))


@pytest.mark.parametrize("recipe", RECIPES)
def test_digits_spike_the_same_everywhere(recipe: str) -> None:
    train, test = (np.load(MODELS / f"digits_{s}.npz")["x"] for s in ("train", "test"))
    settings = {"recipe": recipe, "timesteps": 16, "options": {"fine.iterations": 20}}
    network = compile_model(MODELS / "digits.onnx", train[:64], **settings)
    assert gridded(network), network.warnings
    assert not disagreements(network, test[:8])


@pytest.mark.filterwarnings("ignore:.*tuple.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "recipe"), [("mlp", "binary"), ("fpn", "spicalib")])
def test_the_evaluator_of_onnx_agrees(name: str, recipe: str) -> None:
    model = ARCHITECTURES[name]()
    network = compiled(model, 2, recipe=recipe, timesteps=3)
    x = fresh(model, 2, 1)
    proto = checked_proto(network.model)
    feeds = {"x": x, "T": np.array([3])}
    results = ReferenceEvaluator(proto).run(None, feeds)
    file = artifact(network, x, 3)
    for output, result in zip(proto.graph.output, results, strict=True):
        np.testing.assert_array_equal(result, file[output.name])


def test_off_the_grid_backends_still_agree_closely() -> None:
    model = ARCHITECTURES["residual"]()
    network = compiled(model, 3, timesteps=8, options={"grid.enabled": False})
    assert not gridded(network)
    x = fresh(model, 3, 4)
    a = NumpyBackend(np.float64).build(network.model).run(x, 8, SPIKES)
    b = OnnxRuntimeBackend().build(network.model).run(x, 8, SPIKES)
    total = sum(train.size for train in a.trains.values())
    assert sum(differences(a, b).values()) <= 1e-3 * total
    assert isinstance(checked_proto(network.model), onnx.ModelProto)
