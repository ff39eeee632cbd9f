"""What the READMEs, CONTRIBUTING and docs say of names exists: recipes, options, targets, files."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

from passes.options import listed
from passes.recipes import DEFAULT, RECIPES
from snncompiler.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = [p for name in ("snncompiler", "passes", "backends") for p in (ROOT / name).rglob("*.py")]
EXAMPLES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in CODE if ">>> " in p.read_text()
)
named = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


def test_the_recipes_of_the_readme_are_those_there_are():
    rows = re.findall(
        r"^\| `([a-z0-9-]+)`( \(default\))? \| (.+) \| (.+) \| (.+) \|$", README, re.M
    )
    assert [name for name, *_ in rows] == list(RECIPES)
    for name, default, neuron, summary, source in rows:
        recipe = RECIPES[name]
        told = (neuron, summary.replace("`", "'"), source)
        assert told == (recipe.neuron, recipe.summary, recipe.source), name
        assert bool(default) == (name == DEFAULT)


@named
def test_commands_and_their_options_exist(path: Path):
    commands = get_command(app).commands  # type: ignore[attr-defined]
    text = path.read_text().replace("\\\n", " ")
    for line in re.findall(r"^ *(?:\$ )?snnc (.+)$", text, re.M):
        name, *words = line.split()
        known = {o for p in commands[name].params for o in p.opts}
        assert {w for w in words if re.match("--?[a-zA-Z]", w)} <= known, line


@named
def test_options_of_passes_exist(path: Path):
    passes = {option.partition(".")[0] for option in listed(DEFAULT)}
    for found in re.findall(r"`(?:--set )?([a-z_]+)\.([a-z_]+)(?:=[^`]*)?`", path.read_text()):
        if found[0] in passes and found[1] != "py":
            assert ".".join(found) in listed(DEFAULT)


@named
def test_files_exist(path: Path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^):#]+)\)", text):
        assert (path.parent / target).exists(), target
    for folder in ("snncompiler", "passes", "backends", "benchmarks", "tests", "docs", "models"):
        for file in re.findall(rf"`({folder}/[\w/]+\.\w+)`", text):
            assert (ROOT / file).exists(), file


def test_the_targets_of_contributing_are_those_of_make():
    made = set(re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(), re.M))
    told = set(re.findall(r"`make ([a-z]+)`", CONTRIBUTING.partition("## ")[0]))
    assert told == made | {"help"}


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_hold(module: str):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted
    assert not found.failed
