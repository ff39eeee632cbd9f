"""Vector instructions on spikes of binary neurons: a bit for each, 16 channels in a number.

As in `vectors`, which these go on from; the first channel is the lowest bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backends.event.counts import maxima_of_windows
from backends.event.emit import INDEX, const, same_numbers
from backends.event.rows import sum_of_rows

_NUMBER = ir.IntType(32)
#: Of every byte the places of its bits that are set, in order, then those of the others.
_PLACES = ir.Constant(
    ir.ArrayType(ir.IntType(8), 256 * 8),
    bytearray(
        place
        for byte in range(256)
        for _, place in sorted((not byte >> k & 1, k) for k in range(8))
    ),
)


@intrinsic
def fire_bits(
    _context, u, here, bias, theta, narrow, w, rows, factors, first, last, scaled, out, at, places,
    lanes,
):  # fmt: skip
    """U = u + bias + sum of rows (as `add_rows`);  s = U >= theta;  u = U - theta s;  out = s.

    u and bias from their element `here` on, int32; out: bits, 16 of them to each of its elements
    at + places[i].
    """
    index = types.int64
    signature = types.void(
        u, index, bias, theta, narrow, w, rows, factors, index, index, scaled, out, index,
        places, lanes,
    )  # fmt: skip

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = {
            i: context.make_array(sig.args[i])(context, b, args[i]).data
            for i in (0, 2, 3, 4, 5, 6, 7, 11, 13)
        }
        potential, constant = (b.gep(data[i], [args[1]]) for i in (0, 2))
        target = b.gep(data[11], [args[12]])
        pointers = tuple(data[i] for i in (4, 5, 6, 7))
        pairs, length = w.dtype == types.uint16, 16 * len(lanes)
        sums = sum_of_rows(b, pointers, (args[8], args[9]), args[10], length, pairs)
        for at, x in sums:
            n = x.type.count
            vector = ir.VectorType(_NUMBER, n)

            def load(pointer: Any, at: int = at, vector: Any = vector) -> Any:
                place = b.bitcast(b.gep(pointer, [const(at)]), vector.as_pointer())
                return b.load(place, align=4)

            x = x if x.type.element == _NUMBER else b.sext(x, vector)
            total = b.add(b.add(load(potential), load(constant)), x)
            limit = load(data[3])
            fires = b.icmp_signed(">=", total, limit)
            left = b.select(fires, b.sub(total, limit), total)
            place = b.bitcast(b.gep(potential, [const(at)]), vector.as_pointer())
            b.store(left, place, align=4)
            word = b.bitcast(fires, ir.IntType(n))
            for i in range(at // 16, (at + n) // 16):
                place = b.gep(target, [b.load(b.gep(data[13], [const(i)]))])
                bits = word if n == 16 else b.trunc(word, ir.IntType(16))
                b.store(bits, place, align=2)
                word = word if n == 16 else b.lshr(word, ir.Constant(word.type, 16))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def compresses(_context):
    """Whether one instruction finds the places of all bits of a word that are set."""

    def codegen(context: Any, _b: Any, _sig: Any, _args: Any) -> Any:
        return cgutils.true_bit if _compresses(context) else cgutils.false_bit

    return types.boolean(), codegen


@intrinsic
def list_word(_context, codes, at, word, code):
    """codes[at + j] = code + the place of the j-th bit set in a word; 16 more may be written."""
    signature = types.void(codes, types.int64, types.uint64, types.int64)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target = b.gep(context.make_array(sig.args[0])(context, b, args[0]).data, [args[1]])
        emit = _list_at_once if _compresses(context) else _list_by_bytes
        emit(b, target, args[2], b.trunc(args[3], _NUMBER))
        return context.get_dummy_value()

    return signature, codegen


def _compresses(context: Any) -> bool:
    """Whether the processor that is compiled for compresses vectors of bytes."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512vbmi2" in features


def _list_at_once(b: Any, target: Any, word: Any, code: Any) -> None:
    """Emit `list_word`: compress the numbers 0 .. 63, bytes; write down 16 at a time."""
    all_, some = (ir.VectorType(ir.IntType(8), n) for n in (64, 16))
    mask = ir.VectorType(ir.IntType(1), 64)
    kind = ir.FunctionType(all_, [all_, all_, mask])
    compress = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.mask.compress.v64i8")
    numbers, nothing = ir.Constant(all_, list(range(64))), ir.Constant(all_, None)
    places = b.call(compress, [numbers, nothing, b.bitcast(word, mask)])
    offset = same_numbers(b, code, 16)

    def write(places: Any, at: Any) -> None:
        found = b.add(b.zext(places, offset.type), offset)
        b.store(found, b.bitcast(b.gep(target, [at]), offset.type.as_pointer()), align=4)

    # Always the first sixteen: more are seldom, and whether there are any at all, nobody knows.
    front = ir.Constant(ir.VectorType(_NUMBER, 16), list(range(16)))
    write(b.shuffle_vector(places, nothing, front), const(0))
    n = b.ctpop(word)
    with b.if_then(b.icmp_unsigned(">", n, const(16)), likely=False):
        kept = cgutils.alloca_once_value(b, places)
        first = b.bitcast(kept, ir.IntType(8).as_pointer())
        with cgutils.for_range_slice(b, const(16), n, const(16), INDEX) as (i, _):
            write(b.load(b.bitcast(b.gep(first, [i]), some.as_pointer()), align=1), i)


