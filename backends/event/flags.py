"""Flags that threads wait for: looked at again and again, without the GIL."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _look(_context, array, i):
    """array[i] as it is now, whoever writes it; and a hint that this is waiting."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, b, args[0]).data
        if "x86_64" in b.module.triple:
            kind = ir.FunctionType(ir.VoidType(), [])
            b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.x86.sse2.pause"), [])
        return b.load_atomic(b.gep(data, [args[1]]), "acquire", 8)

    return types.int64(array, types.int64), codegen


@njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
def changes(array, i, value, times):
    """Whether array[i] is found to be another value, when looked at up to so many times."""
    for _ in range(times):  # noqa: SIM110 - a generator is no loop for Numba
        if _look(array, i) != value:
            return True
    return False
