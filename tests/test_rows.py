"""Rows of weights, alone and in pairs, add up to what the definition says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from backends.event.int8 import to_int8
from backends.event.populations import Neurons
from backends.event.program import EventBackend
from backends.event.rows import add_rows, packed
from backends.reference import NumpyBackend
from networks import Net
from runs import SPIKES, compiled, differences, fresh
from snncompiler.graph import add_constant


@njit
def add(  # type: ignore[no-untyped-def]
    total, narrow, w, rows, factors, n, limit, scaled, lanes
):
    add_rows(total, 0, narrow, w, rows, factors, n, limit, scaled, lanes)


def case(seed: int, length: int, n: int, scaled: bool, most: int) -> tuple[Any, ...]:
    """300 rows of weights up to `most` and one of zeros, of which n are added; their sum."""
    rng = np.random.default_rng(seed)
    w = np.zeros((301, length), np.int8 if most < 128 else np.int16)
    w[:300] = rng.integers(-most - 1, most + 1, (300, length))
    rows = np.full(n + 16, 300, np.int32)
    rows[:n] = rng.integers(0, 300, n)
    factors = rng.integers(-9 if scaled else 1, 10 if scaled else 2, rows.size).astype(np.int8)
    expected = factors[:n].astype(np.int64) @ w[rows[:n]].astype(np.int64)
    return w, rows, factors, expected


@pytest.mark.parametrize("length", [16, 32, 48, 64, 112, 128])
@pytest.mark.parametrize(
    ("most", "scaled", "limit"),
    [(127, False, 248), (127, True, 24), (2047, False, 16), (227, True, 16), (4095, False, 8)],
)
def test_rows_add_up_in_16_bits_and_in_32(length: int, most: int, scaled: bool, limit: int) -> None:
    lanes, start = (0,) * (length // 16), np.arange(length, dtype=np.int32)
    for n in (0, 1, 7, 8, 9, limit - 1, limit, limit + 1, 2 * limit, 5 * limit + 3):
        w, rows, factors, expected = case(n, length, n, scaled, most)
        for narrow in (np.int16, np.int32):
            total, own = start.copy(), np.zeros(0, narrow)
            table = packed(w, own.dtype)
            add(total, own, table, rows, factors, n, limit, scaled, lanes)
            np.testing.assert_array_equal(total - start, expected)


@pytest.mark.parametrize(("low", "high", "limit"), [(-128, 127, 248), (-4096, 4095, 8)])
def test_sixteen_bits_hold_the_largest_sums(low: int, high: int, limit: int) -> None:
    for first, second in ((low, high), (high, low)):
        w = np.zeros((9, 64), np.int8 if limit > 8 else np.int16)
        w[0, ::2], w[0, 1::2] = first, second
        rows, n = np.zeros(3 * limit + 16, np.int32), 3 * limit
        rows[n:] = 8
        total, own = np.zeros(64, np.int32), np.zeros(0, np.int16)
        add(total, own, packed(w, own.dtype), rows, rows, n, limit, False, (0, 0, 0, 0))
        np.testing.assert_array_equal(total, n * w[0].astype(np.int32))


def test_a_potential_finer_than_the_weights_leaves_them_in_8_bits() -> None:
    net = Net(5)
    x = net.conv_relu(net.conv_relu(net.input(3, 8, 8), 32), 48)
    model = net.model(net.head(x))
    network = to_int8(compiled(model, 5, timesteps=8).model)
    neurons = [n for n in network.graph if n.op_type == "IF"][1]
    rng = np.random.default_rng(5)
    fine = rng.integers(1, 2**16, (48, 1, 1)) * 2.0**-16
    neurons.replace_input_with(2, add_constant(network.graph, "fine", fine.astype(np.float32)))
    program = EventBackend().build(network)
    stages = [s for s in program.stages if isinstance(s, Neurons) and s.first.total.rows]
    assert [s.first.blocks[0].rows.dtype for s in stages] == [np.uint16]
    x = fresh(model, 5, 3)
    assert not differences(
        program.run(x, 8, SPIKES), NumpyBackend().build(network).run(x, 8, SPIKES)
    )
