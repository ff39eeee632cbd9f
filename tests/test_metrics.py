"""Counting operations: by hand, and by brute force."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from backends import numpy_ops
from networks import ARCHITECTURES
from opcases import CASES
from runs import compiled, fresh
from snncompiler.artifact import simulate
from snncompiler.driver import import_network
from snncompiler.graph import WEIGHTED, attribute, constant, data_inputs, shape, weights
from snncompiler.metrics import (
    accuracy_at,
    agreement_at,
    connections,
    fan_out,
    macs,
    output_error_at,
    power_steps,
    synaptic_operations,
)
from snncompiler.ops import SPIKING
from snncompiler.record import record_of
from snncompiler.trace import Trace


def reached(node: ir.Node) -> np.ndarray:
    """By brute force: how many weights a spike of each input element meets."""
    dims = shape(data_inputs(node)[0])
    size = int(np.prod(dims))
    units = np.eye(size).reshape(size, *dims)
    settings = {
        a.name: list(a.value) if isinstance(a.value, tuple) else a.value
        for a in node.attributes.values()
    }
    settings.pop("kernel_shape", None)
    match node.op_type:
        case "Conv":
            y = numpy_ops.conv(units, np.ones(weights(node.inputs[1]).shape), **settings)
        case "ConvTranspose":
            y = numpy_ops.conv_transpose(units, np.ones(weights(node.inputs[1]).shape), **settings)
        case "Gemm":
            y = numpy_ops.gemm(units, np.ones(weights(node.inputs[1]).shape))
        case "MatMul":
            left = constant(node.inputs[0])
            ones = np.ones((left if left is not None else weights(node.inputs[1])).shape)
            y = ones @ units if left is not None else units @ ones
        case "Mul":
            index = 0 if constant(node.inputs[0]) is not None else 1
            y = units * np.ones(weights(node.inputs[index]).shape)
    return y.reshape(size, -1).sum(1).reshape(dims)


def synapses() -> dict[str, ir.Node]:
    """One synapse of each kind and shape among the test networks."""
    found = {}
    kinds = ("conv", "gemm", "matmul", "avgpool", "resize", "mul")
    for name in (n for n in CASES if n.startswith(kinds) and "opset" not in n):
        for node in import_network(CASES[name]()).model.graph:
            if node.op_type in WEIGHTED:
                names = ("strides", "pads", "dilations", "group", "output_padding")
                settings = [attribute(node, k) for k in names]
                sizes = [shape(v) for v in (data_inputs(node)[0], node.outputs[0])]
                found.setdefault(f"{node.op_type} {settings} {sizes}", (name, node))
    return {f"{name}-{node.name}": node for name, node in found.values()}


def test_fan_out_is_what_brute_force_counts_also_at_borders() -> None:
    nodes = synapses()
    assert len(nodes) > 100
    assert {n.op_type for n in nodes.values()} == WEIGHTED
    wrong = []
    for name, node in nodes.items():
        dims = shape(data_inputs(node)[0])
        expected = reached(node)
        if not np.array_equal(np.broadcast_to(fan_out(node), dims), expected):
            wrong.append(name)
        assert connections(node) == expected.sum(), name
    assert not wrong


@pytest.mark.parametrize("name", ["mlp", "vgg_like", "residual", "inception", "depthwise"])
def test_one_spike_of_every_neuron_costs_the_macs_of_the_layer(name: str) -> None:
    model = compiled(ARCHITECTURES[name](), 0, timesteps=4).model
    ones = {
        str(n.name): np.ones(shape(n.outputs[0]), np.int64)
        for n in model.graph
        if n.op_type in SPIKING
    }
    spent = synaptic_operations(model, ones, timesteps=1, samples=1)
    by_name = {str(n.name): n for n in model.graph}
    assert spent == {k: float(connections(by_name[k])) for k in spent}
    # Only what the constant input current goes through is not counted: it is computed once.
    static = [n for n in model.graph if n.op_type in WEIGHTED and n.name not in spent]
    assert sum(spent.values()) == macs(model) - sum(map(connections, static))
    assert static


def test_operations_count_every_spike_and_every_sample() -> None:
    network = compiled(ARCHITECTURES["mlp"](), 0, timesteps=5)
    x = fresh(ARCHITECTURES["mlp"](), 0, 3)
    trace = simulate(network.model, x)
    spent = synaptic_operations(network.model, trace.counts, trace.timesteps, trace.samples)
    layers = ["relu1", "relu2", "relu3"]
    widths = [24, 16, 10]
    expected = [trace.counts[k].sum() * w / 3 for k, w in zip(layers, widths, strict=True)]
    assert list(spent.values()) == pytest.approx(expected)
    assert trace.firing_rate() == {k: pytest.approx(trace.counts[k].mean() / 15) for k in layers}


@pytest.mark.parametrize("name", ["vgg_like", "inception"])
def test_both_forms_cost_the_same_operations(name: str) -> None:
    model = ARCHITECTURES[name]()
    x, options = fresh(model, 0), {"grid.enabled": False}
    spent = []
    for form in ("physical", "normalised"):
        given = options if form == "normalised" else {}
        network = compiled(model, 0, timesteps=4, form=form, options=given).model
        trace = simulate(network, x)
        spent.append(synaptic_operations(network, trace.counts, 4, len(x)))
    assert spent[0] == spent[1]


def test_macs_of_the_trained_network_are_counted_by_hand() -> None:
    network = compiled(ARCHITECTURES["mlp"](), 0)
    assert record_of(network.model)["ann_macs"] == 20 * 32 + 32 * 24 + 24 * 16 + 16 * 10
    assert network.synapses == record_of(network.model)["ann_macs"]
    assert network.neurons == 32 + 24 + 16


def test_accuracy_agreement_and_error_over_time() -> None:
    readout = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 3.0], [0.0, 4.0]]])
    trace = Trace(2, 2, (1, 2), {"y": readout}, {})
    assert accuracy_at(trace, np.array([0, 1])) == {"1": 0.5, "2": 0.5}
    ann = np.array([[0.0, 3.0], [0.0, 4.0]])
    assert agreement_at(trace, ann) == {"1": 0.0, "2": 1.0}
    assert agreement_at(trace, ann[:, :1]) == {}
    assert output_error_at(trace, {"y": ann}) == {"1": pytest.approx(np.sqrt(26) / 5), "2": 0.0}


def test_steps_are_the_powers_of_two_and_the_last() -> None:
    assert power_steps(1) == (1,)
    assert power_steps(8) == (1, 2, 4, 8)
    assert power_steps(12) == (1, 2, 4, 8, 12)
