"""Training with spikes: its gradients, its network, and what becomes of it. Torch or skipped."""

from __future__ import annotations

import importlib.util
import json
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from ml_dtypes import bfloat16
from rich.console import Console
from typer.testing import CliRunner

import networks
from snncompiler.cli import app
from snncompiler.data import Samples
from snncompiler.diagnostics import InputError
from snncompiler.driver import compile_model, import_network
from snncompiler.finetune.kernels import fire, fire_backward
from snncompiler.finetune.schedule import Schedule
from snncompiler.finetuning import finetune
from snncompiler.graph import ACTIVATIONS, set_scale, shape
from snncompiler.quantisers import insert
from snncompiler.record import FINETUNED
from snncompiler.report import finetuned_table

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
MLP = networks.mlp(0)
x = networks.sample_input(MLP, 160, 0)
DATA = Samples(x, import_network(MLP).outputs(x)[0].argmax(1))


@needs_torch
@pytest.mark.parametrize(("gamma_neg", "slope"), [(0, None), (1, None), (1, 0.25)])
def test_the_gradients_are_those_of_autograd_through_the_steps(
    gamma_neg: int, slope: float | None
) -> None:
    import torch

    from snncompiler.finetune.spiking import Fire

    class Jump(torch.autograd.Function):
        """clip(floor(w), low, 1), with the rectangular surrogate around every jump there is."""

        @staticmethod
        def forward(ctx, w, low):
            ctx.save_for_backward((w > low + 0.5) & (w < 1.5))
            return torch.minimum(torch.maximum(w.floor(), low), torch.ones_like(w))

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0], None

    r = np.random.default_rng(0)
    given = torch.tensor(r.normal(0.2, 0.6, (5, 7, 3, 4)))
    level = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    g = torch.tensor(r.standard_normal(given.shape))
    steep = None if slope is None else torch.tensor([[[slope]]], dtype=torch.float64)

    current, theta = given.clone().requires_grad_(), level.clone().requires_grad_()
    sent = Fire.apply(current, theta, steep, gamma_neg)
    (sent * g).sum().backward()

    wanted, theta_wanted = given.clone().requires_grad_(), level.clone().requires_grad_()
    total, count, steps = torch.zeros_like(given[0]), torch.zeros_like(given[0]), []
    for i in wanted:
        total = total + i
        f = total if slope is None else torch.where(total > 0, total, slope * total)
        low = -(count.clamp(max=gamma_neg) if slope is None else torch.ones_like(count)).detach()
        s = Jump.apply(f / theta_wanted + 0.5 - count, low)
        count = count + s
        steps.append(s * theta_wanted)
    (torch.stack(steps) * g).sum().backward()
    assert (sent < 0).any() == bool(gamma_neg)
    torch.testing.assert_close(sent, torch.stack(steps), rtol=0, atol=0)
    torch.testing.assert_close(current.grad, wanted.grad)
    torch.testing.assert_close(theta.grad, theta_wanted.grad)


