"""Networks of integers: exact, proven, and rounded for what layers compute."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import opcases
from backends.base import take_apart
from backends.lava.backend import LavaBackend
from backends.lava.fixed import integers
from backends.lava.spiking import dynamics
from backends.reference import NumpyBackend
from passes.patches import inputs_of
from passes.rounding import for_output, nearest, output_error
from runs import SPIKES, calibration, compiled, differences, float64, fresh
from snncompiler.diagnostics import InputError
from snncompiler.driver import Compiled
from snncompiler.graph import sources, weights
from snncompiler.integers import fraction_bits
from snncompiler.trace import Observe, Trace

BUILDS = (networks.vgg_like, networks.residual, networks.depthwise, networks.preactivation)


def quantised(build, seed: int = 0, target: str = "graded", **settings: object) -> Compiled:
    options = {"quantise.target": target}
    return compiled(build(seed), seed, timesteps=12, options=options, **settings)


def in_integers(network: Compiled, x: np.ndarray) -> Trace:
    """Run the plan of a chip, in int32, by hand."""
    plan = LavaBackend().build(network.model).plan
    assert plan.integer
    simulation = dynamics.Simulation(plan)
    simulation.start(dynamics.currents(plan, x))
    trace = Trace(network.timesteps, len(x), (network.timesteps,), {}, {})
    for t in range(1, network.timesteps + 1):
        values = simulation.step(t)
        for node in plan.steps:
            assert node.op == "Readout" or values[node.name].dtype == np.int32
        for name in plan.units:
            trace.trains.setdefault(name, []).append(values[name])  # type: ignore[attr-defined]
    trace.trains = {k: np.array(v) for k, v in trace.trains.items()}
    for node in plan.readouts():
        total = values[node.name]
        trace.readout[node.name] = dynamics.outputs(node, total, t, plan.exponent(node))
    return trace


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (networks.vgg_like, "spicalib"),
        (networks.residual, "graded"),
        (networks.depthwise, "binary"),
        (networks.preactivation, "ternary"),
    ],
)
def test_the_artifact_and_its_integers_send_the_same_spikes(build, recipe):
    network = quantised(build, recipe=recipe)
    x = fresh(build(), 0)
    single = NumpyBackend(np.float32).build(network.model).run(x, 12, SPIKES)
    assert differences(single, float64(network, x, 12)) == {}
    fixed = in_integers(network, x)
    assert differences(single, fixed) == {}
    for said, name in zip(fixed.readout.values(), single.readout, strict=True):
        np.testing.assert_array_equal(said.astype(np.float32), single.readout[name][-1])


@pytest.mark.parametrize("name", ["bn_after_relu", "bn_after_maxpool"])
def test_a_constant_between_spikes_and_a_synapse_keeps_its_bits(name):
    network = quantised(lambda _seed: opcases.CASES[name](), target="loihi2")
    norm = next(n for n in network.model.graph if "batchnormalization1" in sources(n))
    assert (fraction_bits(weights(norm.inputs[2])[:, None]) >= 4).any()
    x = fresh(opcases.CASES[name](), 0)
    assert differences(float64(network, x, 12), in_integers(network, x)) == {}


@pytest.mark.parametrize("build", BUILDS, ids=lambda b: b.__name__)
def test_every_width_is_kept(build):
    network = quantised(build)
    found = integers(take_apart(network.model))
    checked = 0
    for node in network.model.graph:
        if node in found.mantissa:
            w = weights(node.inputs[1]).astype(np.float64)
            p = found.mantissa[node].reshape(-1, *[1] * (w.ndim - 1))
            mantissa = w * np.exp2(p)
            np.testing.assert_array_equal(mantissa, np.rint(mantissa))
            assert np.abs(mantissa).max() <= 127
            checked += 1
        if node in found.membrane:
            assert found.membrane[node].max() < 2**23
    assert checked >= 3


@pytest.mark.parametrize("build", BUILDS[1:3], ids=lambda b: b.__name__)
def test_no_potential_exceeds_its_bound_whatever_comes_in(build):
    network = quantised(build, recipe="ternary")
    apart = take_apart(network.model)
    found = integers(apart)
    rng = np.random.default_rng(0)
    x = np.sign(rng.standard_normal((4, *calibration(build(), 0).shape[1:]))) * 1e3
    trace = (
        NumpyBackend()
        .build(network.model)
        .run(x.astype(np.float32), 12, Observe(spikes=True, membranes=True))
    )
    for layer in apart.layers:
        if layer.node in found.membrane:
            units = np.exp2(found.exponent[layer.node])
            # Before the reset, a potential is what it is after it and what was sent.
            before = trace.membranes[layer.name] + trace.trains[layer.name]
            assert (np.abs(before * units) <= found.membrane[layer.node]).all()
            np.testing.assert_array_equal(before * units, np.rint(before * units))


def test_rounding_for_the_output_errs_less_than_to_the_nearest():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((40, 40))
    x = np.maximum(rng.standard_normal((500, 40)) @ mixed, 0)  # correlated, as activations are
    w, second = rng.standard_normal((8, 40)), x.T @ x / len(x)
    step = np.full(8, 0.25)
    ours, simple = for_output(w, step, 127, second), nearest(w, step, 127)
    measured = [float((((w - q) @ x.T) ** 2).mean()) for q in (ours, simple)]
    assert measured[0] < 0.8 * measured[1]
    assert output_error(w, simple, second) == pytest.approx(8 * measured[1])
    np.testing.assert_array_equal(ours / 0.25, np.rint(ours / 0.25))
    assert np.abs(for_output(100 * w, step, 127, second)).max() <= 127 * 0.25


def test_what_a_convolution_sees_gives_what_it_computes():
    net = networks.Net(3)
    x = net.conv(net.input(4, 7, 6), 4)
    x = net.op("Relu", x)
    model = net.model(net.conv(x, 6, [3, 2], group=2, strides=[2, 1], pads=[1, 0, 2, 1]))
    graph = compiled(model, 3, timesteps=2).model.graph
    node = [n for n in graph if n.op_type == "Conv"][-1]
    spikes = np.random.default_rng(0).integers(0, 2, (3, 4, 7, 6)).astype(np.float64)
    w = weights(node.inputs[1]).astype(np.float64)
    bias = weights(node.inputs[2]).astype(np.float64)
    plain = dynamics.ops.conv(
        spikes, w, bias, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 1], group=2
    )
    seen = inputs_of(node, spikes)
    rows = w.reshape(2, 3, -1)
    ours = np.concatenate([s @ r.T for s, r in zip(seen, rows, strict=True)], 1) + bias
    by_place = plain.transpose(0, 2, 3, 1).reshape(-1, 6)
    np.testing.assert_allclose(
        ours[np.lexsort(ours.T)], by_place[np.lexsort(by_place.T)], atol=1e-12
    )


def test_fraction_bits():
    rows = np.array([[0.5, 3], [1, 2], [0.125, 0.75], [4, 12]])
    np.testing.assert_array_equal(fraction_bits(rows), [1, 0, 3, -2])


def test_a_potential_that_does_not_fit_is_refused_by_name():
    options = {"quantise.target": "loihi2", "neurons.gamma": 1024.0}
    with pytest.raises(InputError, match="24-bit membranes") as caught:
        compiled(networks.vgg_like(), 0, timesteps=64, options=options)
    assert "fewer --timesteps" in caught.value.problems[0].do


def test_spikes_wider_than_the_target_carries_are_refused():
    with pytest.raises(InputError, match=r"takes 9 bits, and the target carries 8"):
        quantised(networks.residual, target="loihi2", recipe="graded")


def test_slopes_are_refused():
    net = networks.Net(0)
    x = net.op("LeakyRelu", net.gemm(net.input(4), 6), alpha=0.1)
    with pytest.raises(InputError, match="no rule for it"):
        compiled(net.model(net.gemm(x, 3)), 0, timesteps=4, options={"quantise.target": "loihi2"})


def test_layers_that_take_turns_are_refused():
    with pytest.raises(InputError, match="no rule for it") as refusal:
        quantised(networks.residual, recipe="separated")
    assert refusal.value.problems[0].node


def test_integers_need_the_grid():
    options = {"quantise.target": "loihi2", "grid.enabled": False}
    with pytest.raises(InputError, match="not exact"):
        compiled(networks.mlp(), 0, timesteps=4, options=options)


def test_more_steps_than_proven_are_refused_on_the_chip():
    network = quantised(networks.mlp)
    with pytest.raises(InputError, match="proven to fit for the 12"):
        LavaBackend().build(network.model).run(fresh(networks.mlp(), 0), 13)


def test_the_schedule_is_written_into_the_artifact():
    network = compiled(networks.residual(), 0, timesteps=4)
    noted = {n.name: n.metadata_props.get("snn.schedule") for n in network.model.graph}
    first = next(n for n in network.model.graph if n.op_type == "IF")
    assert noted[first.name] == '{"hop": 0, "waits": [0]}'
    assert sum('"waits": [0, 1]' in str(n) for n in noted.values()) == 3


def test_large_weights_that_a_pass_left_behind_do_not_matter(monkeypatch):
    """Large ones reach onnxruntime apart from the model; quantise replaces those of the grid."""
    monkeypatch.setattr("snncompiler.ann._LARGE", 0)
    assert not quantised(networks.residual).warnings
