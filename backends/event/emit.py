"""What the emitters of vector instructions share: numbers, vectors of them, places."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

INDEX = ir.IntType(64)


def const(number: int) -> Any:
    """A number of 64 bits, as indices are."""
    return ir.Constant(INDEX, number)


def resized(b: Any, number: Any, kind: Any) -> Any:
    """A whole number in another type."""
    if number.type.width < kind.width:
        return b.sext(number, kind)
    return number if number.type.width == kind.width else b.trunc(number, kind)


def vector_at(b: Any, pointer: Any, j: int, kind: Any) -> Any:
    """A pointer to 16 numbers from the j-th on."""
    return b.bitcast(b.gep(pointer, [const(j)]), ir.VectorType(kind, 16).as_pointer())


def same_numbers(b: Any, number: Any, n: int) -> Any:
    """A vector of n times the same number."""
    undefined = ir.Constant(ir.VectorType(number.type, n), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), n), [0] * n)
    return b.shuffle_vector(b.insert_element(undefined, number, const(0)), undefined, zeros)


def place_from(b: Any, pointer: Any, j: Any, kind: Any) -> Any:
    """A pointer to 16 numbers from the j-th on, j known at run time."""
    return b.bitcast(b.gep(pointer, [j]), ir.VectorType(kind, 16).as_pointer())


def resized_vector(b: Any, vector: Any, kind: Any) -> Any:
    """16 whole numbers in another type."""
    change = b.trunc if vector.type.element.width > kind.width else b.sext
    return change(vector, ir.VectorType(kind, 16))
