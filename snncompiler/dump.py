"""The dumps of the IR after each pass."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx_ir as ir

from snncompiler.diagnostics import refuse
from snncompiler.files import make_folder, write_whole
from snncompiler.ops import DOMAIN, functions
from snncompiler.text import compact, diff


class Dumps:
    """NNN_pass.txt, NNN_pass.onnx and NNN_pass.diff in a folder, one set a pass.

    Raises:
        InputError: there is a file in the folder's place.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = ""
        self._label = "nothing"
        self._number = 0
        self._written: list[Path] = []
        self._made = [f for f in (folder, *folder.parents) if not f.exists()]
        if folder.exists() and not folder.is_dir():
            raise refuse(f"cannot write '{folder}'", "it is a file", "choose another --dump-ir")

    def write(self, name: str, model: ir.Model) -> None:
        """Dump the model as it is after the pass `name`."""
        make_folder(self._folder)
        stem = f"{self._number:03d}_{name}"
        text = compact(model)
        self._write(f"{stem}.txt", text.encode())
        proto = ir.to_proto(model)
        if DOMAIN in model.opset_imports and not model.functions:
            # Viewers then know the names of a neuron's inputs, and what is inside.
            proto.functions.extend(functions())
        self._write(f"{stem}.onnx", proto.SerializeToString())
        if self._number:
            changes = diff(self._before, text, (self._label, stem))
            self._write(f"{stem}.diff", changes.encode())
        self._before, self._label = text, stem
        self._number += 1

    def _write(self, name: str, data: bytes) -> None:
        write_whole(self._folder / name, data)
        self._written.append(self._folder / name)

    def discard(self) -> None:
        """Take back what was written: a network that is refused leaves nothing behind."""
        for path in self._written:
            path.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