@pytest.mark.parametrize("kept", [np.float32, bfloat16])
@pytest.mark.parametrize(("lowest", "signed"), [(0, False), (1, False), (1, True)])
def test_kernels_compute_the_equations(kept: type, lowest: int, signed: bool) -> None:
    """In numbers of few binary digits, which leave nothing to be rounded but the results."""
    r = np.random.default_rng(0)
    steps, samples, neurons = 5, 19, 1500
    current = r.integers(-12, 25, (steps, samples, neurons)) / 16
    g = r.integers(-8, 9, current.shape) / 8
    theta, slope = 2.0 ** r.integers(-1, 2, neurons), np.full(neurons, 0.25 if signed else 1.0)

    def f(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, slope * x)

    total = current.cumsum(0)
    count, spikes, inside = np.zeros_like(total[0]), np.zeros_like(total), np.zeros_like(total)
    for t in range(steps):
        w = f(total[t]) / theta + 0.5 - count
        back = lowest if signed else np.minimum(count, lowest)
        spikes[t] = np.minimum(np.maximum(np.floor(w), -back), 1)
        inside[t] = (w > 0.5 - back) & (w < 1.5)
        count += spikes[t]
    a, by_current = np.zeros_like(total), np.zeros_like(total)
    for t in reversed(range(steps)):
        a[t] = (theta * g[t] - a[t + 1 :].sum(0)) * inside[t]
        by_current[t] = (a[t:] * np.where(total[t:] > 0, 1, slope)).sum(0) / theta
    by_theta = (g * spikes - a * f(total) / theta**2).sum((0, 1))

    def bits(x: np.ndarray) -> np.ndarray:
        x = x.astype(kept)
        return x if kept is np.float32 else x.view(np.uint16)

    neuron = (theta.astype(np.float32), slope.astype(np.float32), np.float32(lowest), signed)
    sent, result = bits(np.zeros_like(g)), bits(np.zeros_like(g))
    parts = np.zeros((3, neurons), np.float32)
    fire(bits(current), *neuron, sent)
    fire_backward(bits(current), *neuron, bits(g), result, parts)
    assert (spikes < 0).any() == (lowest > 0)
    for found, wanted in ((sent, theta * spikes), (result, by_current)):
        np.testing.assert_array_equal(found.view(kept).astype(float), wanted.astype(kept))
    np.testing.assert_array_equal(parts.sum(0), by_theta)


