"""Bad files and bad orders: a message that helps, exit code 2, nothing written, nothing obeyed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner, Result

import hostile
from passes.affine import Affine
from passes.grid import Grid
from passes.neurons import Neurons
from passes.normalise import Normalise
from passes.observe import Observe
from passes.simplify import Simplify
from snncompiler.cli import app
from snncompiler.diagnostics import InputError
from snncompiler.driver import check_model, compile_model

ROOT = Path(__file__).resolve().parents[1]


def snnc(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def tree(folder: Path) -> dict[Path, tuple[int, int]]:
    """Everything below a folder, hidden files included, with size and time of change."""
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def assert_plain(text: str) -> None:
    """No control character reaches the terminal."""
    assert all(c.isprintable() or c == "\n" for c in text)


def assert_refused(result: Result, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith(("error: ", "  ")) for line in lines)
    for part in ("error: ", "  why: ", "  do:  "):
        assert any(line.startswith(part) and line != part for line in lines)
    assert "Traceback" not in result.output
    assert_plain(result.output)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good network, its compiled form, and good samples."""
    folder = tmp_path_factory.mktemp("room")
    onnx.save(hostile.base(), folder / "ann.onnx")
    hostile.USABLE_DATA["plain"](folder)
    data = folder / "data.npz"
    result = snnc("compile", folder / "ann.onnx", "--calibration", data, "-T", "4")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile.write_all(tmp_path_factory.mktemp("models"))


def samples_for(path: Path, folder: Path) -> Path:
    """Samples as the network wants them, as far as it can be told what it wants."""
    shape = hostile.INPUT_SHAPE
    try:
        value = onnx.load(path, load_external_data=False).graph.input[0]
        dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
        shape = dims if dims and all(0 < d < 100 for d in dims) else shape
    except Exception:
        pass  # it is no network
    data = folder / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32))
    return data


# ---- models

BAD_MODELS = [*hostile.MODELS, *hostile.FILES]
PIPES = [name for name in BAD_MODELS if name == "a_pipe"]  # onnx.load would wait for ever


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_refused(name, models, tmp_path):
    path = models[name]
    data = samples_for(path if name not in PIPES else tmp_path, tmp_path)
    before = tree(tmp_path), tree(path.parent)
    assert_refused(snnc("check", path))
    assert_refused(
        snnc(
            *("compile", path, "--calibration", data),
            *("-o", tmp_path / "out.onnx", "--dump-ir", tmp_path / "new" / "ir"),
        )
    )
    assert (tree(tmp_path), tree(path.parent)) == before


@pytest.mark.parametrize("name", ["text", "cycle", "lrn_and_more"])
def test_an_error_has_a_json_twin(name, models, tmp_path):
    path = models.get(name, tmp_path / "model.onnx")
    if name == "lrn_and_more":
        onnx.save(hostile.REFUSED["several_at_once"][0](), path)
    result = snnc("compile", path, "--calibration", samples_for(path, tmp_path), "--json", "-")
    assert_refused(result)
    twin = json.loads(result.stdout)
    assert list(twin) == ["error", "exit_code"]
    assert twin["exit_code"] == 2
    assert all(list(p) == ["what", "why", "do", "node"] for p in twin["error"])
    assert all(p["what"] and p["why"] and p["do"] for p in twin["error"])
    if name == "lrn_and_more":
        assert {p["node"] for p in twin["error"]} >= set(hostile.REFUSED["several_at_once"][1])
    into_file = snnc(
        *("compile", path, "--calibration", samples_for(path, tmp_path)),
        *("--json", tmp_path / "twin.json"),
    )
    assert_refused(into_file)
    assert not into_file.stdout
    assert json.loads((tmp_path / "twin.json").read_text()) == twin


def test_check_lists_all_refused_nodes_and_its_json_all_nodes(tmp_path):
    build, names = hostile.REFUSED["several_at_once"]
    path = tmp_path / "model.onnx"
    onnx.save(build(), path)
    result = snnc("check", path, "--json", "-")
    assert_refused(result)
    assert all(name in result.stderr for name in names)
    twin = json.loads(result.stdout)
    assert twin["convertible"] is False
    assert {n["name"] for n in twin["nodes"] if n["verdict"] == "refused"} >= set(names)


