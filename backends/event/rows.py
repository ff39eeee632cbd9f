"""Adding rows of weights, the sums of a block in vector registers.

Rows of 8 bits that are added in 16 come in pairs (`paired`): weights l and h of two channels as one
number X = 256 h + (l + 128). The sum of all X gives 256 sum(h) + sum(l) + 128 n, modulo 2^16; that
of all X >> 8 gives sum(h). What is left is sum(l), exact as long as it fits. So 64 weights take one
load, one shift and two additions, where to widen every weight takes two loads that widen and two
additions; rows that are cached nearby are added in two thirds of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backends.event import aligned
from backends.event.emit import INDEX, const, resized, same_numbers
from snncompiler.graph import Array

_BITS = 512  # of a vector: what LLVM splits if registers are narrower


@intrinsic
def add_rows(_context, total, at, narrow, w, rows, factors, first, last, scaled, lanes):
    """total[at + j] += sum of w[rows[i]][j] over first <= i < last; scaled: times factors[i].

    The sums of the block, len(lanes) x 16 numbers of the type of `narrow`, stay in vector
    registers. Rows are taken eight at a time: behind the last there must be numbers of a row of
    zeros. w: paired if they are uint16.
    """
    index = types.int64
    signature = types.void(total, index, narrow, w, rows, factors, index, index, scaled, lanes)
    pairs = w.dtype == types.uint16

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, *pointers = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 3, 4, 5)
        )
        target, wide = b.gep(target, [args[1]]), target.type.pointee
        span = (args[6], args[7])
        for at, x in sum_of_rows(b, tuple(pointers), span, args[8], 16 * len(lanes), pairs):
            kind, n = x.type.element, x.type.count
            x = x if kind == wide else b.sext(x, ir.VectorType(wide, n))
            place = b.bitcast(b.gep(target, [const(at)]), x.type.as_pointer())
            y = b.load(place, align=1)
            b.store((b.fadd if isinstance(wide, ir.DoubleType) else b.add)(y, x), place, align=1)
        return context.get_dummy_value()

    return signature, codegen


def sum_of_rows(
    b: Any,
    pointers: tuple[Any, ...],
    span: tuple[Any, Any],
    scaled: Any,
    length: int,
    pairs: bool,
) -> list[tuple[int, Any]]:
    """Emit what `add_rows` tells; returns vectors that make up the block, and where each begins.

    pointers: to numbers of the type of sums, weights, numbers of rows, factors. span: first, last.
    """
    small, table, numbers, times = pointers
    kind = small.type.pointee
    sums = _Pairs(b, kind, length) if pairs else _Singles(b, kind, table.type.pointee, length)

    def factor(i: Any) -> Any:
        number = b.load(b.gep(times, [i]))
        real = isinstance(kind, ir.DoubleType)
        return b.sitofp(number, kind) if real else resized(b, number, kind)

    def add_all(scales: bool) -> None:
        at_once = min(sums.together, 2) if scales else sums.together
        with cgutils.for_range_slice(b, *span, const(at_once), INDEX) as (i, _):
            for j in range(at_once):
                k = b.add(i, const(j))
                row = b.mul(b.sext(b.load(b.gep(numbers, [k])), INDEX), const(sums.stride))
                sums.add(b.gep(table, [row]), factor(k) if scales else None)

    with b.if_else(b.trunc(scaled, ir.IntType(1))) as (weighted, plain):
        with weighted:
            add_all(True)
        with plain:
            add_all(False)
            sums.count(b.sub(span[1], span[0]))
    return sums.found()


class _Singles:
    """Sums of rows of any type, in vectors of `kind`. stride: elements of a row."""

    def __init__(self, b: Any, kind: Any, stored: Any, length: int) -> None:
        self.b, self.kind, self.stored, self.stride = b, kind, stored, length
        self.real = isinstance(kind, ir.DoubleType)
        whole = _BITS // (64 if self.real else kind.width)
        self.pieces = [(at, min(whole, length - at)) for at in range(0, length, whole)]
        self.registers = [_zeros(b, kind, n) for _, n in self.pieces]
        #: How many rows to add in one turn, such that the code stays short.
        self.together = max(1, 8 // -(-len(self.pieces) // 4))

    def add(self, row: Any, scale: Any) -> None:
        """Emit: add a row, times `scale` if that is given."""
        b = self.b
        for (at, n), register in zip(self.pieces, self.registers, strict=True):
            place = b.gep(row, [const(at)])
            x = b.load(b.bitcast(place, ir.VectorType(self.stored, n).as_pointer()), align=1)
            if self.stored != self.kind:
                x = b.sext(x, ir.VectorType(self.kind, n))
            if scale is not None:
                x = (b.fmul if self.real else b.mul)(x, same_numbers(b, scale, n))
            b.store((b.fadd if self.real else b.add)(b.load(register), x), register)

    def count(self, rows: Any) -> None:
        """Emit nothing: it does not matter how many there were."""

    def found(self) -> list[tuple[int, Any]]:
        """The sums, and where each vector of them begins."""
        pairs = zip(self.pieces, self.registers, strict=True)
        return [(at, self.b.load(register)) for (at, _), register in pairs]


class _Pairs:
    """Sums of rows of pairs, 16 bits each. stride: pairs of a row."""

    together = 8

    def __init__(self, b: Any, kind: Any, length: int) -> None:
        self.b, self.kind, self.stride = b, kind, length // 2
        self.pieces = _pieces(length)
        self.registers = [tuple(_zeros(b, kind, n // 2) for _ in range(2)) for _, n in self.pieces]
        self.n = cgutils.alloca_once(b, kind)  # rows, each as often as it counts
        b.store(ir.Constant(kind, 0), self.n)

    def add(self, row: Any, scale: Any) -> None:
        """Emit: add a row, times `scale` if that is given."""
        b = self.b
        if scale is not None:
            b.store(b.add(b.load(self.n), scale), self.n)
        for (at, n), registers in zip(self.pieces, self.registers, strict=True):
            vector = ir.VectorType(self.kind, n // 2)
            pair = b.load(b.bitcast(b.gep(row, [const(at // 2)]), vector.as_pointer()), align=1)
            high = b.ashr(pair, ir.Constant(vector, [8] * (n // 2)))
            for x, register in zip((pair, high), registers, strict=True):
                more = x if scale is None else b.mul(x, same_numbers(b, scale, n // 2))
                b.store(b.add(b.load(register), more), register)

    def count(self, rows: Any) -> None:
        """Emit: so many rows were added without a factor, and some of zeros to fill a turn."""
        full = self.b.and_(self.b.add(rows, const(self.together - 1)), const(-self.together))
        self.b.store(self.b.trunc(full, self.kind), self.n)

    def found(self) -> list[tuple[int, Any]]:
        """The sums, and where each vector of them begins."""
        b, result = self.b, []
        offset = b.mul(b.load(self.n), ir.Constant(self.kind, 128))
        for (at, n), (x, h) in zip(self.pieces, self.registers, strict=True):
            half = n // 2
            high = b.load(h)
            low = b.sub(b.load(x), b.shl(high, ir.Constant(high.type, [8] * half)))
            low = b.sub(low, same_numbers(b, offset, half))
            if half < 16:
                order = ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(n)))
                result.append((at, b.shuffle_vector(low, high, order)))
            else:
                result += [(at, low), (at + half, high)]
        return result


def paired(rows: Array) -> Array:
    """Rows of int8, [rows, channels], channels a multiple of 16, as pairs: uint16 [rows, C / 2].

    The first half of every piece of a row are the low parts, the second half the high ones.
    """
    result = aligned.zeros((len(rows), rows.shape[1] // 2), np.uint16)
    for at, n in _pieces(rows.shape[1]):
        low, high = (rows[:, i : i + n // 2].astype(np.int32) for i in (at, at + n // 2))
        result[:, at // 2 : (at + n) // 2] = (high << 8) + low + 128 & 0xFFFF
    return result


def _pieces(length: int) -> list[tuple[int, int]]:
    """Where vectors begin that make up a row of weights, and how many each holds."""
    sizes = [64] * (length // 64) + [n for n in (32, 16) if length & n]
    return [(sum(sizes[:i]), n) for i, n in enumerate(sizes)]


def _zeros(b: Any, kind: Any, n: int) -> Any:
    """A register of so many zeros."""
    register = cgutils.alloca_once(b, ir.VectorType(kind, n))
    b.store(ir.Constant(ir.VectorType(kind, n), None), register)
    return register
