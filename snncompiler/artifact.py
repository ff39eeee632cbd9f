"""Compiled networks: reading them from files, and running them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import backends
from snncompiler import gate
from snncompiler.data import check_samples
from snncompiler.diagnostics import InputError, VerificationError, refuse
from snncompiler.graph import define_ops, shape, sources
from snncompiler.ops import register
from snncompiler.record import choose_timesteps, record_of
from snncompiler.trace import Observe, Trace
from snncompiler.verify import verify


def open_any(path: str | Path) -> ir.Model:
    """A compiled network, or a trained one as it stands after import, to look at.

    Raises:
        InputError: the file is bad.
    """
    register()
    proto = gate.read(path)
    if gate.is_compiled(proto):
        return load(path)
    from snncompiler import frontend  # what imports trained networks is slow to load itself

    return frontend.load(proto).model


def load(path: str | Path) -> ir.Model:
    """Read a compiled network.

    Raises:
        InputError: the file is bad, or holds a network that was not compiled.
    """
    register()
    proto = gate.read(path)
    if not gate.is_compiled(proto):
        raise refuse(
            f"'{path}' is not a spiking network",
            "it holds a trained network that was not compiled",
            "run 'snnc compile' on it first",
        )
    try:
        model = ir.from_proto(proto)
        _trust_only_ours(model, str(path))
        verify(model, "compile")
    except InputError:
        raise
    except Exception as error:
        why = error.problems[0].why if isinstance(error, VerificationError) else str(error)
        why = " ".join(why.split())[:300]
        raise refuse(f"'{path}' is damaged", why, "compile the network again") from None
    return model


def _trust_only_ours(model: ir.Model, where: str) -> None:
    """The function bodies of a file are replaced by ours: what runs is what the domain means."""
    record = record_of(model)
    if not record or len(model.graph.inputs) != 2 or not all(sources(n) for n in model.graph):
        raise refuse(
            f"'{where}' is not a network that this compiler wrote",
            "it lacks the record of its compilation",
            "compile the trained network again",
        )
    define_ops(model)


def simulate(
    model: ir.Model | str | Path,
    x: NDArray[Any],
    timesteps: int | None = None,
    *,
    backend: str = backends.DEFAULT,
    observe: Observe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Run a compiled network on samples.

    Args:
        model: a compiled model or its file.
        x: float32 [N, ...].
        timesteps: T; by default the T it was compiled for.
        backend: a name of backends.BACKENDS.
        observe: what to keep.
        progress: called with (done, total) samples times steps.

    Raises:
        InputError: samples, T, file or backend name do not fit.
    """
    if not isinstance(model, ir.Model):
        model = load(model)
    steps = choose_timesteps(record_of(model), timesteps)
    samples = check_samples(np.asarray(x), shape(model.graph.inputs[0]))
    program = backends.load(backend).build(model)
    return program.run(samples, steps, observe or Observe(), progress)
