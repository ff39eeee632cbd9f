"""Stage II: gradients through time against two oracles, and the passes on small networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import networks
from backends.sweep import Sweep
from passes import bptt
from passes.base import Context
from passes.descent import Adam
from passes.drive import drive_of
from passes.fine import Fine, _Layer
from passes.options import configure
from passes.rewiring import theta_of
from passes.targets import Truth
from snncompiler.ann import run
from snncompiler.driver import compile_model, import_network
from snncompiler.graph import attribute
from snncompiler.ops import NEURONS
from snncompiler.record import record_of

rng = np.random.default_rng
Array = np.ndarray
CASES = [(1, 0, None), (5, 0, None), (1, 1, None), (5, 5, None), (1, 0, 0.25), (3, 0, 0.1)]


def layer(seed: int, gamma: int, back: int, slope: float | None) -> dict[str, Array]:
    """Random spikes into a dense layer: [T, B, K], and what belongs to it."""
    r = rng(seed)
    return {
        "x": (r.random((6, 8, 12)) < 0.4).astype(float),
        "w": 0.5 * r.standard_normal((5, 12)) + (0 if slope else 0.1),
        "b": 0.2 * r.standard_normal(5),
        "v": r.uniform(0, 1, 5),
        "theta": r.uniform(0.5, 1.5, 5),
        "a": r.uniform(-1 if slope else 0, 1, (8, 5)),
    }


def by_hand(
    p: dict[str, Array], gamma: int, back: int, slope: float | None, kl: bool
) -> tuple[float, Array, Array, Array]:
    """(loss, dW, db, dv)."""
    current, steep = p["x"] @ p["w"].T + p["b"], None
    if slope is None:
        count, h = bptt.fire(current, p["v"], p["theta"], gamma, back, 1.0)
    else:
        count, h, steep = bptt.fire_leaky(current, np.array([slope]), p["theta"], gamma, 1.0)
    measure = bptt.divergence if kl else bptt.squared_error
    loss, g = measure(count / len(current), p["a"])
    by_current = bptt.backward(g, h, p["theta"], steep)
    dw = np.einsum("tbm,tbk->mk", by_current, p["x"])
    return loss, dw, by_current.sum((0, 1)), by_current[0].sum(0)


@pytest.mark.parametrize("kl", [True, False])
@pytest.mark.parametrize(("gamma", "back", "slope"), CASES)
def test_gradients_are_those_of_autograd(gamma: int, back: int, slope: float | None, kl: bool):
    torch = pytest.importorskip("torch", reason="torch is not installed: no autograd oracle")

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, low, high):
            first = low.detach().numpy() + 1
            ctx.h = torch.from_numpy(bptt.surrogate(u.detach().numpy(), first, high, 1.0))
            return torch.minimum(torch.maximum(torch.floor(u), low), torch.tensor(float(high)))

        @staticmethod
        def backward(ctx, g):
            return g * ctx.h, None, None

    p = layer(0, gamma, back, slope)
    t = {k: torch.tensor(a, requires_grad=k in ("w", "b", "v")) for k, a in p.items()}
    count = torch.zeros(8, 5, dtype=torch.float64)
    u, total = (t["v"] / t["theta"]).expand(8, 5), torch.zeros_like(count)
    for x in t["x"]:
        i = (x @ t["w"].T + t["b"]) / t["theta"]
        if slope is None:
            u = u + i
            s = Spike.apply(u, -torch.clamp(count.detach(), max=back), gamma)
            u = u - s
        else:
            total = total + i
            f = torch.where(total > 0, total, slope * total)
            s = Spike.apply(f + 0.5 - count, torch.full_like(count, -gamma), gamma)
        count = count + s
    rate = count / len(p["x"])
    if kl:
        log = torch.log_softmax(rate, 1)
        loss = torch.nn.functional.kl_div(log, torch.softmax(t["a"], 1), reduction="batchmean")
    else:
        loss = ((rate - t["a"]) ** 2).mean()
    loss.backward()
    found, dw, db, dv = by_hand(p, gamma, back, slope, kl)
    assert found == pytest.approx(loss.item(), abs=1e-12)
    np.testing.assert_allclose(dw, t["w"].grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(db, t["b"].grad.numpy(), atol=1e-5)
    assert np.abs(dw).max() > 1e-4
    if slope is None:
        np.testing.assert_allclose(dv, t["v"].grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("leaky", [False, True])
def test_where_spikes_are_smooth_the_gradient_is_their_slope(leaky: bool) -> None:
    """A ramp of width 1 in the place of each jump is what the rectangle is the derivative of."""
    r = rng(1)
    current, theta, v = r.normal(0.3, 0.5, (5, 4, 3)), r.uniform(0.5, 1.5, 3), r.uniform(0, 1, 3)
    a = r.uniform(0, 1, (4, 3))

    def forward(current: Array, v: Array) -> tuple[Array, Array, Array]:
        u, total, count = np.broadcast_to(v / theta, (4, 3)), np.zeros((4, 3)), np.zeros((4, 3))
        h, steep = np.empty_like(current), np.empty_like(current)
        for t, i in enumerate(current):
            total = total + i / theta
            steep[t] = np.where(total > 0, 1, 0.3)
            here = total * steep[t] + 0.5 - count if leaky else u + i / theta
            s = np.clip(here - 0.5, 0, 1)  # rises around here = 1
            h[t] = (here > 0.5) & (here < 1.5)
            u, count = here - s, count + s
        return count / len(current), h, steep

    def loss(current: Array, v: Array) -> float:
        return bptt.divergence(forward(current, v)[0], a)[0]

    rate, h, steep = forward(current, v)
    g = bptt.divergence(rate, a)[1]
    found = bptt.backward(g, h, theta, steep if leaky else None)
    for index in np.ndindex(*current.shape):
        step = np.zeros_like(current)
        step[index] = 1e-6
        slope = (loss(current + step, v) - loss(current - step, v)) / 2e-6
        assert slope == pytest.approx(found[index], abs=1e-7)
    if not leaky:
        for m in range(3):
            step = 1e-6 * np.eye(3)[m]
            slope = (loss(current, v + step) - loss(current, v - step)) / 2e-6
            assert slope == pytest.approx(found[0, :, m].sum(), abs=1e-7)


@pytest.mark.parametrize("measure", [bptt.divergence, bptt.squared_error])
def test_losses_have_the_gradients_they_say(measure) -> None:
    r = rng(2)
    rate, target = r.random((3, 7)), r.random((3, 7))
    loss, g = measure(rate, target)
    assert loss > 0
    assert measure(target, target)[0] == pytest.approx(0, abs=1e-12)
    for index in np.ndindex(*rate.shape):
        step = np.zeros_like(rate)
        step[index] = 1e-6
        slope = (measure(rate + step, target)[0] - measure(rate - step, target)[0]) / 2e-6
        assert slope == pytest.approx(g[index], abs=1e-8)


def test_adam_finds_the_bottom_of_a_bowl() -> None:
    adam = Adam([np.array([3.0, -2.0])], [0.1], 400)
    first = adam.parameters[0]
    for _ in range(400):
        adam.step([2 * adam.parameters[0]])
    np.testing.assert_allclose(adam.parameters[0], 0, atol=1e-3)
    np.testing.assert_array_equal(first, [3.0, -2.0])


def spiking(model: onnx.ModelProto, x: Array, timesteps: int, until: str = "coarse"):
    """A network just before the pass `until`, and its context."""
    network = import_network(model)
    context = Context(x, timesteps, ann=network.model.clone(), sweep=Sweep)
    names = [p.name for p in configure("stage2-only", {})]
    start, end = names.index("observe"), names.index(until)
    for p in configure("stage2-only", {})[start:end]:
        p.run(network.model, context)
    return network.model, context


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("name", ["mlp", "residual", "depthwise", "preactivation", "leaky"])
def test_rows_of_matrices_are_the_currents_and_rates_of_the_network(
    name: str, predicted: bool
) -> None:
    """All kinds of synapses: what descent sees of a layer is what the simulator computes."""
    proto = networks.residual(0) if name == "leaky" else getattr(networks, name)(0)
    if name == "leaky":
        for node in proto.graph.node:
            if node.op_type == "Relu":
                node.op_type = "LeakyRelu"
    x = networks.sample_input(proto, 3, 0)
    model, context = spiking(proto, x, 4)
    seen = []

    def visit(sweep, node) -> None:
        if node.op_type not in NEURONS:
            return
        drive = drive_of(sweep, node)
        sent = sweep.activation(node)
        learner = _Layer(Fine(loss="mse"), drive, sent, 0)
        samples = np.array([2, 0])
        places = rng(0).integers(0, learner.places, (2, 5))
        batch, target, v = learner._part(samples, places)
        zeros = np.zeros(len(theta_of(node)), np.float32)
        parameters = [*(s.w for s in drive.synapses), zeros, zeros]
        current = drive.current(batch, parameters[:-2])
        steps = 1 if predicted else 4
        y = sweep.steps(node.inputs[0])[:, samples].reshape(steps, 2, sent.shape[1], -1)
        wanted = y[:, np.arange(2)[:, None], :, places].transpose(2, 0, 1, 3)
        wanted = wanted.reshape(steps, 10, -1)
        np.testing.assert_allclose(np.broadcast_to(current, wanted.shape), wanted, atol=1e-4)
        rates, _h, _steep = learner._fire(batch, v, parameters)
        assert (np.abs(rates.reshape(target.shape) - target) > 1e-4).mean() < 0.05
        seen.append(len(drive.synapses))

    context.sweep(model, x, 4, predicted=predicted, dtype=np.float32).run(visit)
    assert min(seen) >= (0 if name == "preactivation" else 1)
    if name == "residual":
        assert max(seen) == 2  # a join with a projection: both synapses learn
    if name == "leaky":
        assert all(n.op_type == "LeakyIF" for n in model.graph if n.op_type in NEURONS)


def error(model: onnx.ModelProto, x: Array, **settings: object) -> float:
    compiled = compile_model(model, x[:96], timesteps=4, **settings)
    assert record_of(compiled.model)["gridded"] is True
    (truth,) = import_network(model).outputs(x[96:])
    return float(np.square(compiled.run(x[96:]).output - truth).mean() / truth.var())


FAST = {"fine.iterations": 40, "fine.patience": 2}


@pytest.mark.parametrize("make", [networks.preactivation])
def test_every_stage_lowers_the_error_on_samples_not_seen(make) -> None:
    model = make(0)
    x = networks.sample_input(model, 192, 0)
    off = {"coarse.potential": None, "fine.loss": None}
    plain = error(model, x, recipe="stage2-only", options=off)
    both = error(model, x, recipe="stage2-only", options=FAST)
    assert both < 0.95 * plain


def test_descent_on_predicted_counts_lowers_the_error_too() -> None:
    model = networks.residual(1)
    x = networks.sample_input(model, 192, 0)
    plain = error(model, x, recipe="separated", options={"fine.loss": None})
    assert error(model, x, recipe="separated") < 0.95 * plain


def test_two_compilations_are_one_artifact_whatever_the_order_of_the_samples() -> None:
    model = networks.mlp(0)
    x = networks.sample_input(model, 64, 0)
    made = [compile_model(model, x, recipe="two-stage", timesteps=4, options=FAST) for _ in "ab"]
    assert len({repr(m.thresholds) + str(m.passes[12].changed) for m in made}) == 1
    outputs = [m.run(x, 4).output for m in made]
    np.testing.assert_array_equal(*outputs)
    mixed = x[rng(0).permutation(len(x))]
    other = compile_model(model, mixed, recipe="two-stage", timesteps=4, options=FAST)
    np.testing.assert_allclose(other.run(x, 4).output, outputs[0], atol=1e-4)


def test_with_few_samples_nothing_is_fitted() -> None:
    model = networks.mlp(0)
    x = networks.sample_input(model, 20, 0)
    compiled = compile_model(model, x, recipe="two-stage", timesteps=4)
    notes = {p.name: p.changed for p in compiled.passes}
    assert notes["coarse"] == notes["fine"] == "off: fewer than 32 samples"


def test_layers_that_take_turns_learn_from_all_samples() -> None:
    model = networks.mlp(0)
    x = networks.sample_input(model, 300, 0)
    compiled = compile_model(model, x, recipe="separated", timesteps=4, options=FAST)
    notes = {p.name: p.changed for p in compiled.passes}
    assert "on 300 samples" in notes["calibrate"]
    assert "on 300 samples" in notes["fine"]


def test_what_takes_too_long_or_too_much_memory_is_left_out_and_said(monkeypatch) -> None:
    model = networks.mlp(0)
    x = networks.sample_input(model, 40, 0)

    def notes(recipe: str, timesteps: int, **options: object) -> dict[str, str]:
        named = {name.replace("_", "."): value for name, value in options.items()}
        compiled = compile_model(model, x, recipe=recipe, timesteps=timesteps, options=named)
        return {p.name: p.changed for p in compiled.passes}

    assert notes("ternary", 17)["fine"] == "off: for at most 16 time steps"
    many = notes("stage2-only", 4, fine_work=1e6)["fine"]
    assert many == "off: the network has too many weights to learn in reasonable time"
    monkeypatch.setattr("passes.coarse.HELD", 100)
    small = notes("stage2-only", 4, fine_held=100)
    large = "off: the network is too large to simulate 8 samples for so many steps"
    assert small["coarse"] == small["fine"] == large


@pytest.mark.parametrize("kept", [1, 1 << 20])
def test_targets_are_the_same_however_many_fit_into_memory(monkeypatch, kept: int) -> None:
    monkeypatch.setattr("passes.targets._KEPT", kept)
    source = networks.residual()
    network, x = import_network(source), networks.sample_input(source, 12)
    names = [str(v.name) for n in network.model.graph for v in n.outputs]
    known = run(network.model, x, names)
    truth = Truth(network.model, x, ["nowhere", *names, names[0]])
    assert len(truth) == len(names) > 3
    assert truth.get("nowhere") is None
    for name in (*names, names[0]):
        found = truth.get(name)
        np.testing.assert_array_equal(found, known[name])
        assert len(truth._kept) == (1 if kept == 1 else len(names))


def test_ternary_and_graded_neurons_learn_too() -> None:
    model = networks.mlp(1)
    x = networks.sample_input(model, 64, 0)
    for options in ({"neurons.gamma_neg": 1.0}, {"neurons.gamma": 3.0, "neurons.gamma_neg": 3.0}):
        compiled = compile_model(
            model, x, recipe="two-stage", timesteps=4, options={**FAST, **options}
        )
        gammas = {attribute(n, "gamma_neg") for n in compiled.model.graph if n.op_type == "IF"}
        assert gammas == {options["neurons.gamma_neg"]}
