"""The whole product in about a second: a file in, a spiking file out, run, reported."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from rich.console import Console

from snncompiler.artifact import load, simulate
from snncompiler.data import Samples
from snncompiler.driver import Compiled, compile_model
from snncompiler.evaluation import evaluate
from snncompiler.report import compiled_table, run_table

TINY = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N,1,4,4] image) => (float[N,2] logits)
<float[2,1,1,1] w = {1, -1}, float[2] b = {0.25, 0.25}, float[2,2] v = {1, -1, -1, 1}>
{
  [conv] c = Conv <kernel_shape = [1, 1]> (image, w, b)
  [relu] r = Relu (c)
  [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
  [mean] m = GlobalAveragePool (p)
  [flat] f = Flatten (m)
  [head] logits = Gemm <transB = 1> (f, v)
}
"""
T = 16
x = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(onnx.parser.parse_model(TINY), path)
    return path


@pytest.fixture(scope="module")
def compiled(source: Path) -> Compiled:
    return compile_model(source, x, timesteps=T, output=source.with_suffix(".snn.onnx"))


def test_the_artifact_is_a_valid_onnx_file(compiled: Compiled) -> None:
    onnx.checker.check_model(compiled.output, full_check=True)
    assert compiled.neurons == 32
    assert compiled.warnings == []


def test_both_backends_give_the_same_spikes_and_the_file_the_same_readout(
    compiled: Compiled,
) -> None:
    assert compiled.output is not None
    by_numpy, by_runtime = (
        simulate(compiled.output, x, backend=b) for b in ("numpy", "onnxruntime")
    )
    assert by_numpy.counts.keys() == by_runtime.counts.keys() == {"relu", "pool"}
    for layer, counts in by_numpy.counts.items():
        np.testing.assert_array_equal(counts, by_runtime.counts[layer])
    np.testing.assert_array_equal(by_numpy.output, by_runtime.output)
    # And without any of our code: a stock runtime, the file, two inputs.
    runner = onnxruntime.InferenceSession(
        compiled.output.read_bytes(), providers=["CPUExecutionProvider"]
    )
    (logits,) = runner.run(None, {"image": x, "T": np.array([T])})
    np.testing.assert_array_equal(by_numpy.output, logits)


def test_the_spiking_network_comes_close_to_the_trained_one(
    source: Path, compiled: Compiled
) -> None:
    runner = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    (logits,) = runner.run(None, {"image": x})
    data = Samples(x, logits.argmax(1))
    result = evaluate(load(compiled.output), data, reference=source)
    assert result.accuracy_at[str(T)] == result.agreement_at[str(T)] >= 7 / 8
    assert result.output_error_at[str(T)] < 0.2
    assert result.ann_accuracy == 1
    assert 0 < result.firing_rate["relu"] < 1
    assert list(result.as_json()["accuracy_at"]) == ["1", "2", "4", "8", "16"]


def test_it_can_be_reported(source: Path, compiled: Compiled) -> None:
    model = load(compiled.output)
    evaluation = evaluate(model, Samples(x, None), reference=source)
    console = Console(record=True, width=120, file=StringIO())
    console.print(compiled_table(compiled), run_table(evaluation, model))
    text = console.export_text()
    for expected in ("grid", "32 neurons", "agrees with ANN", "relu", "synaptic operations"):
        assert expected in text
    json.dumps([compiled.as_json(), evaluation.as_json()])
