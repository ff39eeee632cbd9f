"""The commands that study a conversion, as a user types them, on the bundled digits network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import networks
from runs import calibration
from snncompiler.artifact import load, simulate
from snncompiler.cli import app
from snncompiler.comparison import compare
from snncompiler.data import Samples
from snncompiler.decomposition import CAUSES
from snncompiler.diagnostics import InputError
from snncompiler.driver import compile_model
from snncompiler.graph import add_constant, weights
from snncompiler.trace import Observe

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS, TRAIN, TEST = (MODELS / f"digits{end}" for end in (".onnx", "_train.npz", "_test.npz"))
RUNNER = CliRunner()


def snnc(*arguments: object, code: int = 0) -> Result:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.snn.onnx (T = 8), its dumps in ir/, and the JSON of its making."""
    made = tmp_path_factory.mktemp("digits")
    with np.load(TRAIN) as train:
        np.savez(made / "train.npz", x=train["x"][:200])
    snnc(
        *("compile", DIGITS, "--calibration", made / "train.npz", "--timesteps", 8, "--doctor"),
        *("-o", made / "digits.snn.onnx", "--dump-ir", made / "ir", "--json", made / "c.json"),
    )
    return made


def test_the_doctor_tells_the_same_in_a_table_and_in_json(folder: Path) -> None:
    order = ("doctor", DIGITS, folder / "digits.snn.onnx", TEST, "--limit", 20)
    told = json.loads(snnc(*order, "--json", "-").stdout)
    keys = "timesteps samples sites output_error accuracy ann_accuracy first cause also advice"
    assert set(told) == {*keys.split(), "warnings"}
    assert (told["timesteps"], told["samples"]) == (8, 20)
    for site in told["sites"]:
        assert set(site["parts"]) == set(CAUSES)
        assert sum(site["parts"].values()) == pytest.approx(site["error"], abs=1e-9)
    shown = snnc(*order).stdout
    assert f"first bad layer: {told['first']}, mostly {told['cause']}" in shown
    assert told["advice"] in shown
    assert all(site["name"] in shown for site in told["sites"])


def test_compile_calls_the_doctor_if_asked(folder: Path) -> None:
    told = json.loads((folder / "c.json").read_text())["doctor"]
    assert told["samples"] == 32
    assert told["accuracy"] is None
    assert [s["name"] for s in told["sites"]][:2] == ["relu1", "relu2"]


def test_the_doctor_refuses_what_it_cannot_use(folder: Path) -> None:
    snn = folder / "digits.snn.onnx"
    assert "not a spiking network" in snnc("doctor", DIGITS, DIGITS, TEST, code=2).output
    assert "cannot take 0 samples" in snnc("doctor", DIGITS, snn, TEST, "--limit", 0, code=2).output


def test_the_same_network_has_the_same_spikes_on_two_backends(folder: Path) -> None:
    snn = folder / "digits.snn.onnx"
    order = ("compare", snn, snn, TEST, "--limit", 10, "--other-backend", "onnxruntime")
    told = json.loads(snnc(*order, "--json", "-").stdout)
    assert told["same"]
    assert told["first"] is None
    assert told["labels"] == ["A on event", "B on onnxruntime"]
    assert all(layer["different"] == 0 < layer["entries"] for layer in told["layers"])
    assert set(told["agreement_at"].values()) == {1}
    assert "every spike is the same" in snnc(*order).stdout


def test_two_recipes_part_where_their_thresholds_do(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "max.onnx"
    snnc(
        *("compile", DIGITS, "--calibration", folder / "train.npz", "--timesteps", 8),
        *("-o", other, "--recipe", "max-norm"),
    )
    order = ("compare", folder / "digits.snn.onnx", other, TEST, "--limit", 10)
    told = json.loads(snnc(*order, "--json", "-").stdout)
    assert told["first"][0] == "relu1"
    assert told["first"][1] == told["layers"][0]["first_step"]
    assert set(told["accuracy_at"]) == {"digits.snn.onnx", "max.onnx"}
    assert f"they part in layer relu1 at step {told['first'][1]}" in snnc(*order).stdout


def test_a_change_in_one_layer_is_where_two_networks_part(folder: Path) -> None:
    model = load(folder / "digits.snn.onnx")
    changed = model.clone()
    node = next(n for n in changed.graph if n.name == "block1.relu1")
    synapse = node.inputs[0].producer()
    new = add_constant(changed.graph, "changed", weights(synapse.inputs[2]) + np.float32(0.5))
    synapse.replace_input_with(2, new)
    with np.load(TEST) as data:
        result = compare((model, changed), Samples(data["x"][:10], None))
    trains = [
        simulate(m, data_x(10), observe=Observe(spikes=True)).trains for m in (model, changed)
    ]
    for layer in result.layers:
        one, two = (t[layer.name] for t in trains)
        assert layer.different == (one != two).sum()
        assert layer.entries == one.size
    assert result.first is not None
    assert result.first[0] == "block1.relu1"
    assert result.layers[0].different == result.layers[1].different == 0
    assert result.accuracy_at == {}


def data_x(count: int) -> np.ndarray:
    with np.load(TEST) as data:
        return data["x"][:count]


def test_networks_of_different_tasks_are_not_compared(folder: Path) -> None:
    model = networks.mlp()
    other = compile_model(model, calibration(model, 0), timesteps=4).model
    with pytest.raises(InputError, match="cannot be compared"):
        compare((load(folder / "digits.snn.onnx"), other), Samples(data_x(2), None))


def test_a_report_without_its_libraries_is_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "matplotlib" else found(n)
    )
    order = ("report", folder / "digits.snn.onnx", TEST, "-o", folder / "r.html")
    told = snnc(*order, code=2).output
    assert "the report needs" in told
    assert "matplotlib" in told
    assert not (folder / "r.html").exists()