@needs_torch
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("slope", [None, 0.25])
@pytest.mark.parametrize("dims", [(6, 3, 5, 4), (6, 3, 7), (6, 3), (6, 3, 2, 3, 2)])
def test_kernels_and_operations_of_torch_agree(
    dims: tuple[int, ...], slope: float | None, last: bool
) -> None:
    """Whatever the order in memory, and however many axes there are; one threshold or more."""
    import torch

    from snncompiler.finetune.on_cpu import FireOnCpu, has_kernels
    from snncompiler.finetune.spiking import Fire

    r = np.random.default_rng(0)
    axes = [1] * (len(dims) - 2)
    for theta in (torch.tensor([0.5, 1.0, 2.0]).reshape(-1, *axes), torch.tensor([0.5])):
        current, g = (torch.tensor(r.integers(-9, 17, (4, *dims)) / 16) for _ in range(2))
        if last:  # channels
            current = current.movedim(2, -1).contiguous().movedim(-1, 2)
        assert has_kernels(current.float())
        assert not has_kernels(current)
        steep = None if slope is None else torch.tensor(slope).reshape(1, *axes)
        made = []
        for kernel, kind in ((FireOnCpu, torch.float32), (Fire, torch.float64)):
            i = current.detach().to(kind).requires_grad_()
            level = theta.detach().to(kind).requires_grad_()
            sent = kernel.apply(i, level, steep, 1)
            sent.backward(g.to(kind))
            made.append([x.double() for x in (sent, i.grad, level.grad)])
        for a, b in zip(*made, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    for kernel in (fire, fire_backward):  # of other arrays they cannot be vectorised
        arrays = [a for kinds in kernel.signatures for a in kinds if hasattr(a, "layout")]
        assert {a.layout for a in arrays} == {"C"}


def leaky(seed: int) -> onnx.ModelProto:
    net = networks.Net(seed)
    x = net.op("LeakyRelu", net.conv(net.input(2, 6, 6), 4), alpha=0.1)
    x = net.op("PRelu", net.conv(net.pool(x, 2), 4), net.uniform(0, 0.4, 4, 1, 1))
    return net.model(net.head(x, 3))


@needs_torch
@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize(
    "make",
    [networks.vgg_like, networks.residual, networks.inception, networks.fpn, leaky],
)
def test_what_is_trained_is_what_compile_makes(make, spikes: str) -> None:
    """Without a grid, the compiled network gives the answers of the one in torch."""
    import torch

    from snncompiler.finetune.spiking import SpikingNetwork

    model, t = make(0), 6
    network = import_network(model)
    theta = {}
    for node in network.model.graph:
        if node.op_type in ACTIVATIONS:
            channels = shape(node.outputs[0])[0]
            theta[str(node.outputs[0].name)] = np.linspace(0.4, 1.2, channels)
            set_scale(node.outputs[0], theta[str(node.outputs[0].name)])
    samples = networks.sample_input(model, 8, 0)
    gamma_neg = int(spikes == "ternary")
    with torch.no_grad():
        wanted = SpikingNetwork(network.model, t, gamma_neg=gamma_neg)(torch.from_numpy(samples))
    insert(network.model, theta, t)
    compiled = compile_model(
        ir.to_proto(network.model),
        samples,
        recipe="spike-trained",
        timesteps=t,
        options={"grid.enabled": False, "neurons.gamma_neg": float(gamma_neg)},
    )
    found = compiled.run(samples, t).readout
    for a, b in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(a[-1], b, atol=1e-4 * float(b.abs().max()))


@needs_torch
@pytest.mark.parametrize("spikes", ["binary", "ternary"])
def test_training_helps_and_compile_says_what_would_undo_it(spikes: str) -> None:
    schedule = Schedule(timesteps=2, spikes=spikes, epochs=8, rate=0.1, batch=32)
    made = finetune(MLP, DATA, schedule)
    assert made.history[-1]["held_out_loss"] < made.before["held_out_loss"]
    assert made.history[-1]["loss"] < 0.9 * made.history[0]["loss"]
    console = Console(file=StringIO(), width=200)
    console.print(finetuned_table(made))
    printed = console.file.getvalue()
    assert "--recipe spike-trained" in printed
    assert ("neurons.gamma_neg=1" in printed) == (spikes == "ternary")

    def warnings(recipe: str, gamma_neg: float) -> str:
        options = {"neurons.gamma_neg": gamma_neg}
        return " ".join(
            compile_model(made.model, x, recipe=recipe, timesteps=2, options=options).warnings
        )

    right = float(spikes == "ternary")
    assert "learned with" not in warnings("spike-trained", right)
    assert f"learned with {spikes} neurons" in warnings("spike-trained", 1 - right)
    corrected = warnings("two-stage", right)
    assert "from which coarse, fine moves it away" in corrected
    assert "--recipe spike-trained" in corrected


@needs_torch
def test_a_network_that_did_not_learn_with_spikes_is_corrected_without_a_word() -> None:
    made = finetune(MLP, DATA, Schedule(timesteps=2, epochs=1))
    assert import_network(made.model).spikes is None
    assert not [w for w in compile_model(made.model, x, timesteps=2).warnings if "learned" in w]


@pytest.mark.parametrize("note", ["", "[]", '{"spikes": 3}', "[" * 100_000, '{"spikes": "odd"}'])
def test_a_strange_note_is_ignored(note: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(MLP)
    model.metadata_props.add(key=FINETUNED, value=note)
    assert import_network(model).spikes is None


@needs_torch
def test_unknown_neurons_are_refused() -> None:
    with pytest.raises(InputError, match="no neurons 'graded' to train"):
        finetune(MLP, DATA, Schedule(timesteps=2, spikes="graded"))


@needs_torch
def test_the_command_trains_with_spikes(tmp_path: Path) -> None:
    onnx.save(MLP, tmp_path / "m.onnx")
    np.savez(tmp_path / "train.npz", x=x)
    arguments = ["finetune", str(tmp_path / "m.onnx"), "--train", str(tmp_path / "train.npz")]
    more = ["-T", "2", "--epochs", "1", "--spikes", "ternary", "--json", str(tmp_path / "r.json")]
    more += ["--teacher", str(tmp_path / "m.onnx"), "--teacher", str(tmp_path / "m.onnx")]
    done = CliRunner().invoke(app, [*arguments, *more])
    assert done.exit_code == 0, done.stderr
    assert "--recipe spike-trained --set neurons.gamma_neg=1" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "r.json").read_text())["spikes"] == "ternary"
    assert import_network(tmp_path / "m.qc.onnx").spikes == "ternary"
