"""Several threads at one call of a kernel, without the GIL.

To hand the GIL over takes as long as many a layer of a single sample. So who helps does not come
back to Python for every task: a kernel posts its function and its arguments on a board, an array of
whole numbers that helpers look at again and again, and everybody takes tasks by counting up.

A turn of the board is odd while there is something to join. A helper says that it works, then
looks whether the turn is still the same; who posted ends the turn, then looks who works. One of the
two sees the other, so nobody reads arguments that are gone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, compiler
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from backends.event.emit import INDEX, const
from snncompiler.graph import Array

_LINE = 8
#: Places on a board, on cache lines of their own: the turn and what is posted; the next task; how
#: many helpers there are; which of them works.
_TURN, _FUNCTION, _ARGUMENTS, _NEXT, _HELPERS, _WORKING = 0, 1, 2, _LINE, 2 * _LINE, 3 * _LINE
#: The turn after the last.
CLOSED = -1
_TASK = types.Array(types.int64, 1, "C")
_BYTE = ir.IntType(8).as_pointer()
_POSTED = ir.FunctionType(ir.VoidType(), [_BYTE, INDEX])

#: Marks what `together` calls, and compiles for each kernel; it is never called from Python.
body = njit


def new_board(helpers: int = 0) -> Array:
    """A board for one thread that calls kernels, and so many that help."""
    board = np.zeros(_WORKING + _LINE * helpers, np.int64)
    board[_HELPERS] = helpers
    return board


def close(board: Array) -> None:
    """Let helpers go; nothing is posted any more."""
    board[_TURN] = CLOSED


def is_closed(board: Array) -> bool:
    """Whether that was done."""
    return int(board[_TURN]) == CLOSED


@njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
def help_out(board, hand, patience):
    """Join whatever is posted, as hand 1, 2, ..., until so many looks in a row find nothing."""
    here, last, left = _WORKING + _LINE * (hand - 1), np.int64(0), patience
    while left > 0:
        turn = _look(board, _TURN)
        if turn == CLOSED:
            return
        left -= 1
        if turn & 1 and turn != last:
            _write(board, here, 1)
            if _look(board, _TURN) == turn:
                _join(board, hand)
                last, left = turn, patience
            _write(board, here, 0)


@intrinsic
def together(_context, board, function, tasks, given):
    """function(hand, tasks[i], *given), i < len(tasks), by the caller, hand 0, and by all helpers.

    function: a `body`; it raises nothing. tasks: int64, [tasks, any].
    """

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        packed = cgutils.pack_struct(b, [args[0], args[2], args[3]])
        room = cgutils.alloca_once_value(b, packed)
        posted = ir.Function(b.module, _POSTED, b.module.get_unique_name(f"{b.function.name}.do"))
        posted.linkage = "internal"
        inside = ir.IRBuilder(posted.append_basic_block())
        packed = inside.load(inside.bitcast(posted.args[0], room.type))
        compiled = _compiled(context, function.dispatcher.py_func, (types.int64, _TASK, *given))
        _take_tasks(context, inside, (board, tasks, given), packed, posted.args[1], compiled)
        inside.ret_void()

        data = _data(context, b, sig, args)
        for place, number in (
            (_NEXT, const(0)),
            (_FUNCTION, b.ptrtoint(posted, INDEX)),
            (_ARGUMENTS, b.ptrtoint(room, INDEX)),
        ):
            b.store(number, b.gep(data, [const(place)]))
        turn = b.gep(data, [const(_TURN)])
        b.atomic_rmw("add", turn, const(1), "seq_cst")
        b.call(posted, [b.bitcast(room, _BYTE), const(0)])
        b.atomic_rmw("add", turn, const(1), "seq_cst")
        helpers = b.load(b.gep(data, [const(_HELPERS)]))
        with cgutils.for_range(b, helpers, intp=INDEX) as loop:
            _wait(b, b.gep(data, [b.add(const(_WORKING), b.mul(loop.index, const(_LINE)))]))
        return context.get_dummy_value()

    return types.void(board, function, tasks, given), codegen


def _compiled(context: Any, function: Any, kinds: tuple[Any, ...]) -> Any:
    """A function for arguments of these types, part of what is being compiled.

    As code of its own, as Numba would have it, it would be optimised, and made to run, twice.
    """
    flags = compiler.Flags()
    flags.error_model = "numpy"
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library, typing = context.active_code_library, context.typing_context
    return compiler.compile_internal(
        typing, context, library, function, kinds, types.none, flags, {}
    )


def _take_tasks(
    context: Any, b: Any, kinds: tuple[Any, ...], packed: Any, hand: Any, compiled: Any
) -> None:
    """Emit: call a function for task after task. packed: board, tasks, given, of these kinds."""
    board, tasks, rest = (b.extract_value(packed, i) for i in range(3))
    numbers, array = (
        context.make_array(kind)(context, b, x)
        for kind, x in zip(kinds, (board, tasks), strict=False)
    )
    size, width = (b.extract_value(array.shape, i) for i in (0, 1))
    parts = [b.extract_value(rest, i) for i in range(len(kinds[2]))]
    again, do, over = (b.append_basic_block(name) for name in ("again", "do", "over"))
    b.branch(again)
    b.position_at_end(again)
    i = b.atomic_rmw("add", b.gep(numbers.data, [const(_NEXT)]), const(1), "monotonic")
    b.cbranch(b.icmp_signed("<", i, size), do, over)
    b.position_at_end(do)
    task, each = context.make_array(_TASK)(context, b), const(8)
    populate_array(task, b.gep(array.data, [b.mul(i, width)]), [width], [each], each, None)
    function = context.declare_function(b.module, compiled.fndesc)
    everything = [hand, task._getvalue(), *parts]
    # Written out here as well, it would be compiled twice.
    context.call_conv.call_function(
        b, function, types.none, compiled.signature.args, everything, attrs=("noinline",)
    )
    b.branch(again)
    b.position_at_end(over)


@intrinsic
def _join(_context, board, hand):
    """Call what is posted."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = _data(context, b, sig, args)
        function, given = (b.load(b.gep(data, [const(i)])) for i in (_FUNCTION, _ARGUMENTS))
        posted = b.inttoptr(function, _POSTED.as_pointer())
        b.call(posted, [b.inttoptr(given, _BYTE), args[1]])
        return context.get_dummy_value()

    return types.void(board, types.int64), codegen


