"""Rows of weights, alone and in pairs, add up to what the definition says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from backends.event.int8 import to_int8
from backends.event.populations import Neurons
from backends.event.program import EventBackend
from backends.event.rows import add_rows, paired
from backends.reference import NumpyBackend
from networks import Net
from runs import SPIKES, compiled, differences, fresh
from snncompiler.graph import add_constant


@njit
def add(  # type: ignore[no-untyped-def]
    total, narrow, w, rows, factors, first, last, scaled, lanes
):
    add_rows(total, 0, narrow, w, rows, factors, first, last, scaled, lanes)


def case(seed: int, length: int, n: int, scaled: bool) -> tuple[Any, ...]:
    """300 rows of weights and one of zeros, of which n are added from the third on; their sum."""
    rng = np.random.default_rng(seed)
    w = np.zeros((301, length), np.int8)
    w[:300] = rng.integers(-128, 128, (300, length))
    rows = np.full(3 + n + 16, 300, np.int32)
    rows[3 : 3 + n] = rng.integers(0, 300, n)
    factors = rng.integers(-9 if scaled else 1, 10 if scaled else 2, rows.size).astype(np.int8)
    expected = factors[3 : 3 + n].astype(np.int64) @ w[rows[3 : 3 + n]].astype(np.int64)
    return w, rows, factors, expected


@pytest.mark.parametrize("length", [16, 32, 48, 64, 112, 128])
def test_pairs_add_up_as_the_rows_they_are_of(length: int) -> None:
    lanes, start = (0,) * (length // 16), np.arange(length, dtype=np.int32)
    for scaled in (False, True):
        # 28 rows, each up to 9 times, and 255 once: the most that 16 bits hold at worst.
        for n in (0, 1, 7, 8, 9, 27, 28) if scaled else (0, 1, 7, 8, 9, 64, 254, 255):
            w, rows, factors, expected = case(n, length, n, scaled)
            for table in (w, paired(w)):
                total = start.copy()
                narrow = np.zeros(0, np.int16)
                add(total, narrow, table, rows, factors, 3, 3 + n, scaled, lanes)
                np.testing.assert_array_equal(total - start, expected)


@pytest.mark.parametrize("value", [-128, 127])
def test_pairs_hold_the_largest_sums(value: int) -> None:
    w = np.zeros((9, 64), np.int8)
    w[0, ::2], w[0, 1::2] = value, -1 - value
    rows = np.array([0] * 255 + [8] * 17, np.int32)
    total = np.zeros(64, np.int32)
    add(total, np.zeros(0, np.int16), paired(w), rows, rows, 0, 255, False, (0, 0, 0, 0))
    np.testing.assert_array_equal(total, 255 * w[0].astype(np.int32))


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
