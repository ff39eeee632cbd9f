"""Outputs computed side by side spike as one by one, in every setting of a convolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto

from backends.event import crew
from backends.event.int8 import to_int8
from backends.event.populations import Neurons
from backends.event.program import EventBackend
from backends.event.spikes import Spikes
from backends.event.stages import Synapses
from backends.event.stretch import Stretch
from backends.reference import NumpyBackend
from networks import Net
from runs import SPIKES, compiled, differences, fresh

T = 6


def convolutions(channels: int, **settings: object) -> ModelProto:
    """Two of them, on a map of 16 columns."""
    net = Net(channels)
    x = net.conv_relu(net.input(3, 10, 16), channels)
    x = net.conv_relu(x, channels, **settings)  # type: ignore[arg-type]
    return net.model(net.head(net.conv_relu(x, channels, 3)))


def residual(channels: int) -> ModelProto:
    """A shortcut passed on as it is, then one that is projected."""
    net = Net(channels)
    x = net.conv_relu(net.input(3, 8, 16), channels)
    y = net.conv_relu(x, channels)
    x = net.relu(net.add(net.conv(y, channels), x))
    y = net.conv_relu(x, channels, strides=2)
    return net.model(net.head(net.relu(net.add(net.conv(y, 32), net.conv(x, 32, 1, strides=2)))))


def rows(channels: int) -> ModelProto:
    """Convolutions along one axis."""
    net = Net(channels)
    x = net.conv_relu(net.input(4, 24), channels)
    return net.model(net.head(net.conv_relu(x, channels, 5)))


NETWORKS: dict[str, tuple[Callable[[], ModelProto], set[int]]] = {
    "16": (lambda: convolutions(16), {4}),
    "32": (lambda: convolutions(32), {2}),
    "48": (lambda: convolutions(48), {2}),
    "64": (lambda: convolutions(64), {2}),
    "kernel 1": (lambda: convolutions(16, kernel=1), {4}),
    "kernel 5 x 2": (lambda: convolutions(16, kernel=(2, 5)), {4}),
    "stride 2": (lambda: convolutions(16, strides=2), {4}),
    "stride 3 x 1": (lambda: convolutions(32, strides=(3, 1)), {2}),
    "stride beyond the kernel": (lambda: convolutions(16, kernel=1, strides=2), {4}),
    "rows far apart": (lambda: convolutions(16, dilations=(2, 1)), {4}),
    "14 columns": (lambda: convolutions(16, pads=[1, 0, 1, 0]), {2}),
    "odd width": (lambda: convolutions(16, pads=[1, 1, 1, 0]), set()),
    "residual": (lambda: residual(16), {2, 4}),
    "residual of 48": (lambda: residual(48), {2}),
    "1-D": (lambda: rows(16), {4}),
}


def spikes(
    model: ir.Model,
    x: np.ndarray,
    n: int,
    monkeypatch: pytest.MonkeyPatch,
    precision: str = "exact",
) -> set[str]:
    """Layers that spike otherwise than by definition, n outputs at a time; 'never': nowhere."""
    taken = []

    def way(self: Neurons, _: Stretch) -> Synapses:
        found = [w for w in self.ways if w.total.abreast == n and self.sums]
        taken.extend(found)
        return (found or self.ways)[0]

    monkeypatch.setattr(Neurons, "_way", way)
    given = to_int8(model) if precision == "int8" else model
    expected = NumpyBackend().build(given).run(x, T, SPIKES)
    found = EventBackend(threads=2, precision=precision).build(model).run(x, T, SPIKES)
    wrong = set(differences(expected, found))
    return wrong | (set() if taken else {"never"})


@pytest.mark.parametrize("recipe", ["binary", "graded", "ternary"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_side_by_side_spike_as_one_by_one(
    name: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "WORTH", 0.0)  # small networks, too, are cut up for two threads
    build, ways = NETWORKS[name]
    model = build()
    network = compiled(model, 1, recipe=recipe, timesteps=T).model
    x = fresh(model, 1, 3)
    for n in (2, 4):
        assert spikes(network, x, n, monkeypatch) == (set() if n in ways else {"never"}), n


@pytest.mark.parametrize("name", ["16", "48", "residual"])
def test_so_they_do_with_weights_of_8_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, ways = NETWORKS[name]
    model = build()
    network = compiled(model, 1, timesteps=T).model
    for n in ways:
        assert not spikes(network, fresh(model, 1, 3), n, monkeypatch, "int8")


@pytest.mark.parametrize("settings", [{"dilations": (1, 2)}, {"group": 2}])
def test_what_cannot_be_side_by_side_is_computed_one_by_one(settings: dict[str, object]) -> None:
    network = compiled(convolutions(16, **settings), 1, timesteps=T).model
    stages = EventBackend().build(network).stages
    ways = [len(s.ways) for s in stages if isinstance(s, Neurons)]
    assert ways == [1, 1, 2]


@pytest.mark.parametrize(
    ("channels", "columns", "n"), [(16, 16, 8), (48, 16, 2), (64, 15, 2), (64, 13, 1), (20, 16, 1)]
)
def test_neurons_of_a_steady_current_fill_vectors(channels: int, columns: int, n: int) -> None:
    net = Net(channels)
    x = net.conv_relu(net.input(3, 5 if columns == 13 else 10, columns), channels)
    model = net.model(net.head(x))
    network = compiled(model, 1, recipe="ternary", timesteps=T).model
    program = EventBackend().build(network)
    first = next(s for s in program.stages if isinstance(s, Neurons))
    assert [w.total.abreast for w in first.ways] == [n]
    x = fresh(model, 1, 3)
    expected = NumpyBackend().build(network).run(x, T, SPIKES)
    assert not differences(expected, program.run(x, T, SPIKES))


def test_activity_decides() -> None:
    """At few events, windows cost; at many, rows of zeros do."""
    network = compiled(convolutions(64), 1, timesteps=T).model
    program = EventBackend().build(network)
    last = next(s for s in reversed(program.stages) if isinstance(s, Neurons))
    assert [w.total.abreast for w in last.ways] == [1, 2]
    source = last.current.connections[0].source
    for rate, n in ((0.01, 2), (0.3, 1)):
        now = Stretch(4, 0, T, T, program.dtype, {}, {}, {}, program.plan.units)
        x = np.random.default_rng(1).random((4, T, 160, 64)) < rate
        now.spikes[source] = Spikes(x.astype(np.int8))
        assert last._way(now).total.abreast == n