@intrinsic
def _look(_context, board, i):
    """board[i] as it is now, whoever writes it."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return _now(b, b.gep(_data(context, b, sig, args), [args[1]]))

    return types.int64(board, types.int64), codegen


@intrinsic
def _write(_context, board, i, number):
    """board[i] = number, for everybody before this thread looks at anything else."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        b.store_atomic(args[2], b.gep(_data(context, b, sig, args), [args[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), codegen


def _wait(b: Any, place: Any) -> None:
    """Emit: wait until there is a zero."""
    again, over = (b.append_basic_block(name) for name in ("again", "over"))
    b.branch(again)
    b.position_at_end(again)
    b.cbranch(b.icmp_signed("!=", _now(b, place), const(0)), again, over)
    b.position_at_end(over)


def _now(b: Any, place: Any) -> Any:
    """Emit: a number as it is now, and a hint to the processor that this is waiting."""
    if "x86_64" in b.module.triple:
        kind = ir.FunctionType(ir.VoidType(), [])
        b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.x86.sse2.pause"), [])
    return b.load_atomic(place, "seq_cst", 8)


def _data(context: Any, b: Any, sig: Any, args: Any) -> Any:
    """A pointer to the board, the first argument."""
    return context.make_array(sig.args[0])(context, b, args[0]).data
