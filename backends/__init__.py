"""Backends: what runs a compiled network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.base import Backend
from snncompiler.diagnostics import clean, refuse


def _numpy(**options: Any) -> Backend:
    from backends.reference import NumpyBackend

    return NumpyBackend(**options)


def _event(**options: Any) -> Backend:
    from backends.event.program import EventBackend

    return EventBackend(**options)


def _onnxruntime(**options: Any) -> Backend:
    from backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(**options)


def _lava(**options: Any) -> Backend:
    from backends.lava.backend import LavaBackend

    return LavaBackend(**options)


#: What `run` uses unless told otherwise.
DEFAULT = "event"

#: By name: what imports a backend, only when it is chosen, and makes it with the options given.
BACKENDS: dict[str, Callable[..., Backend]] = {
    "event": _event,  # the same spikes, at the cost of the events, on all cores
    "numpy": _numpy,  # the living definition: one step at a time, small and plain
    "onnxruntime": _onnxruntime,  # the compiled file itself, its own function bodies included
    "lava": _lava,  # Intel's Lava, in a guarded process of its own with a Python 3.10
}


def load(name: str, **options: Any) -> Backend:
    """The backend of this name.

    Raises:
        InputError: there is none.
    """
    if name not in BACKENDS:
        raise refuse(
            f"there is no backend '{clean(name)}'",
            "a network runs on one of the backends that this package has",
            f"choose one of {', '.join(BACKENDS)}",
        )
    return BACKENDS[name](**options)
