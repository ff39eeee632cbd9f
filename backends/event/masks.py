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
from backends.event.emit import INDEX, const, same_numbers, vector_at
from backends.event.rows import sum_of_rows

_NUMBER = ir.IntType(32)
_BIT = ir.IntType(1)
#: Rows of bits to count at once: 2^k - 1.
TOGETHER = 15
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
    _context, u, here, bias, theta, narrow, w, rows, factors, n, limit, scaled, out, at, places,
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
        sums = sum_of_rows(b, pointers, args[8], args[9], args[10], length, pairs)
        for at, x in sums:
            n = x.type.count
            vector = ir.VectorType(_NUMBER, n)

            def load(pointer: Any, at: int = at, vector: Any = vector) -> Any:
                place = b.bitcast(b.gep(pointer, [const(at)]), vector.as_pointer())
                return b.load(place, align=4)

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
def fire_on(_context, u, bias, theta, out, at, stride, steps, places, lanes):
    """As `fire_bits` for some steps without rows, u in registers; a step's bits after `stride`."""
    index = types.int64
    signature = types.void(u, bias, theta, out, index, index, index, places, lanes)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        potential, constant, threshold, target, order = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 1, 2, 3, 7)
        )
        blocks = range(len(lanes))

        def load(pointer: Any) -> list[Any]:
            return [b.load(vector_at(b, pointer, 16 * j, _NUMBER), align=4) for j in blocks]

        current, limits = load(constant), load(threshold)
        words = [b.load(b.gep(order, [const(j)])) for j in blocks]
        totals = [cgutils.alloca_once_value(b, x) for x in load(potential)]
        target = b.gep(target, [args[4]])
        with cgutils.for_range(b, args[6], intp=INDEX) as loop:
            place = b.gep(target, [b.mul(loop.index, args[5])])
            for total, more, limit, word in zip(totals, current, limits, words, strict=True):
                x = b.add(b.load(total), more)
                fires = b.icmp_signed(">=", x, limit)
                b.store(b.select(fires, b.sub(x, limit), x), total)
                b.store(b.bitcast(fires, ir.IntType(16)), b.gep(place, [word]), align=2)
        for j, total in zip(blocks, totals, strict=True):
            b.store(b.load(total), vector_at(b, potential, 16 * j, _NUMBER), align=4)
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
    """codes[at + j] = code + the place of the j-th bit set in a word; 32 more may be written."""
    signature = types.void(codes, types.int64, types.uint64, types.int64)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target = b.gep(context.make_array(sig.args[0])(context, b, args[0]).data, [args[1]])
        emit = _list_at_once if _compresses(context) else _list_by_bytes
        emit(b, target, args[2], b.trunc(args[3], target.type.pointee))
        return context.get_dummy_value()

    return signature, codegen


def _compresses(context: Any) -> bool:
    """Whether the processor that is compiled for compresses vectors of bytes."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512vbmi2" in features


def _list_at_once(b: Any, target: Any, word: Any, code: Any) -> None:
    """Emit `list_word`: compress the numbers 0 .. 63, bytes; write down a vector at a time."""
    size = 512 // code.type.width
    all_, some = (ir.VectorType(ir.IntType(8), n) for n in (64, size))
    mask = ir.VectorType(ir.IntType(1), 64)
    kind = ir.FunctionType(all_, [all_, all_, mask])
    compress = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.mask.compress.v64i8")
    numbers, nothing = ir.Constant(all_, list(range(64))), ir.Constant(all_, None)
    places = b.call(compress, [numbers, nothing, b.bitcast(word, mask)])
    offset = same_numbers(b, code, size)

    def write(places: Any, at: Any) -> None:
        found = b.add(b.zext(places, offset.type), offset)
        b.store(found, b.bitcast(b.gep(target, [at]), offset.type.as_pointer()), align=2)

    # Always the first ones: more are seldom, and whether there are any at all, nobody knows.
    front = ir.Constant(ir.VectorType(_NUMBER, size), list(range(size)))
    write(b.shuffle_vector(places, nothing, front), const(0))
    n = b.ctpop(word)
    with b.if_then(b.icmp_unsigned(">", n, const(size)), likely=False):
        kept = cgutils.alloca_once_value(b, places)
        first = b.bitcast(kept, ir.IntType(8).as_pointer())
        with cgutils.for_range_slice(b, const(size), n, const(size), INDEX) as (i, _):
            write(b.load(b.bitcast(b.gep(first, [i]), some.as_pointer()), align=1), i)


def _list_by_bytes(b: Any, target: Any, word: Any, code: Any) -> None:
    """Emit `list_word`: look every byte up; write down eight, whether there are as many or not."""
    small, wide = (ir.VectorType(kind, 8) for kind in (ir.IntType(8), code.type))
    table = cgutils.global_constant(b, "places_of_bits", _PLACES)
    to = const(0)
    for k in range(0, 64, 8):
        byte = b.and_(b.lshr(word, const(k)), const(255))
        row = b.bitcast(b.gep(table, [const(0), b.mul(byte, const(8))]), small.as_pointer())
        places = b.zext(b.load(row, align=8), wide)
        found = b.add(places, same_numbers(b, b.add(code, ir.Constant(code.type, k)), 8))
        b.store(found, b.bitcast(b.gep(target, [to]), wide.as_pointer()), align=2)
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
def count_bits(_context, counts, here, x, at, stride, words):
    """counts[here + i] += how often bit i of x[at + k stride:] is set, k < TOGETHER.

    i < 64 len(words). As many words as a cache line has make it quick.
    """
    index = types.int64
    signature = types.void(counts, index, x, index, index, words)
    vector = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, source = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2))
        source, line = b.gep(source, [args[3]]), ir.VectorType(INDEX, len(words)).as_pointer()
        rows = [b.gep(source, [b.mul(args[4], const(k))]) for k in range(TOGETHER)]
        planes = _planes(b, [b.load(b.bitcast(row, line), align=2) for row in rows])
        for j in range(len(words)):
            place = b.gep(target, [b.add(args[1], const(64 * j))])
            place = b.bitcast(place, vector.as_pointer())
            count = b.load(place, align=1)
            for k, plane in enumerate(planes):
                ones = b.bitcast(b.extract_element(plane, const(j)), ir.VectorType(_BIT, 64))
                more = b.add(count, ir.Constant(vector, [1 << k] * 64))
                count = b.select(ones, more, count)
            b.store(count, place, align=1)
        return context.get_dummy_value()

    return signature, codegen


def _planes(b: Any, rows: list[Any]) -> list[Any]:
    """Emit the numbers of bits set in 2^k - 1 rows, place by place: their own bits, lowest first.

    A full adder makes of three bits of a value one of it and one of twice the value.
    """
    found = []
    while rows:
        above = []
        while len(rows) > 1:
            x, y, z, *rows = rows
            one = b.xor(x, y)
            above.append(b.or_(b.and_(x, y), b.and_(one, z)))
            rows.append(b.xor(one, z))
        found.append(rows[0])
        rows = above
    return found


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
