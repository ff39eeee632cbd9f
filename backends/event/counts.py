"""Vector instructions on spike counts, small integers: summing, pooling, finding events.

As in `vectors`, which these go on from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backends.event.emit import INDEX, const, place_from, resized_vector, same_numbers


@intrinsic
def add_up(_context, totals, here, x, at, size, absolute):
    """totals[here + j] += x[at + j], if `absolute` its amount, for j < size, 16 at a time."""
    index = types.int64
    signature = types.void(totals, index, x, index, index, absolute)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2))
        kind, stored = target.type.pointee, source.type.pointee
        vector = ir.VectorType(kind, 16)
        with cgutils.for_range(b, b.sdiv(args[4], const(16)), intp=INDEX) as loop:
            j = b.mul(loop.index, const(16))
            number = b.load(place_from(b, source, b.add(args[3], j), stored), align=1)
            number = number if stored == kind else resized_vector(b, number, kind)
            minus = b.sub(ir.Constant(vector, None), number)
            larger = b.select(b.icmp_signed(">", number, minus), number, minus)
            number = b.select(b.trunc(args[5], ir.IntType(1)), larger, number)
            place = place_from(b, target, b.add(args[1], j), kind)
            b.store(b.add(b.load(place, align=1), number), place, align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pool_windows(_context, out, at, totals, base, top, here, taps, begin, end, channels):
    """M = max of totals[base + taps[r] channels + c], begin <= r < end;  out = M - top;  top = M.

    c: the multiples of 16 below `channels`. out from `at` on, top from `here` on.
    """
    index = types.int64
    signature = types.void(out, index, totals, index, top, index, taps, index, index, index)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = {i: context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 4, 6)}
        kind, small = data[2].type.pointee, data[0].type.pointee

        def write(i: Any, largest: Any, before: Any) -> None:
            rise = b.sub(largest, before)
            rise = rise if small == kind else resized_vector(b, rise, small)
            place = b.add(args[1], b.mul(i, const(16)))
            b.store(rise, place_from(b, data[0], place, small), align=1)

        maxima_of_windows(b, data, args, write, 16)
        return context.get_dummy_value()

    return signature, codegen


def maxima_of_windows(
    b: Any, data: dict[int, Any], args: Any, write: Callable[..., None], at_once: int
) -> None:
    """Emit what `pool_windows` tells but for the output: write(i, M, top), channels `at_once`.

    data: pointers, by the number of the argument.
    """
    source, before, places = data[2], data[4], data[6]
    kind = source.type.pointee
    vector = ir.VectorType(kind, at_once)
    largest = cgutils.alloca_once(b, vector)

    def seen(r: Any, j: Any) -> Any:
        q = b.sext(b.load(b.gep(places, [r])), INDEX)
        start = b.add(args[3], b.add(b.mul(q, args[9]), j))
        return b.load(b.bitcast(b.gep(source, [start]), vector.as_pointer()), align=1)

    with cgutils.for_range(b, b.sdiv(args[9], const(at_once)), intp=INDEX) as loop:
        j = b.mul(loop.index, const(at_once))
        b.store(seen(args[7], j), largest)
        with cgutils.for_range(b, args[8], b.add(args[7], const(1)), intp=INDEX) as window:
            x, y = seen(window.index, j), b.load(largest)
            b.store(b.select(b.icmp_signed(">", x, y), x, y), largest)
        place = b.bitcast(b.gep(before, [b.add(args[5], j)]), vector.as_pointer())
        write(loop.index, b.load(largest), b.load(place, align=1))
        b.store(b.load(largest), place, align=1)


@intrinsic
def bits_of(_context, x, at, beyond, eighths):
    """A bit for each of 8 len(eighths) counts from x[at] on: is it not 0, or `beyond` 0 and 1?"""
    signature = types.uint64(x, types.int64, beyond, eighths)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        source = context.make_array(sig.args[0])(context, b, args[0]).data
        kind, n = source.type.pointee, 8 * len(eighths)
        vector = ir.VectorType(kind, n)
        place = b.bitcast(b.gep(source, [args[1]]), vector.as_pointer())
        counts = b.load(place, align=1)
        limit = b.zext(b.trunc(args[2], ir.IntType(1)), kind)
        found = b.icmp_unsigned(">", counts, same_numbers(b, limit, n))
        return b.zext(b.bitcast(found, ir.IntType(n)), INDEX) if n < 64 else b.bitcast(found, INDEX)

    return signature, codegen


@intrinsic
def lowest_bit(_context, word):
    """How many zero bits are below the lowest one of a word that is not zero."""

    def codegen(_: Any, b: Any, _sig: Any, args: Any) -> Any:
        return b.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


@intrinsic
def ones(_context, word):
    """How many bits of a word are one."""

    def codegen(_: Any, b: Any, _sig: Any, args: Any) -> Any:
        return b.ctpop(args[0])

    return types.uint64(types.uint64), codegen
