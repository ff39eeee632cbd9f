"""The command line as a user types it, on the bundled digits network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from passes import PIPELINE
from passes.recipes import RECIPES
from snncompiler import __version__
from snncompiler.cli import app
from snncompiler.text import parse

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
DIGITS, TRAIN, TEST = (MODELS / f"digits{end}" for end in (".onnx", "_train.npz", "_test.npz"))
RUNNER = CliRunner()
STUDIES = ("doctor", "report", "compare")


def snnc(*arguments: object) -> Result:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def typed(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Start Python as a user does, installed or not."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.snn.onnx, the dumps in ir/ and the JSON twin."""
    folder = tmp_path_factory.mktemp("digits")
    snnc(
        *("compile", DIGITS, "--calibration", TRAIN, "--timesteps", 16),
        *("-o", folder / "digits.snn.onnx", "--dump-ir", folder / "ir"),
        *("--json", folder / "compile.json"),
    )
    return folder


def test_check_judges_every_node() -> None:
    result = json.loads(snnc("check", DIGITS, "--json", "-").stdout)
    assert set(result) == {"model", "convertible", "nodes", "counts"}
    names = [n.name for n in onnx.load(DIGITS).graph.node]
    assert [n["name"] for n in result["nodes"]] == names
    assert all(set(n) == {"name", "op", "verdict", "reason", "advice"} for n in result["nodes"])
    assert result["convertible"]
    assert result["counts"] == {"linear": 8, "folded": 4, "spiking": 6}
    assert "spiking" in snnc("check", DIGITS).stdout


def test_compile_tells_its_story(compiled: Path) -> None:
    story = json.loads((compiled / "compile.json").read_text())
    keys = "output recipe timesteps passes neurons synapses thresholds predictions warnings"
    assert set(story) == set(keys.split())
    assert [p["name"] for p in story["passes"]] == [p.name for p in PIPELINE]
    assert all(set(p) == {"name", "seconds", "changed", "check"} for p in story["passes"])
    assert story["timesteps"] == 16
    assert story["neurons"] == 4096
    assert set(story["thresholds"]) == {"relu1", "relu2", "block1.relu1", "block1.relu2"}
    assert story["warnings"] == []


def test_every_pass_leaves_a_dump_that_the_checker_accepts(compiled: Path) -> None:
    names = ["import", *(p.name for p in PIPELINE)]
    stems = [f"{i:03d}_{name}" for i, name in enumerate(names)]
    files = {p.name for p in (compiled / "ir").iterdir()}
    ends = [".txt", ".onnx", ".diff"]
    assert files == {s + e for s in stems for e in ends} - {"000_import.diff"}
    for stem in stems:
        onnx.checker.check_model(compiled / "ir" / f"{stem}.onnx", full_check=True)
        # A viewer can name everything, and look inside the neurons.
        proto = onnx.load(compiled / "ir" / f"{stem}.onnx")
        defined = {f.name for f in proto.functions}
        for node in proto.graph.node:
            assert node.name
            assert stem == "000_import" or "snn.source" in {p.key for p in node.metadata_props}
            assert node.domain != "snn" or node.op_type in defined


