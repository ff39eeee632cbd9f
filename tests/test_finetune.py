"""Stage I: what training makes, and what it refuses. Without torch most of it is skipped."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16
from onnx import numpy_helper
from rich.console import Console
from typer.testing import CliRunner

import networks
from snncompiler import finetuning
from snncompiler.ann import run
from snncompiler.cli import app
from snncompiler.data import Samples
from snncompiler.diagnostics import InputError
from snncompiler.driver import check_model, compile_model, import_network
from snncompiler.finetune.kernels import quantise, quantise_backward
from snncompiler.finetune.schedule import Schedule
from snncompiler.finetuning import finetune
from snncompiler.graph import ACTIVATIONS, set_scale, shape
from snncompiler.report import finetuned_table

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
MLP = networks.mlp(0)
x = networks.sample_input(MLP, 160, 0)
DATA = Samples(x, import_network(MLP).outputs(x)[0].argmax(1))
QUICK = {"timesteps": 3, "epochs": 2, "batch": 32, "noise": 0.2}


@needs_torch
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_the_activation_has_the_gradients_that_it_says(slope: float) -> None:
    import torch

    from snncompiler.finetune.activation import QuantiseClip

    r, t = np.random.default_rng(0), 4
    low = -1.0 if slope else 0.0
    z = torch.tensor(r.normal(0, 2, (6, 3, 5)), requires_grad=True)
    theta = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    f = torch.where(z > 0, z, slope * z) if slope else z
    y = QuantiseClip.apply(f, theta, t, low, 0.0, None)
    value, level = f.detach().numpy(), theta.detach().numpy()
    q = np.floor(value * t / level + 0.5) / t
    np.testing.assert_allclose(y.detach().numpy(), level * np.clip(q, low, 1))
    g = r.standard_normal(y.shape)
    (y * torch.tensor(g)).sum().backward()
    inside = (q >= low) & (q <= 1)
    rise = np.where(value > 0, 1, slope) if slope else 1
    np.testing.assert_allclose(z.grad.numpy(), g * inside * rise)
    by_theta = np.where(inside, q - value / level, np.where(q > 1, 1, low))
    np.testing.assert_allclose(theta.grad.numpy()[:, 0], (g * by_theta).sum((0, 2)))
    noisy = QuantiseClip.apply(f, theta, t, low, 1.0, None).detach().numpy()
    np.testing.assert_allclose(noisy, np.clip(value, low * level, level))


@needs_torch
@pytest.mark.parametrize(
    "make",
    [networks.vgg_like, networks.residual, networks.depthwise, networks.inception, networks.fpn],
)
def test_the_torch_module_computes_what_the_network_does(make) -> None:
    import torch

    from snncompiler.finetune.network import TorchNetwork

    model = make(0)
    network = import_network(model)
    for node in network.model.graph:
        if node.op_type in ACTIVATIONS:
            set_scale(node.outputs[0], np.full(shape(node.outputs[0])[0], 1.0))
    samples = networks.sample_input(model, 3, 0)
    with torch.no_grad():
        plain = TorchNetwork(network.model, None)(torch.from_numpy(samples))
    for found, wanted in zip(plain, network.outputs(samples), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    averages = sum(n.op_type == "Conv" and len(n.inputs) < 3 for n in network.model.graph)
    module = TorchNetwork(network.model, 4)
    synapses = sum(n.op_type in ("Conv", "Gemm", "ConvTranspose") for n in network.model.graph)
    assert len(module.weights) <= 2 * (synapses - averages)
    assert len(module.thresholds) > 0


@pytest.mark.parametrize("kept", [np.float32, bfloat16])
@pytest.mark.parametrize("lowest", [0, -1])
@pytest.mark.parametrize("share", [0, 64])
def test_kernels_compute_the_activation(kept: type, lowest: int, share: int) -> None:
    """In numbers of few binary digits, which leave nothing to be rounded but the results."""
    r = np.random.default_rng(0)
    f, g = r.integers(-40, 64, (19, 37)) / 16, r.integers(-8, 9, (19, 37)) / 8
    theta = 2.0 ** r.integers(-1, 2, 37)
    chance = r.integers(0, 256, f.shape, np.uint8) if share else np.zeros((1, 37), np.uint8)
    x = f / theta
    q = np.where(chance < share, x, np.floor(x * 4 + 0.5) / 4)
    inside = (q >= lowest) & (q <= 1)
    by_theta = (g * (q.clip(lowest, 1) - x * inside)).sum(0)

    def bits(x: np.ndarray) -> np.ndarray:
        x = x.astype(kept)
        return x if kept is np.float32 else x.view(np.uint16)

    settings = (
        theta.astype(np.float32),
        np.float32(4),
        np.float32(lowest),
        chance,
        np.int32(share),
    )
    y, by_f, parts = bits(f), bits(f), np.ones((3, 37), np.float32)
    quantise(bits(f), *settings, y)
    quantise_backward(bits(f), *settings, bits(g), by_f, parts)
    for found, wanted in ((y, theta * q.clip(lowest, 1)), (by_f, g * inside)):
        np.testing.assert_array_equal(found.view(kept).astype(float), wanted.astype(kept))
    np.testing.assert_array_equal(parts.sum(0), by_theta)


@needs_torch
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dims", [(6, 3, 5, 4), (6, 3, 7), (6, 3), (6, 3, 2, 3, 2)])
def test_kernels_and_operations_of_torch_agree(dims: tuple[int, ...], last: bool) -> None:
    """Whatever the order in memory, and however many axes there are; one threshold or more."""
    import torch

    from snncompiler.finetune.activation import QuantiseClip
    from snncompiler.finetune.on_cpu import QuantiseClipOnCpu, has_kernels

    r = np.random.default_rng(0)
    levels = torch.tensor([0.5, 1.0, 2.0]).reshape(-1, *[1] * (len(dims) - 2))
    for theta in (levels, torch.tensor([0.5])):
        f, g = (torch.tensor(r.integers(-20, 40, dims) / 16) for _ in range(2))
        if last:  # channels
            f = f.movedim(1, -1).contiguous().movedim(-1, 1)
        assert has_kernels(f.float())
        assert not has_kernels(f)
        made = []
        for kernel, kind in ((QuantiseClipOnCpu, torch.float32), (QuantiseClip, torch.float64)):
            x, level = (v.detach().to(kind).requires_grad_() for v in (f, theta))
            y = kernel.apply(x, level, 4, -1.0, 0.0, None)
            y.backward(g.to(kind))
            made.append([v.double() for v in (y, x.grad, level.grad)])
        for a, b in zip(*made, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@needs_torch
@pytest.mark.parametrize("kernels", [False, True])
def test_noise_leaves_its_share_unrounded(kernels: bool) -> None:
    import torch

    from snncompiler.finetune.activation import QuantiseClip
    from snncompiler.finetune.on_cpu import QuantiseClipOnCpu

    activation = QuantiseClipOnCpu if kernels else QuantiseClip

    f, theta = torch.full((50, 3, 41), 0.3), torch.ones(1)
    y = activation.apply(f, theta, 2, 0.0, 0.25, torch.Generator().manual_seed(0))
    assert set(y.flatten().tolist()) == {f[0, 0, 0].item(), 0.5}
    assert (y == f).float().mean().item() == pytest.approx(0.25, abs=0.02)
    first = (y == f).flatten()[: 6150 // 8 * 8].reshape(-1, 8).float().mean(0)
    np.testing.assert_allclose(first, 0.25, atol=0.06)


@needs_torch
@pytest.mark.parametrize("half", [False, True])
def test_training_lowers_the_loss_and_compile_keeps_its_thresholds(half: bool) -> None:
    settings = {**QUICK, "epochs": 8, "rate": 0.1, "timesteps": 2, "half": half}
    made = finetune(MLP, DATA, Schedule(**settings))
    assert made.history[-1]["loss"] < 0.9 * made.history[0]["loss"]
    assert made.history[-1]["held_out_loss"] < made.before["held_out_loss"]
    assert check_model(made.model).convertible
    compiled = compile_model(made.model, x, recipe="two-stage", timesteps=2)
    wanted = [np.unique(np.float32(t)) for t in made.thresholds.values()]
    found = [np.unique(np.float32(t)) for t in compiled.thresholds.values()]
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@needs_torch
def test_gradients_are_held_to_a_share_of_the_weights() -> None:
    import torch

    from snncompiler.finetune.training import limit_gradients

    layer = torch.nn.Linear(2, 3)
    layer.weight.data = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    layer.bias.data = torch.tensor([0.0, 6.0, 8.0])
    layer.weight.grad = torch.full((3, 2), 2**-0.5)  # of norm 1 in every channel
    layer.bias.grad = torch.tensor([0.03, 0.0, 0.04])
    limit_gradients(layer)
    norms = layer.weight.grad.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.05, 0.5, 1e-5]))
    torch.testing.assert_close(layer.bias.grad, torch.tensor([0.03, 0.0, 0.04]))


@needs_torch
def test_a_training_that_harms_says_so() -> None:
    def printed(rate: float) -> str:
        schedule = Schedule(**{**QUICK, "rate": rate}, distill=True)
        made = finetune(MLP, DATA, schedule)
        assert made.harmed == (made.history[-1]["held_out_loss"] > made.before["held_out_loss"])
        console = Console(file=StringIO(), width=200)
        console.print(finetuned_table(made))
        return console.file.getvalue()

    assert "worse than before" in printed(10.0)
    assert "worse than before" not in printed(0.05)


def leaky() -> onnx.ModelProto:
    net = networks.Net(0)
    x = net.op("LeakyRelu", net.conv(net.input(2, 6, 6), 4), alpha=0.1)
    x = net.op("PRelu", net.conv(net.pool(x, 2), 4), net.uniform(0, 0.4, 4, 1, 1))
    return net.model(net.head(x, 3))


@needs_torch
@pytest.mark.parametrize("make", [leaky, networks.fpn, networks.depthwise])
def test_networks_of_every_kind_are_trained_and_compiled(make) -> None:
    model = make()
    given = networks.sample_input(model, 80, 0)
    made = finetune(model, Samples(given, None), Schedule(timesteps=4, epochs=1, distill=True))
    compiled = compile_model(made.model, given[:40], recipe="two-stage", timesteps=4)
    assert len(compiled.thresholds) == len(made.thresholds)


@needs_torch
@pytest.mark.parametrize("how", [{}, {"distill": True}, {"spikes": "binary"}])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, how: dict[str, object]
) -> None:
    schedule = Schedule(**QUICK, **how)
    whole = finetune(MLP, DATA, schedule, output=tmp_path / "a.onnx")
    again = finetune(MLP, DATA, schedule)
    assert again.model.SerializeToString() == whole.model.SerializeToString()

    class Enough(Exception):
        pass

    def stop(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 7:
            raise Enough

    checkpoint = tmp_path / "c.pt"
    with pytest.raises(Enough):
        finetune(MLP, DATA, schedule, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    resumed = finetune(MLP, DATA, schedule, checkpoint=checkpoint)
    assert resumed.model.SerializeToString() == whole.model.SerializeToString()
    assert resumed.history == whole.history
    with pytest.raises(InputError, match="no checkpoint of this training"):
        finetune(MLP, DATA, Schedule(**{**QUICK, "seed": 1}), checkpoint=checkpoint)
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(InputError, match="no checkpoint of this training"):
        finetune(MLP, DATA, schedule, checkpoint=checkpoint)


@needs_torch
def test_another_network_can_teach() -> None:
    schedule = Schedule(**{**QUICK, "epochs": 8, "rate": 0.05}, distill=True)
    other = networks.mlp(1)
    own, same, taught = (
        finetune(MLP, DATA, schedule, teachers=teachers) for teachers in ([], [MLP], [other])
    )
    assert own.model.SerializeToString() == same.model.SerializeToString()

    def distance(model: onnx.ModelProto) -> float:
        found, wanted = (run(m, x)[m.graph.output[0].name] for m in (model, other))
        return float(np.abs(found - wanted).mean())

    assert distance(taught.model) < distance(own.model)
    assert taught.history[-1]["held_out_loss"] < taught.before["held_out_loss"]
    with pytest.raises(InputError, match="the teacher does not fit"):
        finetune(MLP, DATA, schedule, teachers=[networks.vgg_like(0)])
    with pytest.raises(InputError, match="nothing to teach"):
        finetune(MLP, DATA, Schedule(**QUICK), teachers=[other])


@needs_torch
def test_of_several_teachers_the_mean_is_learned() -> None:
    schedule = Schedule(**QUICK, distill=True)
    once, twice, thrice = (louder(networks.mlp(1), by) for by in (1, 2, 3))
    both = finetune(MLP, DATA, schedule, teachers=[once, thrice])
    mean = finetune(MLP, DATA, schedule, teachers=[twice])
    assert both.before == pytest.approx(mean.before, rel=1e-4)
    assert both.history[0] == pytest.approx(mean.history[0], rel=1e-3)
    alone = finetune(MLP, DATA, schedule, teachers=[once])
    assert alone.before["held_out_loss"] != pytest.approx(both.before["held_out_loss"], rel=0.1)


def louder(model: onnx.ModelProto, by: int) -> onnx.ModelProto:
    """The network with its outputs multiplied."""
    last = model.graph.node[-1]
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            tensor.CopyFrom(
                numpy_helper.from_array(by * numpy_helper.to_array(tensor), tensor.name)
            )
    return model


@needs_torch
def test_every_teacher_that_does_not_fit_is_named() -> None:
    schedule = Schedule(**QUICK, distill=True)
    with pytest.raises(InputError) as refused:
        finetune(MLP, DATA, schedule, teachers=[networks.vgg_like(0), MLP, networks.depthwise(0)])
    assert [p.what for p in refused.value.problems] == [
        f"teacher {n} of 3 does not fit the network" for n in (1, 3)
    ]


@needs_torch
@pytest.mark.parametrize(
    ("data", "settings", "what"),
    [
        (Samples(x, None), {}, "no labels 'y'"),
        (Samples(x, np.full(160, 10)), {}, "the labels 'y' hold 10"),
        (Samples(x, np.full(160, -1)), {}, "the labels 'y' hold -1"),
        (Samples(x[:20], DATA.y[:20]), {}, "cannot train on 20 samples"),
        (Samples(x[:, :3], DATA.y), {}, r"have shape \[160, 3\]"),
        (DATA, {"epochs": 0}, "epochs = 0"),
        (DATA, {"rate": -1.0}, "rate = -1"),
        (DATA, {"noise": 1.5}, "noise = 1.5"),
        (DATA, {"timesteps": 0}, "timesteps = 0"),
        (DATA, {"thresholds": "pixel"}, "per 'pixel'"),
        (DATA, {"augment": True}, "cannot shift and mirror"),
        (DATA, {"distill": True, "cutmix": 0.5}, "cannot mix"),
        (DATA, {"cutmix": -0.5}, "cutmix = -0.5"),
    ],
)
def test_wrong_input_is_refused(data: Samples, settings: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        finetune(MLP, data, Schedule(**{**QUICK, "epochs": 3, **settings}))


def test_labels_do_not_tell_what_mixed_images_show() -> None:
    schedule = Schedule(timesteps=4, cutmix=0.5)
    with pytest.raises(InputError, match="cannot mix"):
        schedule.check((3, 8, 8))
    replace(schedule, distill=True).check((3, 8, 8))


@needs_torch
@pytest.mark.parametrize("settings", [{"augment": True}, {"cutmix": 0.5}])
def test_images_changed_at_random_are_learned(settings: dict[str, object]) -> None:
    model = networks.depthwise(0)
    images = Samples(networks.sample_input(model, 80, 0), None)
    schedule = Schedule(**QUICK, distill=True)
    plain, once, again = (
        finetune(model, images, s)
        for s in (schedule, *[replace(schedule, **settings)] * 2)  # type: ignore[arg-type]
    )
    assert once.before == plain.before
    assert once.history != plain.history
    assert once.history == again.history


@needs_torch
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_images_are_images_with_a_rectangle_of_the_one_before(share: float) -> None:
    import torch

    from snncompiler.finetune.augmentation import cut_and_mixed

    images = torch.arange(2000.0).reshape(-1, 1, 1, 1).expand(-1, 3, 12, 16)
    mixed = cut_and_mixed(images, share, torch.Generator().manual_seed(0))
    foreign = mixed != images
    assert (mixed[foreign] == ((images - 1) % 2000)[foreign]).all()
    assert (foreign == foreign[:, :1]).all()
    rows, columns = foreign[:, 0].any(2), foreign[:, 0].any(1)
    assert (foreign[:, 0] == rows[:, :, None] & columns[:, None]).all()
    for side in (rows, columns):  # no gap in them
        assert (side[:, 1:] > side[:, :-1]).sum(1).max() <= 1
    assert foreign.any((1, 2, 3)).float().mean() == pytest.approx(share, abs=0.05)
    assert foreign.float().mean() == pytest.approx(0.32 * share, abs=0.01)


@needs_torch
def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="device 'abacus'"):
        finetune(MLP, DATA, Schedule(**QUICK), device="abacus")


@needs_torch
def test_the_command_writes_a_network_that_compiles(tmp_path: Path) -> None:
    onnx.save(MLP, tmp_path / "m.onnx")
    np.savez(tmp_path / "train.npz", x=x)
    arguments = ["finetune", str(tmp_path / "m.onnx"), "--train", str(tmp_path / "train.npz")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "use --distill" in refused.stderr
    report = tmp_path / "r.json"
    more = ["--distill", "-T", "2", "--epochs", "1", "--thresholds", "layer", "--json", str(report)]
    done = CliRunner().invoke(app, [*arguments, *more])
    assert done.exit_code == 0, done.stderr
    told = json.loads(report.read_text())
    assert len(told["epochs"]) == 1
    assert told["before"]["held_out_loss"] > 0
    assert all(len(t) == 1 for t in told["thresholds"].values())
    assert import_network(tmp_path / "m.qc.onnx").quantisers == 3


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(MLP, tmp_path / "m.onnx")
    np.savez(tmp_path / "train.npz", x=DATA.x, y=DATA.y)
    monkeypatch.setattr(finetuning.importlib.util, "find_spec", lambda _name: None)
    arguments = ["finetune", str(tmp_path / "m.onnx"), "--train", str(tmp_path / "train.npz")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "snncompiler[train]" in done.stderr
