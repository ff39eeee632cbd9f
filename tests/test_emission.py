"""Projects that stand alone, and what a network takes of a chip."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import networks
from backends.lava import interpreter
from backends.lava.fit import fit
from runs import compiled, fresh, lava_group, needs_lava
from snncompiler.cli import main
from snncompiler.driver import Compiled
from snncompiler.report import as_python

pytestmark = lava_group

T = 8


@pytest.fixture(scope="module", params=["ideal", "graded"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = networks.residual()
    options = {"quantise.target": request.param}
    result: Compiled = compiled(model, 0, timesteps=T, recipe="graded", options=options)
    folder = tmp_path_factory.mktemp("emitted")
    x = fresh(model, 0, 5)
    np.savez(folder / "data.npz", x=x, y=result.run(x).output.argmax(1))
    return result.save(folder / "net.snn.onnx")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def run_project(python: str, script: str, network: Path, folder: Path, *options: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [python, script, str(network.parent / "data.npz"), *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def imported(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_the_numpy_project_needs_numpy_alone_and_predicts_the_same(network, tmp_path):
    assert call("emit", network, "--target", "numpy", "-o", tmp_path / "p") == 0
    assert imported(tmp_path / "p") == {"numpy"}
    assert [p.name for p in (tmp_path / "p").glob("*.py")] == ["network.py"]
    said = run_project(sys.executable, "network.py", network, tmp_path / "p")
    assert "accuracy: 1.0000" in said


@needs_lava
def test_the_lava_project_needs_lava_and_numpy_and_predicts_the_same(network, tmp_path):
    assert call("emit", network, "-o", tmp_path / "p") == 0
    assert imported(tmp_path / "p") == {"numpy", "lava", "spiking", "network"}
    said = run_project(interpreter.find(), "run.py", network, tmp_path / "p", "--batch", "2")
    assert "accuracy: 1.0000" in said
    for name in ("README.md", "requirements.txt", "weights.npz"):
        assert (tmp_path / "p" / name).exists()


def test_a_folder_with_something_in_it_is_left_alone(network, tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    assert call("emit", network, "-o", tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_target_is_refused_with_those_there_are(network, tmp_path, capsys):
    assert call("emit", network, "--target", "abacus", "-o", tmp_path / "p") == 2
    assert "use one of: lava, numpy" in capsys.readouterr().err
    assert call("inspect", network, "--target", "abacus") == 2


def test_the_fit_report_counts_what_is_there(network, capsys):
    assert call("inspect", network, "--target", "loihi2", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["layer"]: row for row in report["rows"]}
    assert sum(r["neurons"] for r in rows.values() if r["op"] == "IF") > 1000
    assert report["cores"] == sum(r["cores"] for r in rows.values())
    assert report["system"] == "single chip (Oheo Gulch)"
    assert all("estimate" in text for text in report["constants"].values())
    assert "soft reset" in report["needs"]["IF"]


def test_fan_in_fan_out_and_bytes_by_hand():
    net = networks.Net(0)
    x = net.op("Relu", net.conv(net.input(2, 6, 6), 3))
    x = net.op("Relu", net.conv(x, 5))
    model = net.model(net.gemm(net.op("Flatten", x), 4))
    options = {"quantise.target": "loihi2"}
    first, second, last = fit(compiled(model, 0, timesteps=4, options=options).model).rows
    assert (first.neurons, first.synapses, first.weight_bytes) == (3 * 36, 0, 0)
    assert (first.fan_out, first.payload_bits) == (9 * 5, 1)
    # 3x3 at stride 1 on 6x6 with padding: 16 of 18 taps meet the image along each axis.
    assert (second.neurons, second.synapses) == (5 * 36, 15 * 16 * 16)
    assert (second.weight_bytes, second.fan_in, second.fan_out) == (15 * 9, 27, 4)
    assert (last.neurons, last.weight_bytes, last.fan_in, last.fan_out) == (4, 720, 180, 0)
    json.dumps([r.__dict__ for r in (first, second, last)], default=as_python)
