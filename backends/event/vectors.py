"""Vector instructions for the kernels: LLVM, where a plain loop would not keep blocks in registers.

A block is 16 x len(lanes) numbers; `lanes` is a tuple, so that its length is known to the compiler
and every length is a version of its own, which Numba can keep on disk. It makes them anew when the
file of a kernel changes, but not when this one, `rows`, `masks`, `currents` or `sharing` does:
then `make clean`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backends.event.emit import INDEX, const, place_from, resized, same_numbers, vector_at

_LINE = 64  # bytes of a cache


@intrinsic
def collect(_context, target, n, source, begin, end, shift):
    """target[n + i] = source[begin + i] + shift, i < end - begin; a vector at least.

    Up to 32 numbers more are read and written: both have to be that much longer.
    """
    index = types.int64
    signature = types.void(target, index, source, index, index, shift)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        to, since = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2))
        kind = to.type.pointee
        out, source = b.gep(to, [args[1]]), b.gep(since, [args[3]])
        _copy(b, out, source, b.sub(args[4], args[3]), resized(b, args[5], kind))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def collect_runs(_context, target, source, starts, at, runs, first, last, shifted):
    """Collect what runs first .. last of `runs` tell, one after the other; returns how many.

    Of a run (q, r, shift): source[starts[at + q]:starts[at + r]], if `shifted` + shift. Numbers
    beyond the ends are read and written as in `collect`.
    """
    index = types.int64
    signature = index(target, source, starts, index, runs, index, index, shifted)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        to, since, begins, table = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 1, 2, 4)
        )
        kind, begins = to.type.pointee, b.gep(begins, [args[3]])
        count = cgutils.alloca_once_value(b, const(0))
        with cgutils.for_range_slice(b, args[5], args[6], const(1), INDEX) as (r, _):
            run = b.gep(table, [b.mul(r, const(3))])
            places = (b.sext(b.load(b.gep(run, [const(i)])), INDEX) for i in (0, 1))
            begin, end = (b.sext(b.load(b.gep(begins, [q])), INDEX) for q in places)
            shift = b.load(b.gep(run, [const(2)]))
            shift = b.select(b.trunc(args[7], ir.IntType(1)), shift, ir.Constant(shift.type, 0))
            n = b.load(count)
            out, source = b.gep(to, [n]), b.gep(since, [begin])
            length = b.sub(end, begin)
            _copy(b, out, source, length, resized(b, shift, kind))
            b.store(b.add(n, length), count)
        return b.load(count)

    return signature, codegen


@intrinsic
def fill(_context, target, n, number):
    """target[n + i] = number, i < 16."""
    signature = types.void(target, types.int64, number)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        to = context.make_array(sig.args[0])(context, b, args[0]).data
        kind = to.type.pointee
        same = same_numbers(b, resized(b, args[2], kind), 16)
        b.store(same, place_from(b, to, args[1], kind), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fetch(_context, source, first, last):
    """Ask for source[first:last]: to be in a cache when it is read, or written."""
    signature = types.void(source, types.int64, types.int64)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, b, args[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, *[number] * 3])
        ask = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0i8")
        size = context.get_abi_sizeof(data.type.pointee)
        begin, end = (b.mul(i, const(size)) for i in args[1:])
        data, end = b.bitcast(data, byte), b.add(end, const(_LINE))  # the line it ends in, too
        with cgutils.for_range_slice(b, begin, end, const(_LINE), INDEX) as (i, _):
            b.call(ask, [b.gep(data, [i]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_taps(_context, total, at, w, x, here, widths, taps, first, last, c0, places, lanes):
    """total[at + j] += sum of w[k, c] x[q, c], c = c0 + j, over the taps (q, k) first .. last.

    x from its element `here` on: counts, or bits as uint16 of which places[c / 16] of every q holds
    channel c. widths: elements of w for every k, of x for every q. The sums stay in registers.
    """
    index = types.int64
    signature = types.void(
        total, index, w, x, index, widths, taps, index, index, index, places, lanes
    )
    packed = x.dtype == types.uint16

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, factors, source, table, order = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 3, 6, 10)
        )
        kind, stored = target.type.pointee, source.type.pointee
        real = isinstance(kind, ir.DoubleType)
        vector = ir.VectorType(kind, 16)
        target, source = b.gep(target, [args[1]]), b.gep(source, [args[4]])
        per_tap, per_place = (b.extract_value(args[5], i) for i in (0, 1))
        blocks = range(0, 16 * len(lanes), 16)
        first_word = b.udiv(args[9], const(16))
        words = [b.gep(order, [b.add(first_word, const(j // 16))]) for j in blocks]
        words = [b.load(word) for word in words] if packed else []
        sums = [cgutils.alloca_once(b, vector) for _ in blocks]
        for j, total in zip(blocks, sums, strict=True):
            b.store(b.load(vector_at(b, target, j, kind), align=1), total)

        def product(weight: Any, begin: Any, j: int) -> Any:
            if packed:
                word = b.load(b.gep(begin, [words[j // 16]]))
                fires = b.bitcast(word, ir.VectorType(ir.IntType(1), 16))
                return b.select(fires, weight, ir.Constant(vector, None))
            count = b.load(vector_at(b, b.gep(begin, [args[9]]), j, stored), align=1)
            if real:
                return b.fmul(weight, b.sitofp(count, vector))
            return b.mul(weight, count if stored == kind else b.sext(count, vector))

        with cgutils.for_range_slice(b, args[7], args[8], const(1), INDEX) as (r, _):
            tap = b.gep(table, [b.mul(r, const(2))])
            q, k = (b.sext(b.load(b.gep(tap, [const(i)])), INDEX) for i in (0, 1))
            row = b.gep(factors, [b.add(b.mul(k, per_tap), args[9])])
            begin = b.gep(source, [b.mul(q, per_place)])
            for j, total in zip(blocks, sums, strict=True):
                more = product(b.load(vector_at(b, row, j, kind), align=1), begin, j)
                b.store((b.fadd if real else b.add)(b.load(total), more), total)
        for j, total in zip(blocks, sums, strict=True):
            b.store(b.load(total), vector_at(b, target, j, kind), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fire_block(_context, u, here, bias, shift, sent, out, at, least, most, signed, lanes):
    """U = u + bias;  s = clip(U >> shift, least, most), no less than -sent if `signed`.

    u = U - (s << shift);  sent += s if `signed`;  out[at + j] = s. All but `out` are int32; u,
    bias and sent from their element `here` on.
    """
    signature = types.void(
        u, types.int64, bias, shift, sent, out, types.int64, least, most, signed, lanes
    )
    number = ir.IntType(32)
    vector = ir.VectorType(number, 16)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        potential, current, bits, count, target = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 3, 4, 5)
        )
        potential, current, count = (b.gep(x, [args[1]]) for x in (potential, current, count))
        kind = target.type.pointee
        low, high = (same_numbers(b, resized(b, args[i], number), 16) for i in (7, 8))

        def larger(x: Any, y: Any) -> Any:
            return b.select(b.icmp_signed(">", x, y), x, y)

        def load(pointer: Any, j: int) -> Any:
            return b.load(vector_at(b, pointer, j, number), align=4)

        def emit(with_sign: bool) -> None:
            for j in range(0, 16 * len(lanes), 16):
                total, k = b.add(load(potential, j), load(current, j)), load(bits, j)
                s = larger(b.ashr(total, k), low)
                s = b.select(b.icmp_signed("<", s, high), s, high)
                if with_sign:
                    so_far = load(count, j)
                    s = larger(s, b.sub(ir.Constant(vector, None), so_far))
                    b.store(b.add(so_far, s), vector_at(b, count, j, number), align=4)
                b.store(b.sub(total, b.shl(s, k)), vector_at(b, potential, j, number), align=4)
                place = b.gep(target, [b.add(args[6], const(j))])
                place = b.bitcast(place, ir.VectorType(kind, 16).as_pointer())
                small = s if kind.width == 32 else b.trunc(s, ir.VectorType(kind, 16))
                b.store(small, place, align=1)

        with b.if_else(b.trunc(args[9], ir.IntType(1))) as (two_sided, one_sided):
            with two_sided:
                emit(True)
            with one_sided:
                emit(False)
        return context.get_dummy_value()

    return signature, codegen


def _copy(b: Any, out: Any, source: Any, length: Any, more: Any) -> None:
    """Emit out[i] = source[i] + more, i < length, as `collect` tells."""
    kind = out.type.pointee
    n = 32 if kind.width == 16 else 16
    shift, vector = same_numbers(b, more, n), ir.VectorType(kind, n).as_pointer()

    def copy(i: Any) -> None:
        here, to = (b.bitcast(b.gep(pointer, [i]), vector) for pointer in (source, out))
        b.store(b.add(b.load(here, align=1), shift), to, align=1)

    copy(const(0))
    with cgutils.for_range_slice(b, const(n), length, const(n), INDEX) as (i, _):
        copy(i)
