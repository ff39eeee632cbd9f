"""Leave for a machine: stand-alone projects, and what a network would take of a chip."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rich.text import Text

from backends.lava.emission import emit
from backends.lava.fit import fit, fit_text
from snncompiler.artifact import load
from snncompiler.diagnostics import clean, clean_lines, refuse


def write_project(model: str | Path, target: str, folder: Path) -> tuple[dict[str, object], Text]:
    """Write the project of a compiled network; returns what was written, as JSON and to show.

    Raises:
        InputError: the network or target does not fit, or the folder holds something already.
    """
    network = load(model)
    report = fit_text(fit(network)) if target == "lava" else ""
    files = emit(network, target, clean(Path(model).stem), report)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise refuse(
            f"'{folder}' is not empty", "a project would overwrite what is there", "name a new one"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".emit-") as scratch:
            made = Path(scratch) / "project"
            for name, content in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
            if folder.exists():
                folder.rmdir()
            shutil.move(made, folder)
    except OSError as error:
        raise refuse(
            f"cannot write to '{folder}'", error.strerror or str(error), "choose another folder"
        ) from None
    written: dict[str, object] = {"output": str(folder), "target": target, "files": sorted(files)}
    return written, Text(clean(f"wrote {folder}: {', '.join(sorted(files))}"))


def fit_report(model: str | Path, target: str) -> tuple[dict[str, object], Text]:
    """What a compiled network takes of a target, as JSON and to show.

    Raises:
        InputError: there is no report for the target, or the file holds no compiled network.
    """
    if target != "loihi2":
        raise refuse(
            f"there is no fit report for '{target}'", "one chip is known", "use --target loihi2"
        )
    report = fit(load(model))
    return report.as_json(), Text(clean_lines(fit_text(report).split("\n")))
