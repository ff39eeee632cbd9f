"""The bundled networks are what models/README.md says, and convertible to the last node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.event.program import EventBackend
from backends.reference import NumpyBackend
from runs import SPIKES, differences
from snncompiler import ann
from snncompiler.decoding import load_decoding
from snncompiler.driver import check_model, compile_model, import_network
from snncompiler.record import record_of

MODELS = Path(__file__).parents[1] / "models"
TRAINED = sorted(MODELS.glob("*.onnx"))


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_a_model_is_the_one_of_the_table(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    rows = [r for r in (MODELS / "README.md").read_text().splitlines() if f"| `{file.name}` |" in r]
    assert len(rows) == 1
    assert f"`{digest}`" in rows[0]
    assert file.stat().st_size < 2_500_000


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_every_node_of_a_model_is_accounted_for(file: Path) -> None:
    model = onnx.load(file)
    assert [e.version for e in model.opset_import] == [17]
    assert "BatchNormalization" in {n.op_type for n in model.graph.node}
    check = check_model(file)
    assert check.convertible
    names = [v.name for v in check.nodes]
    assert len(names) == len(set(names)) == len(model.graph.node)


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_import_keeps_what_a_model_computes(file: Path) -> None:
    network = import_network(file)
    x = np.random.default_rng(0).standard_normal((2, *network.input_shape)).astype(np.float32)
    found = ann.run(network.model, x)
    for name, expected in zip(found, network.outputs(x), strict=True):
        assert ann.relative_error(found[name], expected) < 1e-4


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_a_model_is_proven_exact_and_spikes_the_same_on_both_simulators(file: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *import_network(file).input_shape)).astype(np.float32)
    network = compile_model(file, x, recipe="channel-norm", timesteps=4)
    assert record_of(network.model)["gridded"] is True, network.warnings
    expected = NumpyBackend(np.float32).build(network.model).run(x[:1], 4, SPIKES)
    assert any(train.any() for train in expected.trains.values())
    assert not differences(expected, EventBackend().build(network.model).run(x[:1], 4, SPIKES))


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.json")), ids=lambda f: f.stem)
def test_a_decoding_fits_its_model(file: Path) -> None:
    decoding = load_decoding(file)
    network = import_network(file.with_suffix(".onnx"))
    assert network.input_shape[1:] == decoding.image
    outputs = network.outputs(np.zeros((1, *network.input_shape), np.float32))
    found = dict(zip((str(o.name) for o in network.model.graph.outputs), outputs, strict=True))
    assert {k: v.shape[1:] for k, v in found.items()} == decoding.outputs()
    assert len(decoding.decode(found)) == 1
