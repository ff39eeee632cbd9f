"""Who may import whom, and what keeps the code small; read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("snncompiler", "passes", "backends")
#: The rooms that know how to compile, run and show; no other room of the ground knows of them.
DOOR = {"driver", "compilation", "cli", "evaluation", "demo", "report", "__main__", "__init__"}
DOOR |= {"comparison", "doctor", "energy", "examination", "operations", "page", "provenance"}
DOOR |= {"session", "study"}
DOOR |= {"cli_studies", "cli_tune", "prediction", "trials", "tuning"}
DOOR |= {"artifact", "emission"}
DOOR |= {"cli_finetune", "finetuning"}
#: What the door may import from beyond the ground; the report names the recipes, no more.
BEYOND = {
    "artifact": {"backends"},
    "driver": {"passes", "backends"},
    "compilation": {"passes", "backends"},
    "cli": {"passes", "backends"},
    "evaluation": {"backends"},
    "comparison": {"backends"},
    "doctor": {"backends"},
    "examination": {"backends"},
    "operations": {"backends"},
    "emission": {"backends"},
    "demo": {"passes", "backends"},
    "provenance": {"passes.options"},
    "prediction": {"backends"},
    "trials": {"passes.recipes"},
    "tuning": {"backends", "passes.rewiring"},
    "report": {"passes.recipes", "passes.options"},
    "study": {"backends"},
    "finetuning": {"passes"},
}
FILES = {
    f"{package}.{'.'.join(path.relative_to(ROOT / package).with_suffix('').parts)}": path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def defines_a_pass(path: Path) -> bool:
    """Whether a file has a class with a name of its own, `name: ClassVar[str] = ...`."""
    classes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
    fields = [f for c in classes for f in c.body if isinstance(f, ast.AnnAssign) and f.value]
    return any(ast.unparse(f.target) == "name" for f in fields)


#: The only rooms that import Lava; they run in an interpreter of its own, never in ours.
ON_LAVA = ("processes", "models", "whole")
#: Rooms of the package passes: one per pass, and the pure functions that they share.
ROOMS = {name.removeprefix("passes.") for name in FILES if name.startswith("passes.")}
PASSES = {room for room in ROOMS if defines_a_pass(FILES[f"passes.{room}"])}
HELPERS = ROOMS - PASSES - {"__init__", "options", "recipes"}


def imports(name: str) -> Iterator[tuple[str, ast.stmt]]:
    """Every module of ours that a module imports, wherever in it, as dotted names.

    `from a import b` is a.b if there is such a module, else a.
    """
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import in line {node.lineno}"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [i if i in FILES else str(node.module) for i in inner]
        else:
            continue
        yield from ((f, node) for f in found if f.partition(".")[0] in PACKAGES)


def of(package: str) -> list[str]:
    return [name for name in FILES if name.startswith(f"{package}.")]


def room(name: str) -> str:
    return name.partition(".")[2]


def test_there_is_something_to_look_at() -> None:
    assert {"snncompiler.driver", "passes.grid", "backends.reference"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_no_relative_imports(name: str) -> None:
    list(imports(name))


@pytest.mark.parametrize("name", [n for n in of("snncompiler") if room(n) not in DOOR])
def test_the_ground_imports_only_ground(name: str) -> None:
    for found, node in imports(name):
        where = f"line {node.lineno} imports {found}"  # type: ignore[attr-defined]
        # The package itself holds the version, and no more.
        assert found.partition(".")[0] == "snncompiler", where
        assert room(found) not in DOOR - {"__init__"}, where


@pytest.mark.parametrize("name", [n for n in of("snncompiler") if room(n) in DOOR])
def test_only_the_door_goes_beyond_the_ground(name: str) -> None:
    allowed = BEYOND.get(room(name), set())
    for found, node in imports(name):
        inside = found.partition(".")[0] == "snncompiler"
        assert inside or found in allowed or found.partition(".")[0] in allowed, found
        if found == "passes.recipes" and room(name) == "report":
            body = ast.parse(FILES[name].read_text()).body
            top = {i.lineno for i in body}
            assert node.lineno not in top, "recipes are looked up by the function that lists them"


@pytest.mark.parametrize("name", of("passes"))
def test_a_pass_imports_only_ground_and_pure_helpers(name: str) -> None:
    gathers = {"__init__": PASSES, "options": {"recipes", "__init__"}}
    for found, _node in imports(name):
        package = found.partition(".")[0]
        assert package in ("snncompiler", "passes"), found
        if package == "snncompiler":
            assert room(found) not in DOOR, found
        else:
            allowed = HELPERS | gathers.get(room(name), set())
            assert (room(found) or "__init__") in allowed, found


NUMBA = (
    "bit_kernels", "bit_trains", "counts", "currents", "kernels", "masks", "rows", "sharing",
    "trains", "vectors",
)  # fmt: skip
#: What backends have in common.
SHARED = {"", "base", "numpy_ops", "definitions", "reference", "workers"}


@pytest.mark.parametrize("name", of("backends"))
def test_a_backend_imports_only_ground_and_the_shared_definitions(name: str) -> None:
    own = name.split(".")[1]
    for found, _node in imports(name):
        package, _, inner = found.partition(".")
        assert package in ("snncompiler", "backends"), found
        if package == "snncompiler":
            assert inner not in DOOR, found
        elif own != "__init__":  # that one loads the others, on demand
            # A backend may be a package, or have its kernels in a file named after it.
            mine = inner.split(".")[0].startswith(own)
            assert mine or inner in SHARED, found


def test_backends_are_imported_on_demand() -> None:
    top = ast.parse((ROOT / "backends/__init__.py").read_text()).body
    modules = {n.module for n in top if isinstance(n, ast.ImportFrom)}
    assert {m for m in modules if m and m.startswith("backends")} <= {"backends.base"}


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("onnxruntime", {"snncompiler.ann", "backends.onnx_runtime"}),
        (
            "numba",
            {"snncompiler.finetune.kernels", *(f"backends.event.{room}" for room in NUMBA)},
        ),
        (
            "typer",
            {
                "snncompiler.cli",
                "snncompiler.cli_finetune",
                "snncompiler.cli_studies",
                "snncompiler.cli_tune",
                "snncompiler.session",
            },
        ),
        (
            "torch",
            {
                "snncompiler.finetuning",  # asks for the device
                "snncompiler.finetune.activation",
                "snncompiler.finetune.augmentation",
                "snncompiler.finetune.network",
                "snncompiler.finetune.on_cpu",
                "snncompiler.finetune.spiking",
                "snncompiler.finetune.training",
            },
        ),
        ("bayes_opt", {"snncompiler.bayesian"}),
        (
            "lava",
            {f"backends.lava.spiking.{n}" for n in ("run", *(f"on_lava.{m}" for m in ON_LAVA))},
        ),
    ],
)
def test_a_heavy_library_has_few_doors(library: str, owners: set[str]) -> None:
    found = set()
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            else:
                continue
            if library in (n.partition(".")[0] for n in names):
                found.add(name)
    assert found <= owners


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = ["numpy", "onnx", "onnx_ir", "onnxruntime", "passes", "backends", "snncompiler.driver"]
    code = f"import snncompiler, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "[]\n", run.stderr


def test_running_a_compiled_network_loads_nothing_of_the_compiler() -> None:
    """Half a second, a third of what `snnc run` takes on a small network."""
    needed = "snncompiler.artifact, snncompiler.evaluation, snncompiler.report, backends"
    heavy = ["onnxruntime", "onnxscript", "networkx", "matplotlib", "torch", "passes"]
    code = f"import {needed}, sys; backends.load('event'); print(sys.modules.keys() & {heavy})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "set()\n", run.stderr


def test_the_public_face_is_there_all_the_same() -> None:
    import snncompiler
    from snncompiler import driver

    for name in snncompiler.__all__:
        assert getattr(snncompiler, name) is not None
    assert snncompiler.compile_model is driver.compile_model
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        snncompiler.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name: str) -> None:
    lines = len(FILES[name].read_text().splitlines())
    assert lines < 400


@pytest.mark.parametrize("name", FILES)
def test_files_are_named_for_what_they_hold(name: str) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "core", "tools"}
    assert not vague & set(name.split("."))


def literal(path: str, variable: str) -> ast.expr:
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == variable and node.value:
            return node.value
    raise AssertionError(f"{path} does not define {variable} at its top")


def is_literal(node: ast.expr) -> bool:
    """Constants, dicts of them, and calls with literal arguments of names with a capital."""
    match node:
        case ast.Constant():
            return True
        case ast.Dict():
            return all(k is not None and is_literal(k) for k in node.keys) and all(
                map(is_literal, node.values)
            )
        case ast.Call(func=ast.Name()):
            keywords = [k.value for k in node.keywords]
            return node.func.id[0].isupper() and all(map(is_literal, [*node.args, *keywords]))
    return False


def test_the_pipeline_is_one_literal_tuple() -> None:
    for variable in ("IMPORT", "PIPELINE"):
        value = literal("passes/__init__.py", variable)
        assert isinstance(value, ast.Tuple)
        for element in value.elts:
            starred = isinstance(element, ast.Starred) and isinstance(element.value, ast.Name)
            assert starred or is_literal(element), ast.unparse(element)
    source = (ROOT / "passes/__init__.py").read_text().splitlines()
    entries = [line for line in source if line.startswith("    ") and line.rstrip()[-1:] != ")"]
    assert all("#" in line for line in entries if "()" in line), "each entry says why it is there"


def test_recipes_are_literal() -> None:
    assert is_literal(literal("passes/recipes.py", "RECIPES"))


def test_every_pass_has_a_name_of_its_own_and_its_file() -> None:
    from passes import PIPELINE

    names = [p.name for p in PIPELINE]
    assert len(set(names)) == len(names)
    assert set(names) == PASSES
    for p in PIPELINE:
        assert type(p).__module__ == f"passes.{p.name}"