@pytest.mark.parametrize("backend", ["numpy", "onnxruntime"])
def test_run_measures_what_it_promises(compiled: Path, backend: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.npz"
    result = snnc(
        *("run", compiled / "digits.snn.onnx", TEST, "--reference", DIGITS, "--limit", 200),
        *("--backend", backend, "--json", "-", "--trace", trace),
    )
    numbers = json.loads(result.stdout)
    keys = (
        "backend timesteps samples seconds seconds_total accuracy_at ann_accuracy agreement_at "
        "output_error_at firing_rate spikes_per_sample synaptic_operations ann_macs_per_sample"
    )
    assert set(numbers) == set(keys.split())
    for name in ("accuracy_at", "agreement_at", "output_error_at"):
        assert list(numbers[name]) == ["1", "2", "4", "8", "16"]
    assert numbers["accuracy_at"]["16"] >= 0.98
    assert numbers["ann_accuracy"] >= 0.98
    assert numbers["output_error_at"]["16"] < numbers["output_error_at"]["4"]
    assert all(0 < r < 1 for r in numbers["firing_rate"].values())
    assert numbers["ann_macs_per_sample"] == 460800
    with np.load(trace) as saved:
        assert saved["spikes/relu1"].shape == (16, 200, 16, 8, 8)
        assert saved["counts/relu1"].sum() == np.abs(saved["spikes/relu1"].astype(int)).sum()


def test_results_do_not_depend_on_batch_or_backend(compiled: Path) -> None:
    model = compiled / "digits.snn.onnx"
    common = ("run", model, TEST, "--limit", 30, "--json", "-")
    results = [
        json.loads(snnc(*common, *more).stdout)
        for more in ([], ["--batch", 7], ["--backend", "onnxruntime", "--threads", 2])
    ]
    for result in results:
        for name in ("backend", "seconds", "seconds_total"):
            del result[name]
    assert results[0] == results[1] == results[2]


def test_run_measures_every_power_of_two_and_the_last_step(compiled: Path) -> None:
    model = compiled / "digits.snn.onnx"
    result = json.loads(snnc("run", model, TEST, "-T", 12, "--limit", 20, "--json", "-").stdout)
    assert list(result["accuracy_at"]) == ["1", "2", "4", "8", "12"]
    assert result["timesteps"] == 12
    assert result["samples"] == 20
    assert not {"ann_accuracy", "agreement_at", "output_error_at"} & set(result)
    assert 0 < result["seconds"] <= result["seconds_total"]
    operations = result["synaptic_operations"]
    assert operations.pop("total") == pytest.approx(sum(operations.values()))


def test_run_needs_no_labels(compiled: Path, tmp_path: Path) -> None:
    with np.load(TEST) as data:
        np.savez(tmp_path / "x.npz", x=data["x"][:20])
    order = ("run", compiled / "digits.snn.onnx", tmp_path / "x.npz", "--reference", DIGITS)
    result = json.loads(snnc(*order, "--json", "-").stdout)
    assert "accuracy_at" not in result
    assert result["agreement_at"]["16"] >= 0.9
    assert "accuracy" not in snnc(*order).stdout


def test_run_warns_of_a_reference_that_was_not_compiled(compiled: Path, tmp_path: Path) -> None:
    other = onnx.load(DIGITS)
    other.graph.doc_string = "another file, the same network"
    onnx.save(other, tmp_path / "other.onnx")
    order = ("run", compiled / "digits.snn.onnx", TEST, "--limit", 5)
    result = snnc(*order, "--reference", tmp_path / "other.onnx", "--json", tmp_path / "r.json")
    (warning,) = json.loads((tmp_path / "r.json").read_text())["warnings"]
    assert "another file" in warning
    assert f"warning: {warning}" in result.stdout


def test_the_options_of_compile_are_recorded_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    snnc(
        *("compile", DIGITS, "--calibration", TRAIN, "-o", out, "-T", 3, "--recipe", "graded"),
        *("--set", "neurons.gamma=3", "--set", "thresholds.percentile=99"),
        *("--form", "physical", "--seed", 7),
    )
    record = json.loads(snnc("inspect", out, "--format", "json").stdout)["record"]
    assert record["recipe"] == "graded"
    assert (record["timesteps"], record["form"], record["seed"]) == (3, "physical", 7)
    options = {p["name"]: p for p in record["passes"]}
    assert options["neurons"]["gamma"] == 3
    assert options["neurons"]["gamma_neg"] == 5
    assert options["thresholds"]["percentile"] == 99
    assert not {"normalise", "grid"} & set(options)
    assert all(len(record[key]) == 64 for key in ("source", "calibration"))


def test_compiling_twice_writes_the_same_bytes(compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.onnx"
    snnc("compile", DIGITS, "--calibration", TRAIN, "--timesteps", 16, "-o", out)
    assert out.read_bytes() == (compiled / "digits.snn.onnx").read_bytes()


def test_inspect_shows_a_file_in_every_format(compiled: Path) -> None:
    model = compiled / "digits.snn.onnx"
    assert "spiking network" in snnc("inspect", model).stdout
    assert "trained network" in snnc("inspect", DIGITS).stdout
    text = snnc("inspect", model, "--format", "text").stdout
    assert "snn.IF(" in text
    assert "// relu1" in text
    graph = json.loads(snnc("inspect", model, "--format", "json").stdout)
    assert {"record", "inputs", "outputs", "nodes"} <= set(graph)
    assert all(n["sources"] for n in graph["nodes"])


def test_the_onnx_text_of_inspect_parses_back_and_runs(compiled: Path) -> None:
    model = compiled / "digits.snn.onnx"
    again = parse(snnc("inspect", model, "--format", "onnx").stdout)
    with np.load(TEST) as data:
        feeds = {"image": data["x"][:5], "T": np.array([8])}
    files = (model.read_bytes(), again.SerializeToString())
    outputs = [onnxruntime.InferenceSession(f).run(None, feeds)[0] for f in files]
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("form", ["summary", "text", "onnx", "json"])
def test_the_json_of_inspect_stands_alone(compiled: Path, form: str, tmp_path: Path) -> None:
    model = compiled / "digits.snn.onnx"
    graph = json.loads(snnc("inspect", model, "--format", form, "--json", "-").stdout)
    assert graph["record"]["recipe"] == "binary"
    shown = snnc("inspect", model, "--format", form, "--json", tmp_path / "graph.json").stdout
    assert json.loads((tmp_path / "graph.json").read_text()) == graph
    assert bool(shown) == (form != "json")


def test_recipes_are_listed() -> None:
    text = snnc("recipes").stdout
    assert all(name in text for name in RECIPES)
    listed = json.loads(snnc("recipes", "--json", "-").stdout)
    assert [n for n, r in listed.items() if r["default"]] == ["binary"]


def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    result = snnc("demo", "--output", tmp_path / "demo", "--json", tmp_path / "demo.json")
    for part in ("accuracy", "ANN accuracy", "firing rate", "SOP per sample", "relu1"):
        assert part in result.stdout
    story = json.loads((tmp_path / "demo.json").read_text())
    assert story["run"]["accuracy_at"]["32"] >= 0.98
    assert (tmp_path / "demo" / "digits.snn.onnx").is_file()
    assert len(list((tmp_path / "demo" / "ir").glob("*_grid.txt"))) == 1


def test_help_and_version_need_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from snncompiler.cli import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'networkx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = typed("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"snnc {__version__}"
    for command in (*"check compile run finetune tune inspect recipes demo".split(), *STUDIES):
        text = snnc(command, "--help").stdout
        assert "Example: snnc" in text
        assert "--json" in text


@pytest.mark.parametrize("order", [["check"], ["run", "a.onnx"], ["check", "--magic"], ["magic"]])
def test_a_slip_of_the_pen_is_told_with_the_usage(order: list[str]) -> None:
    result = RUNNER.invoke(app, order)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["compile", "tune"])
def test_without_calibration_samples_a_user_hears_which_ones_are_needed(command: str) -> None:
    result = RUNNER.invoke(app, [command, str(DIGITS)])
    assert result.exit_code == 2
    assert "there are no calibration samples" in result.stderr
    assert "--calibration DATA.npz with 'x', float32 [N, 1, 8, 8]" in result.stderr


def test_a_reader_that_goes_away_is_no_error(compiled: Path) -> None:
    order = [sys.executable, "-m", "snncompiler", "inspect", compiled / "digits.snn.onnx"]
    with subprocess.Popen(
        [*order, "--format", "onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "<\n"
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_user_types_the_three_commands_in_a_folder(tmp_path: Path) -> None:
    onnx.save(onnx.load(DIGITS), tmp_path / "digits.onnx")
    with np.load(TRAIN) as train:
        np.savez(tmp_path / "train.npz", x=train["x"][:100])
    for order, words in (
        (["check", "digits.onnx"], "digits.onnx: convertible (8 linear, 4 folded, 6 spiking)"),
        (["compile", "digits.onnx", "--calibration", "train.npz"], "wrote digits.snn.onnx"),
        (["run", "digits.snn.onnx", str(TEST), "--limit", "20"], "20 samples, T = 32"),
    ):
        done = typed("-m", "snncompiler", *order, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        assert done.stderr == ""
    names = {"digits.onnx", "train.npz", "digits.snn.onnx"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_a_user_types_it_in_a_shell(tmp_path: Path) -> None:
    done = typed("-m", "snncompiler", "check", "nowhere.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read 'nowhere.onnx'")


def test_importing_the_package_costs_nothing() -> None:
    program = "import sys, snncompiler; assert 'numpy' not in sys.modules; snncompiler.load"
    assert typed("-c", program).returncode == 0


def test_the_python_door_is_lazy_and_open() -> None:
    import snncompiler

    with np.load(TRAIN) as train, np.load(TEST) as test:
        compiled = snncompiler.compile_model(DIGITS, train["x"][:200], timesteps=8)
        trace = compiled.run(test["x"][:50])
        assert (trace.output.argmax(1) == test["y"][:50]).mean() > 0.9
    assert set(trace.firing_rate()) >= {"relu1", "relu2"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = snncompiler.nothing


@pytest.mark.parametrize("blow", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_a_compilation_cut_short_leaves_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blow: type[BaseException]
) -> None:
    from passes.grid import Grid

    def strike(*_arguments: object) -> str:
        raise blow("cut short")

    monkeypatch.setattr(Grid, "run", strike)
    out = str(tmp_path / "out.onnx")
    result = RUNNER.invoke(app, ["compile", str(DIGITS), "--calibration", str(TRAIN), "-o", out])
    assert result.exit_code in (1, 130)
    assert not list(tmp_path.iterdir())
