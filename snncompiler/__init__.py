"""snncompiler: a trained network in an ONNX file becomes a spiking one, provably the same.

The public names are looked up when first used, so that `import snncompiler` costs nothing.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "check_model", "compile_model", "load", "simulate"]

if TYPE_CHECKING:
    from snncompiler.driver import check_model, compile_model, load, simulate


def __getattr__(name: str) -> object:
    if name in __all__:
        from snncompiler import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'snncompiler' has no attribute {name!r}")
