"""Files that appear whole or not at all, and the dumps of the IR after each pass."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from snncompiler.diagnostics import refuse
from snncompiler.ops import DOMAIN, functions
from snncompiler.text import compact, diff


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed at the end: nobody sees half a file.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    except OSError as error:
        raise _unwritable(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_writable(path: Path) -> None:
    """Fail before the work, not after it, if `path` could not be written.

    Raises:
        InputError: the folder is missing or not writable, or the path is a folder.
    """
    try:
        if path.is_dir():
            raise refuse(f"cannot write '{path}'", "it is a folder", "name a file in it")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def make_folder(path: Path) -> None:
    """Make a folder to write to, if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> Exception:
    why = error.strerror or "the folder cannot be written"
    return refuse(f"cannot write '{path}'", why, "choose another folder")


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
