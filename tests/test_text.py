"""The network as text: for people, for diffs, and to be read back."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from networks import ARCHITECTURES
from runs import compiled, fresh
from snncompiler.artifact import load
from snncompiler.driver import import_network
from snncompiler.graph import set_sources
from snncompiler.record import record_of
from snncompiler.text import as_json, compact, diff, onnx_text, parse
from snncompiler.verify import checked_proto

RECIPES = ["binary", "spicalib"]


def outputs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: list[np.ndarray] = session.run(None, feeds)
    return result


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_text_of_a_network_reads_back_as_the_same_network(name: str, recipe: str) -> None:
    model = compiled(ARCHITECTURES[name](), 0, recipe=recipe, timesteps=2).model
    proto, again = checked_proto(model), parse(onnx_text(model))
    onnx.checker.check_model(again, full_check=True)
    feeds = {"x": fresh(ARCHITECTURES[name](), 0), "T": np.array([4])}
    for a, b in zip(outputs(proto, feeds), outputs(again, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    assert onnx_text(again) == onnx_text(model)
    assert {p.key: p.value for p in again.metadata_props} == dict(model.metadata_props)


@pytest.mark.parametrize("name", ["residual", "fpn"])
def test_the_text_of_a_trained_network_reads_back_too(name: str) -> None:
    model = import_network(ARCHITECTURES[name]()).model
    feeds = {"x": fresh(ARCHITECTURES[name](), 0)}
    again = parse(onnx_text(model))
    for a, b in zip(outputs(checked_proto(model), feeds), outputs(again, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


def test_compact_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "a.onnx"
    network = compiled(ARCHITECTURES["inception"](), 0, timesteps=2, output=path)
    assert compact(load(path)) == compact(network.model) == compact(network.model)


def test_compact_text_has_a_line_for_every_node_with_its_sources() -> None:
    model = compiled(ARCHITECTURES["residual"](), 0, timesteps=2).model
    lines = compact(model).splitlines()
    nodes = [line for line in lines if line.startswith("%")]
    assert len(nodes) == len(list(model.graph))
    assert all(" = " in line and "  // " in line for line in nodes)
    (neuron,) = (line for line in nodes if line.startswith("%relu1_out:"))
    for expected in ("snn.IF(", "gamma=1.0", "; spikes", "; scale[8] ", "// relu1"):
        assert expected in neuron


def test_names_cannot_forge_lines() -> None:
    model = compiled(ARCHITECTURES["mlp"](), 0, timesteps=2).model
    set_sources(model.graph[0], ["a\nb\x1b[31m"])
    text = compact(model)
    assert "a\\nb\\x1b[31m" in text
    assert "\x1b" not in text


def test_a_diff_names_both_sides_and_shows_what_changed() -> None:
    text = diff("a\nb\nc\n", "a\nB\nc\n", ("001_before", "002_after"))
    assert text.splitlines() == [
        "--- 001_before",
        "+++ 002_after",
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
    ]


def test_the_json_form_is_plain_data() -> None:
    model = compiled(ARCHITECTURES["fpn"](), 0, timesteps=2).model
    plain = json.loads(json.dumps(as_json(model)))
    assert plain["record"] == record_of(model)
    assert [n["name"] for n in plain["nodes"]] == [n.name for n in model.graph]
    neuron = next(n for n in plain["nodes"] if n["op"] == "snn.IF")
    assert neuron["attributes"] == {"gamma": 1.0, "gamma_neg": 0.0, "delay": 0}
    assert neuron["kind"] == "spikes"
    assert neuron["sources"] == ["relu1"]
