"""A trained VGG on CIFAR-10: the main job, on real images."""

from __future__ import annotations

import numpy as np
import pytest

from backends.event.program import EventBackend
from backends.onnx_runtime import OnnxRuntimeBackend
from backends.reference import NumpyBackend
from runs import SPIKES, VGG, cifar10, differences, real_data, vgg, vgg_group
from snncompiler.driver import import_network
from snncompiler.metrics import accuracy_at, top1
from snncompiler.record import record_of
from snncompiler.trace import Observe

pytestmark = [real_data, vgg_group]


def test_the_vgg_is_proven_exact() -> None:
    network = vgg()
    assert record_of(network.model)["gridded"] is True
    assert network.warnings == []


@pytest.mark.parametrize("recipe", ["binary", "burst-lipool"])
def test_every_backend_sends_the_same_spikes(recipe: str) -> None:
    model = vgg(recipe).model
    x, _ = cifar10("test", 4)
    expected = NumpyBackend(np.float64).build(model).run(x, 16, SPIKES)
    assert not differences(expected, NumpyBackend(np.float32).build(model).run(x, 16, SPIKES))
    for threads in (1, 2):
        runtime = OnnxRuntimeBackend(optimise=True, threads=threads).build(model)
        found = runtime.run(x, 16, SPIKES)
        assert not differences(expected, found), threads
        for name, readout in expected.readout.items():
            np.testing.assert_array_equal(readout.astype(np.float32), found.readout[name])
    alone = NumpyBackend().build(model).run(x[3:4], 16, SPIKES)
    for layer, train in alone.trains.items():
        np.testing.assert_array_equal(train, expected.trains[layer][:, 3:4])


def test_the_default_recipe_keeps_the_accuracy() -> None:
    x, y = cifar10("test", 200)
    (logits,) = import_network(VGG).outputs(x)
    ann = float((top1(logits) == y).mean())
    trace = EventBackend().build(vgg().model).run(x, 32, Observe(steps=(32,)))
    accuracy = accuracy_at(trace, y)
    assert ann >= 0.8
    assert accuracy["32"] >= ann - 0.03, (accuracy, ann)
