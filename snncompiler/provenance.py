"""How a compiled network came about: the commands that make it again, the changes pass by pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snncompiler.diagnostics import InputError, clean, refuse

_LINES = 400  # of one difference


def commands(artifact: str, record: Mapping[str, Any]) -> str:
    """The command lines that compile and run the network again, from its record."""
    recipe, steps, seed = (_quoted(str(record.get(k))) for k in ("recipe", "timesteps", "seed"))
    line = (
        f"snnc compile MODEL.onnx --calibration DATA.npz --recipe {recipe} "
        f"--timesteps {steps} --seed {seed}"
    )
    if record.get("form") == "physical":
        line += " --form physical"
    for name, value in _changed(record):
        line += " --set " + _quoted(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        )
    made = f"{line} -o {_quoted(artifact)}"
    return (
        clean(made) + "\n" + clean(f"snnc run {_quoted(artifact)} TEST.npz --reference MODEL.onnx")
    )


def _changed(record: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The options that differ from those of the recipe as this version knows it."""
    from passes.options import configure

    try:
        usual = {p.name: asdict(p) for p in configure(str(record.get("recipe")), {})}  # type: ignore[call-overload]
    except InputError:
        return []
    passes = record.get("passes")
    return [
        (f"{noted['name']}.{key}", value)
        for noted in (passes if isinstance(passes, list) else [])
        if isinstance(noted, dict)
        for key, value in noted.items()
        if value != usual.get(str(noted.get("name")), {}).get(key, value)
    ]


def _quoted(name: str) -> str:
    plain = name and all(c.isalnum() or c in "._-/=" for c in name)
    return name if plain else "'" + name.replace("'", "'\\''") + "'"


def diffs(folder: Path | None) -> list[tuple[str, str]]:
    """(pass, difference) of every dump in a folder of `--dump-ir`, in order.

    Raises:
        InputError: the folder holds none.
    """
    if folder is None:
        return []
    files = sorted(folder.glob("[0-9][0-9][0-9]_*.diff"))
    if not files:
        raise refuse(
            f"there are no dumps in '{folder}'",
            "no file is named like 001_simplify.diff",
            "name the folder that was given to 'snnc compile --dump-ir'",
        )
    result = []
    for file in files:
        lines = [clean(line) for line in file.read_text(errors="replace").splitlines()]
        if len(lines) > _LINES:
            lines = [*lines[:_LINES], f"... {len(lines) - _LINES} more lines in {file.name}"]
        if any(lines):
            result.append((file.stem.partition("_")[2], "\n".join(lines)))
    return result
