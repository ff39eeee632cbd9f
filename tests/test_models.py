"""The bundled networks are what models/README.md says, and convertible to the last node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
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


def _learned(file: Path) -> bool:
    """Whether `snnc finetune` has made this network: its activations have levels."""
    return file.stem.endswith(("_spikes", "_ternary"))


def _without_levels(model: onnx.ModelProto) -> int:
    """Every Floor(x + 1/2) of the model made x, so that its levels vanish; how many there were."""
    producer = {name: node for node in model.graph.node for name in node.output}
    values = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    floors = [n for n in model.graph.node if n.op_type == "Floor"]
    for floor in floors:
        half = producer[floor.input[0]]
        assert half.op_type == "Add"
        assert np.all(values[half.input[1]] == 0.5)
        floor.op_type = "Identity"
        floor.input[0] = half.input[0]
    return len(floors)


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
    # As exported: opset 17, batch normalisation; as `snnc finetune` writes it: 21, levels.
    opset, op = (21, "Floor") if _learned(file) else (17, "BatchNormalization")
    assert [e.version for e in model.opset_import] == [opset]
    assert op in {n.op_type for n in model.graph.node}
    check = check_model(file)
    assert check.convertible
    names = [v.name for v in check.nodes]
    assert len(names) == len(set(names)) == len(model.graph.node)


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_import_keeps_what_a_model_computes(file: Path) -> None:
    network = import_network(file)
    x = np.random.default_rng(0).standard_normal((2, *network.input_shape)).astype(np.float32)
    original = onnx.load(file)
    assert network.quantisers == _without_levels(original)
    assert bool(network.quantisers) == _learned(file)
    session = ann.session(original)
    expected = session.run(None, {session.get_inputs()[0].name: x})
    found = ann.run(network.model, x)
    for name, value in zip(found, expected, strict=True):
        assert ann.relative_error(found[name], value) < 1e-4


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
