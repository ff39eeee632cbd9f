"""Operation counts: by hand, by brute force, and the energy that is estimated from them."""

from __future__ import annotations

import math

import numpy as np
import onnx.parser
import pytest

import networks
from backends.reference import NumpyBackend
from runs import calibration, fresh
from snncompiler.artifact import simulate
from snncompiler.driver import compile_model
from snncompiler.energy import estimate
from snncompiler.graph import attribute, constant, data_inputs, shape
from snncompiler.operations import Operations, count, is_synapse
from snncompiler.ops import NEURONS
from snncompiler.record import record_of
from snncompiler.trace import Observe

TINY = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N,2] x) => (float[N,1] y)
<float[2,2] w1 = {1, 0, 0, 1}, float[1,2] w2 = {1, 0}, float[1] b2 = {0.5}>
{
  [first] h = Gemm <transB = 1> (x, w1)
  [relu] a = Relu (h)
  [last] y = Gemm <transB = 1> (a, w2, b2)
}
"""


def test_a_network_small_enough_to_count_by_hand() -> None:
    # The thresholds are 2; for currents (2, 0) the first neuron fires always, the second never.
    source = onnx.parser.parse_model(TINY)
    x = np.array([[2.0, 2.0], [2.0, 0.0]], np.float32)
    model = compile_model(source, x, timesteps=4, recipe="max-norm").model
    found = count(model, x[1:], 4)
    assert (found.timesteps, found.samples, found.neurons) == (4, 1, 2)
    assert found.dense == 4 + 4 * 2  # the first synapse once, the second at every step
    assert found.effective_macs == 1  # one image value is not zero, it meets one weight
    first, last = found.synapses
    assert (first.effective_macs, first.effective_acs) == (1, 0)
    assert (last.effective_macs, last.effective_acs) == (0, 4)
    assert found.connection_sparsity == 3 / 6
    assert found.activation_sparsity == 0.5
    assert found.spikes == 4
    assert found.synaptic_operations == 4
    assert found.macs_once == 4
    # At the first step all are updated; later neither potential differs: 0 + 1 - 1 = 0.
    assert found.membrane_updates == 2


@pytest.mark.parametrize(
    ("seed", "recipe"), [(0, "binary"), (1, "graded"), (2, "ternary"), (3, "spicalib")]
)
def test_counts_on_random_networks_are_those_of_a_brute_force_counter(
    seed: int, recipe: str
) -> None:
    source = networks.random_dag(seed)
    x, steps = fresh(source, seed, 2), 3
    model = compile_model(source, calibration(source, seed), timesteps=steps, recipe=recipe).model
    found = count(model, x, steps)
    macs, acs, dense = brute_force(model, x, steps)
    assert found.effective_macs == pytest.approx(macs)
    assert found.effective_acs == pytest.approx(acs)
    assert found.dense == pytest.approx(dense)
    layers = [str(n.name) for n in model.graph if n.op_type in NEURONS]
    trace = simulate(model, x, steps, observe=Observe(spikes=True, membranes=True))
    trains = [trace.trains[k] for k in layers]
    silent = sum(int((t == 0).sum()) for t in trains) / sum(t.size for t in trains)
    assert found.activation_sparsity == pytest.approx(silent)
    assert found.spikes * len(x) == sum(int(np.abs(t).sum()) for t in trains)
    moved = sum(
        int((v[1:] != v[:-1]).sum()) + v[0].size for v in (trace.membranes[k] for k in layers)
    )
    assert found.membrane_updates * len(x) == moved


def brute_force(model: object, x: np.ndarray, steps: int) -> tuple[float, float, float]:
    """Every synapse of every step as a matrix, whose non-zeros are counted one by one."""
    program = NumpyBackend().build(model)  # type: ignore[arg-type]
    macs = acs = dense = 0.0
    static = set(program.network.static)
    matrices = {
        n: matrix(n) for n in (*program.network.static, *program.network.steps) if is_synapse(n)
    }
    for t, values, _states in program.steps(x, steps):
        for node, (weight, everything) in matrices.items():
            if node in static and t > 1:
                continue
            for row in values[data_inputs(node)[0]]:
                met = float((weight * (row.reshape(-1) != 0)).sum())
                dense += float(everything.sum())
                if np.isin(row, (-1, 0, 1)).all():
                    acs += met
                else:
                    macs += met
    return macs / len(x), acs / len(x), dense / len(x)


def matrix(node: object) -> tuple[np.ndarray, np.ndarray]:
    """How many non-zero weights, and how many at all, each input element meets: by impulses."""
    from backends import numpy_ops

    dims = shape(data_inputs(node)[0])  # type: ignore[arg-type]
    size = int(np.prod(dims))
    units = np.eye(size).reshape(size, *dims)
    names = {"Conv": ("strides", "pads", "dilations", "group")}
    names["ConvTranspose"] = (*names["Conv"], "output_padding")
    settings = {k: attribute(node, k) for k in names.get(node.op_type, ())}  # type: ignore
    index = 0 if constant(node.inputs[0]) is not None else 1  # type: ignore[attr-defined]
    w = constant(node.inputs[index])  # type: ignore[attr-defined]
    assert w is not None
    result = []
    for binary in ((w != 0).astype(float), np.ones(w.shape)):
        match node.op_type:  # type: ignore[attr-defined]
            case "Conv":
                y = numpy_ops.conv(units, binary, **settings)
            case "ConvTranspose":
                y = numpy_ops.conv_transpose(units, binary, **settings)
            case "Gemm":
                y = units @ binary.T
            case "MatMul":
                y = units @ binary if index else binary @ units
            case "Mul":
                y = units * binary
        result.append(y.reshape(size, -1).sum(1))
    return result[0], result[1]


def counted(**changes: float) -> Operations:
    numbers = dict.fromkeys(Operations.__annotations__, 0.0)
    return Operations(**{**numbers, "synapses": [], **changes})  # type: ignore[arg-type]


def test_energy_is_what_its_formulas_say() -> None:
    run = counted(timesteps=15, synaptic_operations=1000.0, macs_once=100.0, membrane_updates=50.0)
    energy = estimate(run, ann_macs=600)
    papers, memory = energy.estimates
    assert papers.ann == pytest.approx(600 * 4.6e-6)
    assert papers.snn == pytest.approx((1000 * 0.9 + 100 * 4.6) * 1e-6)
    assert memory.ann == pytest.approx(600 * 14.6e-6)
    assert memory.snn == pytest.approx((1000 * 15.9 + 100 * 14.6 + 50 * 10) * 1e-6)
    assert papers.ratio == pytest.approx(1360 / 2760)
    assert energy.break_even.bits == 4  # 16 levels
    assert energy.break_even.spent == 2
    assert energy.break_even.without_memory == pytest.approx(2)
    assert energy.break_even.with_memory == pytest.approx((0.2 + 5 * 12 / 32) / (0.1 + 5 * 72 / 32))
    assert energy.as_json()["label"] == "estimates, not measurements"
    assert "Horowitz" in papers.source
    assert math.isinf(estimate(run, ann_macs=0).estimates[0].ratio)


def test_the_papers_count_agrees_with_run() -> None:
    from snncompiler.data import Samples
    from snncompiler.evaluation import evaluate

    source = networks.vgg_like()
    model = compile_model(source, calibration(source, 0), timesteps=4).model
    x = fresh(source, 0, 3)
    run = evaluate(model, Samples(x, None))
    found = count(model, x, 4)
    total = found.synaptic_operations + found.analog_operations
    assert total == pytest.approx(run.synaptic_operations["total"])
    assert found.spikes == pytest.approx(run.spikes_per_sample)
    first = [s for s in found.synapses if s.static]
    assert found.macs_once == sum(s.dense for s in first) > 0
    assert found.macs_once < int(str(record_of(model)["ann_macs"]))
