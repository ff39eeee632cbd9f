"""Adding rows of weights, the sums of a block in vector registers.

Two numbers as one, X = 2^n h + l + 2^(n - 1), are added by half as many instructions: the sum of
all X gives 2^n sum(h) + sum(l) + 2^(n - 1) per X, modulo 2^(2 n); that of all X >> n gives sum(h).
What is left is sum(l), exact as long as it fits. So

- rows of 8 bits that are added in 16 come in pairs: 64 weights take one load, one shift and two
  additions, where to widen every weight takes two loads that widen and two additions;
- rows of 16 bits are added in 16, as many as cannot overflow, and their sums, two of them as one of
  32 bits, in 32, in registers as well.

`packed` puts weights where the halves are those of neighbouring vectors.
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
_SHORT, _NUMBER = ir.IntType(16), ir.IntType(32)


@intrinsic
def add_rows(_context, total, at, narrow, w, rows, factors, n, limit, scaled, lanes):
    """total[at + j] += sum of w[rows[i]][j] over i < n; scaled: times factors[i].

    The sums of the block, len(lanes) x 16 numbers, stay in vector registers. w: as `packed` makes
    it for the type of `narrow`, in which `limit` rows may be added, a multiple of 8. Rows are taken
    eight at a time: behind the last there must be numbers of a row of zeros.
    """
    index = types.int64
    signature = types.void(total, index, narrow, w, rows, factors, index, index, scaled, lanes)
    pairs = w.dtype == types.uint16

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        target, *pointers = (
            context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 2, 3, 4, 5)
        )
        target = b.gep(target, [args[1]])
        length = 16 * len(lanes)
        for at, x in sum_of_rows(b, tuple(pointers), args[6], args[7], args[8], length, pairs):
            place = b.bitcast(b.gep(target, [const(at)]), x.type.as_pointer())
            y = b.load(place, align=1)
            real = isinstance(x.type.element, ir.DoubleType)
            b.store((b.fadd if real else b.add)(y, x), place, align=1)
        return context.get_dummy_value()

    return signature, codegen


def sum_of_rows(
    b: Any,
    pointers: tuple[Any, ...],
    n: Any,
    limit: Any,
    scaled: Any,
    length: int,
    pairs: bool,
) -> list[tuple[int, Any]]:
    """Emit what `add_rows` tells; returns vectors that make up the block, and where each begins.

    pointers: to numbers of the type `narrow`, weights, numbers of rows, factors.
    """
    small, table, numbers, times = pointers
    kind = small.type.pointee
    sums: _Pairs | _Shorts | _Singles
    if kind == _SHORT:
        sums = _Pairs(b, length) if pairs else _Shorts(b, length)
    else:
        sums = _Singles(b, kind, table.type.pointee, length)

    def factor(i: Any) -> Any:
        number = b.load(b.gep(times, [i]))
        real = isinstance(kind, ir.DoubleType)
        return b.sitofp(number, kind) if real else resized(b, number, kind)

    def add(first: Any, last: Any, scales: bool) -> None:
        at_once = min(sums.together, 2) if scales else sums.together
        with cgutils.for_range_slice(b, first, last, const(at_once), INDEX) as (i, _):
            for j in range(at_once):
                k = b.add(i, const(j))
                row = b.mul(b.zext(b.load(b.gep(numbers, [k])), INDEX), const(sums.stride))
                sums.add(b.gep(table, [row]), factor(k) if scales else None)

    def add_all(scales: bool) -> None:
        if isinstance(sums, _Singles):
            add(const(0), n, scales)
            return
        with cgutils.for_range_slice(b, const(0), n, limit, INDEX) as (i, _):
            left = b.sub(n, i)
            some = b.select(b.icmp_signed("<", left, limit), left, limit)
            sums.begin()
            add(i, b.add(i, some), scales)
            sums.carry(None if scales else some)

    with b.if_else(b.trunc(scaled, ir.IntType(1))) as (weighted, plain):
        with weighted:
            add_all(True)
        with plain:
            add_all(False)
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

    def found(self) -> list[tuple[int, Any]]:
        """The sums, and where each vector of them begins."""
        pairs = zip(self.pieces, self.registers, strict=True)
        return [(at, self.b.load(register)) for (at, _), register in pairs]


class _Halves:
    """Sums of numbers of `bits`, n of them side by side, two and two as one."""

    def __init__(self, b: Any, bits: int, n: int) -> None:
        self.b, self.bits, self.half = b, bits, n // 2
        self.kind = ir.IntType(2 * bits)
        self.all, self.high = (_zeros(b, self.kind, self.half) for _ in range(2))

    def clear(self) -> None:
        """Emit: begin anew."""
        for register in (self.all, self.high):
            self.b.store(ir.Constant(register.type.pointee, None), register)

    def add(self, x: Any, scale: Any = None) -> None:
        """Emit: add these, times `scale` if that is given."""
        b = self.b
        high = b.ashr(x, ir.Constant(x.type, [self.bits] * self.half))
        for part, register in ((x, self.all), (high, self.high)):
            more = part if scale is None else b.mul(part, same_numbers(b, scale, self.half))
            b.store(b.add(b.load(register), more), register)

    def found(self, count: Any) -> tuple[Any, Any]:
        """The sums of the low halves and of the high ones, so many each."""
        b, high = self.b, self.b.load(self.high)
        bias = b.shl(count, ir.Constant(self.kind, self.bits - 1))
        low = b.sub(b.load(self.all), b.shl(high, ir.Constant(high.type, [self.bits] * self.half)))
        return b.sub(low, same_numbers(b, bias, self.half)), high


class _Pairs:
    """Sums of rows of pairs, 16 bits each. stride: pairs of a row."""

    together = 8

    def __init__(self, b: Any, length: int) -> None:
        self.b, self.stride = b, length // 2
        self.pieces = _pieces(length, 64)
        self.sums = [_Halves(b, 8, n) for _, n in self.pieces]
        self.wide = [[_zeros(b, _NUMBER, n // 2) for _ in range(2)] for _, n in self.pieces]
        self.n = cgutils.alloca_once(b, _SHORT)  # rows, each as often as it counts

    def begin(self) -> None:
        """Emit: so far nothing is added in 16 bits."""
        self.b.store(ir.Constant(_SHORT, 0), self.n)
        for halves in self.sums:
            halves.clear()

    def add(self, row: Any, scale: Any) -> None:
        """Emit: add a row, times `scale` if that is given."""
        b = self.b
        if scale is not None:
            b.store(b.add(b.load(self.n), scale), self.n)
        for (at, n), halves in zip(self.pieces, self.sums, strict=True):
            place = b.gep(row, [const(at // 2)])
            vector = ir.VectorType(_SHORT, n // 2).as_pointer()
            halves.add(b.load(b.bitcast(place, vector), align=1), scale)

    def carry(self, rows: Any) -> None:
        """Emit: go on in 32 bits. rows: how many were added if they were without a factor."""
        b = self.b
        if rows is not None:  # and some of zeros to fill a turn
            full = b.and_(b.add(rows, const(self.together - 1)), const(-self.together))
            b.store(b.trunc(full, _SHORT), self.n)
        for halves, registers in zip(self.sums, self.wide, strict=True):
            for part, register in zip(halves.found(b.load(self.n)), registers, strict=True):
                more = b.sext(part, register.type.pointee)
                b.store(b.add(b.load(register), more), register)

    def found(self) -> list[tuple[int, Any]]:
        """The sums, and where each vector of them begins."""
        loaded = [[self.b.load(register) for register in registers] for registers in self.wide]
        return _in_order(self.b, self.pieces, loaded)


class _Shorts:
    """Sums of rows of 16 bits, `packed`. stride: weights of a row."""

    together = 8

    def __init__(self, b: Any, length: int) -> None:
        self.b, self.stride = b, length
        self.pieces = _pieces(length, 32)
        self.registers = [_zeros(b, _SHORT, n) for _, n in self.pieces]
        self.sums = [_Halves(b, 16, n) for _, n in self.pieces]
        self.n = cgutils.alloca_once_value(b, ir.Constant(_NUMBER, 0))  # how often carried

    def begin(self) -> None:
        """Emit: so far nothing is added in 16 bits but what makes low halves positive."""
        for (_, n), register in zip(self.pieces, self.registers, strict=True):
            bias = ir.Constant(ir.VectorType(_SHORT, n), [-(1 << 15), 0] * (n // 2))
            self.b.store(bias, register)

    def add(self, row: Any, scale: Any) -> None:
        """Emit: add a row, times `scale` if that is given."""
        b = self.b
        for (at, n), register in zip(self.pieces, self.registers, strict=True):
            vector = ir.VectorType(_SHORT, n).as_pointer()
            x = b.load(b.bitcast(b.gep(row, [const(at)]), vector), align=1)
            more = x if scale is None else b.mul(x, same_numbers(b, scale, n))
            b.store(b.add(b.load(register), more), register)

    def carry(self, _rows: Any) -> None:
        """Emit: go on in 32 bits."""
        b = self.b
        b.store(b.add(b.load(self.n), ir.Constant(_NUMBER, 1)), self.n)
        for (_, n), register, halves in zip(self.pieces, self.registers, self.sums, strict=True):
            halves.add(b.bitcast(b.load(register), ir.VectorType(_NUMBER, n // 2)))

    def found(self) -> list[tuple[int, Any]]:
        """The sums, and where each vector of them begins."""
        n = self.b.load(self.n)
        return _in_order(self.b, self.pieces, [halves.found(n) for halves in self.sums])


def packed(rows: Array, narrow: np.dtype[np.generic]) -> Array:
    """Rows of weights, [rows, channels], channels a multiple of 16, as they are added in `narrow`.

    In 16 bits: the first half of every piece of a row are low parts, the second half high ones;
    of int8 as uint16 [rows, C / 2], of int16 one after the other.
    """
    if narrow != np.int16:
        return rows
    pairs = rows.dtype == np.int8
    result = aligned.zeros((len(rows), rows.shape[1] // (2 if pairs else 1)), np.int16)
    for at, n in _pieces(rows.shape[1], 64 if pairs else 32):
        low, high = (rows[:, i : i + n // 2].astype(np.int32) for i in (at, at + n // 2))
        if pairs:
            result[:, at // 2 : (at + n) // 2] = (high << 8) + low + 128
        else:
            result[:, at : at + n : 2], result[:, at + 1 : at + n : 2] = low, high
    return result.view(np.uint16) if pairs else result


def _pieces(length: int, whole: int) -> list[tuple[int, int]]:
    """Where vectors begin that make up a row of weights, and how many each holds."""
    sizes = [whole] * (length // whole) + [n for n in (32, 16) if n < whole and length & n]
    return [(sum(sizes[:i]), n) for i, n in enumerate(sizes)]


def _in_order(b: Any, pieces: list[tuple[int, int]], halves: Any) -> list[tuple[int, Any]]:
    """Vectors of 16 sums at least, and where each begins."""
    result = []
    for (at, n), (low, high) in zip(pieces, halves, strict=True):
        if n < 32:
            order = ir.Constant(ir.VectorType(_NUMBER, n), list(range(n)))
            result.append((at, b.shuffle_vector(low, high, order)))
        else:
            result += [(at, low), (at + n // 2, high)]
    return result


def _zeros(b: Any, kind: Any, n: int) -> Any:
    """A register of so many zeros."""
    register = cgutils.alloca_once(b, ir.VectorType(kind, n))
    b.store(ir.Constant(ir.VectorType(kind, n), None), register)
    return register