def _list_by_bytes(b: Any, target: Any, word: Any, code: Any) -> None:
    """Emit `list_word`: look every byte up; write down eight, whether there are as many or not."""
    small, wide = ir.VectorType(ir.IntType(8), 8), ir.VectorType(_NUMBER, 8)
    table = cgutils.global_constant(b, "places_of_bits", _PLACES)
    to = const(0)
    for k in range(0, 64, 8):
        byte = b.and_(b.lshr(word, const(k)), const(255))
        row = b.bitcast(b.gep(table, [const(0), b.mul(byte, const(8))]), small.as_pointer())
        places = b.zext(b.load(row, align=8), wide)
        found = b.add(places, same_numbers(b, b.add(code, ir.Constant(_NUMBER, k)), 8))
        b.store(found, b.bitcast(b.gep(target, [to]), wide.as_pointer()), align=4)
        to = b.add(to, b.ctpop(byte))


@intrinsic
def add_bits(_context, totals, here, x, at, n):
    """totals[here + i] += bit i of x[at:], 64 n bits in all."""
    index = types.int64
    signature = types.void(totals, index, x, index, index)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        for place, ones in _spread(context, b, sig, args, 64):
            b.store(b.add(b.load(place, align=1), ones), place, align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def spread_bits(_context, out, here, x, at, n):
    """out[here + i] = bit i of x[at:], 16 n bits in all."""
    index = types.int64
    signature = types.void(out, index, x, index, index)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        for place, ones in _spread(context, b, sig, args, 16):
            b.store(ones, place, align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def rise_bits(_context, out, at, totals, base, top, here, taps, begin, end, channels):
    """Bit c of out[at:] = M > top;  top = M, as `counts.pool_windows` for all `channels`.

    channels: a multiple of 64.
    """
    index = types.int64
    signature = types.void(out, index, totals, index, top, index, taps, index, index, index)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        data = {i: context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 4, 6)}

        def write(i: Any, largest: Any, before: Any) -> None:
            word = b.bitcast(b.icmp_signed(">", largest, before), INDEX)
            place = b.gep(data[0], [b.add(args[1], b.mul(i, const(4)))])
            b.store(word, b.bitcast(place, INDEX.as_pointer()), align=2)

        maxima_of_windows(b, data, args, write, 64)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def count_bits(_context, totals, here, x, at, stride, n, more, words):
    """totals[here + i] = how often bit i of x[at + k stride:] is set, k < n <= 255; + if `more`.

    i < 64 len(words). As many words as a cache line has make it quick.
    """
    index = types.int64
    signature = types.void(totals, index, x, index, index, index, more, words)
    vector = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2))
        wide = ir.VectorType(target.type.pointee, 64)
        counts = [cgutils.alloca_once(b, vector) for _ in words]
        for count in counts:
            b.store(ir.Constant(vector, None), count)
        with cgutils.for_range(b, args[5], intp=INDEX) as loop:
            row = b.gep(source, [b.add(args[3], b.mul(loop.index, args[4]))])
            row = b.bitcast(row, INDEX.as_pointer())
            for j, count in enumerate(counts):
                word = b.load(b.gep(row, [const(j)]), align=2)
                ones = b.zext(b.bitcast(word, ir.VectorType(ir.IntType(1), 64)), vector)
                b.store(b.add(b.load(count), ones), count)

        def write(adds: bool) -> None:
            for j, count in enumerate(counts):
                place = b.gep(target, [b.add(args[1], const(64 * j))])
                place = b.bitcast(place, wide.as_pointer())
                found = b.zext(b.load(count), wide)
                found = b.add(b.load(place, align=8), found) if adds else found
                b.store(found, place, align=8)

        with b.if_else(b.trunc(args[6], ir.IntType(1))) as (again, first):
            with again:
                write(True)
            with first:
                write(False)
        return context.get_dummy_value()

    return signature, codegen


def _spread(context: Any, b: Any, sig: Any, args: Any, bits: int) -> Iterator[tuple[Any, Any]]:
    """The body of a loop over words x[at:], for (target, here, x, at, n): places, `bits` bits."""
    target, source = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2))
    vector, kind = ir.VectorType(target.type.pointee, bits), ir.IntType(bits)
    first = b.bitcast(b.gep(source, [args[3]]), kind.as_pointer())
    with cgutils.for_range(b, args[4], intp=INDEX) as loop:
        word = b.load(b.gep(first, [loop.index]), align=2)
        ones = b.zext(b.bitcast(word, ir.VectorType(ir.IntType(1), bits)), vector)
        j = b.add(args[1], b.mul(loop.index, const(bits)))
        yield b.bitcast(b.gep(target, [j]), vector.as_pointer()), ones