@pytest.mark.parametrize("name", hostile.EITHER)
def test_a_doubtful_model_is_refused_or_compiled(name, room, tmp_path):
    path = hostile.write_either(tmp_path / "models")[name]
    result = snnc("compile", path, "--calibration", room / "data.npz", "-o", tmp_path / "out.onnx")
    if result.exit_code:
        assert_refused(result)
    assert (tmp_path / "out.onnx").exists() == (result.exit_code == 0)
    assert not {p.name for p in tmp_path.iterdir()} - {"models", "out.onnx"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile.write_usable(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("name", hostile.USABLE)
def test_an_odd_model_is_used_and_its_names_are_not_obeyed(name, odd, room, tmp_path):
    path, data, out = odd[name], room / "data.npz", tmp_path / "out.onnx"
    outside = tree(path.parent), set(ROOT.iterdir())
    trace, twin = tmp_path / "trace.npz", tmp_path / "twin.json"
    dump = ("--dump-ir", tmp_path / "ir")
    for command in (
        ("check", path, "--json", twin),
        ("compile", path, "--calibration", data, "-T", "2", "-o", out, *dump),
        ("run", out, data, "--reference", path, "--trace", trace),
        ("inspect", out, "--format", "text"),
        ("inspect", out, "--format", "onnx"),
        ("inspect", path),
    ):
        result = snnc(*command)
        assert result.exit_code == 0, result.output
        assert not result.stderr
        assert_plain(result.stdout)
    assert_plain(twin.read_text())
    assert {p.name for p in tmp_path.iterdir()} == {
        *("out.onnx", "ir", "trace.npz", "twin.json"),
    }
    dumps = list((tmp_path / "ir").iterdir())
    assert all(p.is_file() and p.suffix in (".txt", ".onnx", ".diff") for p in dumps)
    assert all(p.name[:3].isdigit() for p in dumps)
    assert (tree(path.parent), set(ROOT.iterdir())) == outside
    with np.load(trace) as arrays:
        assert "steps" in arrays.files


def test_a_model_in_memory_must_have_its_data_with_it(models):
    model = onnx.load(models["external_missing"], load_external_data=False)
    with pytest.raises(InputError, match="not loaded"):
        check_model(model)


# ---- data


@pytest.fixture(scope="module")
def data_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile.write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", hostile.DATA)
def test_bad_data_are_refused(name, data_files, room, tmp_path):
    path = data_files[name]
    before = tree(tmp_path), tree(room), tree(path.parent)
    assert_refused(snnc("run", room / "ann.snn.onnx", path, "--trace", tmp_path / "t.npz"))
    if not name.startswith(("y_", "pickle_y")):  # calibration reads no labels
        out = tmp_path / "out.onnx"
        assert_refused(snnc("compile", room / "ann.onnx", "--calibration", path, "-o", out))
    assert (tree(tmp_path), tree(room), tree(path.parent)) == before
    assert not hostile.pickle_marker(path).exists()


@pytest.mark.parametrize("name", ["empty", "text", "garbage", "model_instead"])
def test_no_error_advises_to_trust_a_pickle(name, data_files, room):
    done = snnc("run", room / "ann.snn.onnx", data_files[name])
    assert_refused(done)
    assert "pickle" not in done.stderr


@pytest.mark.parametrize("name", [*hostile.USABLE_DATA, *hostile.EITHER_DATA])
def test_odd_data_are_read_or_refused(name, room, tmp_path):
    path = (hostile.USABLE_DATA | hostile.EITHER_DATA)[name](tmp_path)
    out = tmp_path / "out.onnx"
    for command in (
        ("run", room / "ann.snn.onnx", path, "--reference", room / "ann.onnx"),
        ("compile", room / "ann.onnx", "--calibration", path, "-o", out, "-T", "2"),
    ):
        result = snnc(*command)
        if result.exit_code or name in hostile.EITHER_DATA:
            assert name in hostile.EITHER_DATA
            assert result.exit_code in (0, 2), result.output
            if result.exit_code:
                assert_refused(result)
        assert not hostile.pickle_marker(path).exists()


def test_labels_are_not_read_for_calibration(data_files, room, tmp_path):
    path, out = data_files["pickle_y"], tmp_path / "out.onnx"
    result = snnc("compile", room / "ann.onnx", "--calibration", path, "-o", out, "-T", "2")
    assert result.exit_code == 0, result.output
    assert not hostile.pickle_marker(path).exists()


# ---- arguments

BAD_SETTINGS = [
    "thresholds.percentile",
    "=",
    "thresholds.percentile=500",
    "thresholds.percentile=high",
    "thresholds.percentile=NaN",
    "thresholds.percentile=1e999",
    "thresholds.percentile=[99]",
    "thresholds.channelwise=1",
    "thresholds.method=most",
    "thresholds.magic=1",
    "magic.option=1",
    "neurons.gamma=0",
    "neurons.gamma=" + "9" * 5000,
    "neurons.gamma=" + "[" * 100_000,
    "grid.enabled=maybe",
]
BAD_COMPILES = [
    *(["--set", setting] for setting in BAD_SETTINGS),
    ["--timesteps", "0"],
    ["--seed", "-1"],
    ["-T", "-3"],
    ["-T", "9999999"],
    ["--recipe", "magic"],
    ["--recipe", ""],
    ["--form", "liquid"],
    ["-o", "{tmp}/missing/out.onnx"],
    ["-o", "{tmp}/file/out.onnx"],
    ["-o", "{tmp}"],
    ["-o", "{tmp}/" + "x" * 300],
    ["-o", "{room}/ann.onnx"],
    ["-o", "{room}/data.npz"],
    ["--dump-ir", "{tmp}/file"],
    ["--dump-ir", "{tmp}/file/ir"],
    ["--json", "{tmp}/missing/twin.json"],
    ["--json", "{tmp}"],
    ["--json", "{room}/ann.onnx"],
    ["--json", "{room}/data.npz"],
]


def short(arguments: list[str]) -> str:
    return " ".join(arguments)[:50]


@pytest.mark.parametrize("arguments", BAD_COMPILES, ids=short)
def test_bad_arguments_of_compile_are_refused(arguments, room, tmp_path):
    (tmp_path / "file").touch()
    given = [a.format(tmp=tmp_path, room=room) if "{" in a else a for a in arguments]
    before = tree(tmp_path), tree(room)
    out = [] if "-o" in given else ["-o", tmp_path / "out.onnx"]
    order = ["compile", room / "ann.onnx", "--calibration", room / "data.npz", *out, *given]
    assert_refused(snnc(*order))
    assert (tree(tmp_path), tree(room)) == before
    if "--json" not in given:
        twin = snnc(*order, "--json", "-")
        assert_refused(twin)
        assert json.loads(twin.stdout)["exit_code"] == 2


BAD_ORDERS = [
    ["compile", "{room}/ann.snn.onnx", "--calibration", "{room}/data.npz", "-o", "{tmp}/o.onnx"],
    ["compile", "{room}/ann.onnx", "--calibration", "{room}/ann.onnx", "-o", "{tmp}/o.onnx"],
    ["compile", "/", "--calibration", "{room}/data.npz"],
    ["check", "{room}/ann.snn.onnx"],
    ["check", "{room}/ann.onnx", "--json", "{room}/ann.onnx"],
    ["run", "{room}/ann.onnx", "{room}/data.npz"],
    ["run", "{room}/data.npz", "{room}/data.npz"],
    ["run", "{room}/ann.snn.onnx", "{room}/ann.onnx"],
    ["run", "{room}/none.onnx", "{room}/data.npz"],
    ["run", "{room}/ann.snn.onnx", "{room}/none.npz"],
    *(
        ["run", "{room}/ann.snn.onnx", "{room}/data.npz", *rest]
        for rest in (
            ["-T", "0"],
            ["--timesteps", "-1"],
            ["--batch", "0"],
            ["--limit", "0"],
            ["--limit", "-1"],
            ["--threads", "0"],
            ["--backend", "magic"],
            ["--reference", "{room}/none.onnx"],
            ["--reference", "{room}/ann.snn.onnx"],
            ["--reference", "{tmp}/other.onnx"],
            ["--trace", "{tmp}/missing/trace.npz"],
            ["--trace", "{room}/ann.snn.onnx"],
            ["--json", "{room}/data.npz"],
        )
    ),
    ["inspect", "{room}/data.npz"],
    ["inspect", "{room}/ann.onnx", "--format", "picture"],
    ["inspect", "{room}/ann.onnx", "--json", "{room}/ann.onnx"],
    ["recipes", "--json", "{tmp}/missing/recipes.json"],
    ["demo", "--output", "{room}/ann.onnx"],
    ["demo", "--output", "{room}/ann.onnx/demo"],
]


@pytest.mark.parametrize("order", BAD_ORDERS, ids=lambda o: " ".join(o).replace("{room}/", ""))
def test_a_bad_order_is_refused(order, room, tmp_path):
    other = hostile.Net()
    x = other.conv_relu(other.input(3, 9, 9), 4)
    onnx.save(other.model(other.head(x)), tmp_path / "other.onnx")
    before = tree(tmp_path), tree(room)
    given = [a.format(tmp=tmp_path, room=room) for a in order]
    assert_refused(snnc(*given))
    if "--json" not in given:
        twin = snnc(*given, "--json", "-")
        assert_refused(twin)
        assert json.loads(twin.stdout)["exit_code"] == 2
    assert (tree(tmp_path), tree(room)) == before


def test_a_network_that_only_claims_to_be_compiled_is_not_run(models, room):
    assert_refused(snnc("run", models["function_with_our_domain"], room / "data.npz"))


# ---- work that is cut short, and passes that are wrong


@pytest.mark.parametrize(
    ("blow", "code", "words"),
    [
        (RuntimeError, 1, "internal error"),
        (MemoryError, 1, "memory does not suffice"),
        (KeyboardInterrupt, 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("p", [Simplify, Grid])
def test_a_compilation_that_fails_leaves_no_output(
    blow, code, words, p, room, tmp_path, monkeypatch
):
    def strike(*_arguments: object) -> str:
        raise blow("struck")

    monkeypatch.setattr(p, "run", strike)
    out = tmp_path / "out.onnx"
    result = snnc("compile", room / "ann.onnx", "--calibration", room / "data.npz", "-o", out)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_finished_is_not_begun(room, tmp_path, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / "out.onnx"
    assert_refused(
        snnc("compile", room / "ann.onnx", "--calibration", room / "data.npz", "-o", out)
    )
    assert not list(tmp_path.iterdir())


SLEEPER = """
import sys, time
from passes.grid import Grid
from snncompiler.cli import main
def sleep(*_):
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(60)
Grid.run = sleep
main(sys.argv[1:])
"""


@pytest.mark.parametrize("p", [Affine, Observe, Neurons, Normalise])
def test_a_pass_that_changes_the_network_is_caught_and_named(p, room, tmp_path, monkeypatch):
    sound = p.run

    def flip(self: object, model: ir.Model, context: object) -> str:
        note: str = sound(self, model, context)
        value = next(n for n in model.graph if n.op_type == "Gemm").inputs[1]
        value.const_value = ir.tensor(-value.const_value.numpy())
        return note

    monkeypatch.setattr(p, "run", flip)
    out = tmp_path / "out.onnx"
    order = ["compile", room / "ann.onnx", "--calibration", room / "data.npz", "-o", out]
    result = snnc(*order, "--json", "-")
    assert_refused(result, code=3)
    assert f"the pass '{p.name}' changes" in result.stderr
    assert json.loads(result.stdout)["exit_code"] == 3
    assert not list(tmp_path.iterdir())


def test_a_pass_that_leaves_an_invalid_network_is_caught_and_named(room, tmp_path, monkeypatch):
    sound = Normalise.run

    def spoil(self: Normalise, model: ir.Model, context: object) -> str:
        note = sound(self, model, context)
        next(iter(model.graph)).name = list(model.graph)[1].name
        return note

    monkeypatch.setattr(Normalise, "run", spoil)
    out = tmp_path / "out.onnx"
    order = ["compile", room / "ann.onnx", "--calibration", room / "data.npz", "-o", out]
    result = snnc(*order)
    assert_refused(result, code=3)
    assert "after the pass 'normalise'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_python_gets_the_same_errors(room):
    x = np.zeros((2, *hostile.INPUT_SHAPE), np.float32)
    with pytest.raises(InputError, match="T = 0"):
        compile_model(room / "ann.onnx", x, timesteps=0)
    with pytest.raises(InputError, match="no recipe"):
        compile_model(room / "ann.onnx", x, recipe="magic")
    with pytest.raises(InputError, match="shape"):
        compile_model(room / "ann.onnx", x[:, :2])


# ---- as a user types


@pytest.mark.parametrize("name", ["truncated_half", "cycle", "external_parent"])
def test_the_command_line_refuses_a_bad_file(name, models, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "snncompiler", "check", models[name]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "  why: " in result.stderr
    assert "  do:  " in result.stderr
    assert not result.stdout
