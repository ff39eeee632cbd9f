"""snncompiler: a trained network in an ONNX file becomes a spiking one, provably the same.

The public names are looked up when first used, so that `import snncompiler` costs nothing.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "check_model",
    "compare",
    "compile_model",
    "diagnose",
    "gather",
    "load",
    "simulate",
    "write_report",
]
_HOMES = {
    "check_model": "driver",
    "compare": "comparison",
    "compile_model": "driver",
    "diagnose": "doctor",
    "gather": "study",
    "load": "artifact",
    "simulate": "artifact",
    "write_report": "page",
}

if TYPE_CHECKING:
    from snncompiler.artifact import load, simulate
    from snncompiler.comparison import compare
    from snncompiler.doctor import diagnose
    from snncompiler.driver import check_model, compile_model
    from snncompiler.page import write_report
    from snncompiler.study import gather


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"snncompiler.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'snncompiler' has no attribute {name!r}")
