"""The commands that study a conversion, as a user types them, on the bundled digits network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from snncompiler.cli import app
from snncompiler.decomposition import CAUSES

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
