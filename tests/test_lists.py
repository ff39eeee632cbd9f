"""Events of spike trains: listed, joined, counted; and codes that do not fit 16 bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.event.crew import Crew
from backends.event.int8 import to_int8
from backends.event.populations import Neurons
from backends.event.program import EventBackend
from backends.event.spikes import Spikes, joined
from backends.reference import NumpyBackend
from networks import Net
from runs import SPIKES, compiled, differences, fresh


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_events_are_listed_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    shape = (*rng.integers(1, 7, 3), groups * int(rng.choice([1, 3, 8, 16, 72])))
    kind = rng.choice([np.int8, np.int32])
    x = (rng.integers(-3, 4, shape) * (rng.random(shape) < rng.random())).astype(kind)
    binary = rng.random() < 0.5
    if binary:
        x = (x > 0).astype(kind)

    spikes = Spikes(x)
    if binary and rng.random() < 0.7:
        padded = np.zeros((*shape[:3], -(-shape[3] // 64) * 64), bool)
        padded[..., : shape[3]] = x
        bits = np.packbits(padded, axis=-1, bitorder="little").view(np.uint16)
        spikes = Spikes(bits=bits, channels=shape[3])
        np.testing.assert_array_equal(spikes.x, x)
    if rng.random() < 0.5:
        np.testing.assert_array_equal(spikes.totals(Crew()), np.abs(x.astype(int)).sum((0, 1)))
    codes_ = np.dtype(rng.choice([np.uint16, np.int32]))
    lists = spikes.lists(groups, codes_, Crew())
    width = shape[3] // groups
    for g, found in enumerate(lists):
        part = x[..., g * width : (g + 1) * width]
        for b, t in np.ndindex(*shape[:2]):
            assert found.plain[b, t] == (not (part[b, t] & ~1).any())
            flat = part[b, t].reshape(-1)
            codes = found.codes[found.starts[b, t, 0] : found.starts[b, t, -1]]
            np.testing.assert_array_equal(codes, np.flatnonzero(flat))
            if not found.plain[b, t]:
                counts = found.counts[found.starts[b, t, 0] : found.starts[b, t, -1]]
                np.testing.assert_array_equal(counts, flat[codes])
            here = np.diff(found.starts[b, t])
            np.testing.assert_array_equal(here, (part[b, t] != 0).sum(1))
    np.testing.assert_array_equal(spikes.totals(Crew()), np.abs(x.astype(int)).sum((0, 1)))


def test_codes_wrap_around_without_losing_counts() -> None:
    rng = np.random.default_rng(7)
    x = (rng.integers(-3, 4, (2, 2, 1100, 64)) * (rng.random((2, 2, 1100, 64)) < 0.02)).astype("i1")
    spikes = Spikes(x)
    (found,) = spikes.lists(1, np.dtype(np.uint16), Crew())
    for b, t in np.ndindex(2, 2):
        flat, mine = x[b, t].reshape(-1), slice(found.starts[b, t, 0], found.starts[b, t, -1])
        events = np.flatnonzero(flat)
        assert events.max() > 2**16
        np.testing.assert_array_equal(found.codes[mine], events % 2**16)
        np.testing.assert_array_equal(found.counts[mine], flat[events])
    np.testing.assert_array_equal(spikes.totals(Crew()), np.abs(x.astype(int)).sum((0, 1)))


def test_older_processors_list_the_same_events(tmp_path: Path) -> None:
    """Those that cannot compress a vector of bytes: few events and many, whole words and groups."""
    script = """
import numba, numpy as np
from backends.event import masks
from backends.event.crew import Crew
from backends.event.spikes import Spikes
assert not numba.njit(lambda: masks.compresses())()
rng = np.random.default_rng(1)
for channels, groups, rate, kind in [(64, 1, 0.01, np.int32), (128, 1, 0.3, np.uint16),
                                     (24, 1, 0.9, np.uint16), (96, 2, 0.2, np.int32)]:
    x = rng.random((2, 5, 30, channels)) < rate
    padded = np.zeros((2, 5, 30, -(-channels // 64) * 64), bool)
    padded[..., :channels] = x
    bits = np.packbits(padded, axis=-1, bitorder="little").view(np.uint16)
    spikes = Spikes(bits=bits, channels=channels)
    lists = spikes.lists(groups, kind, Crew())
    for part, found in zip(np.split(x, groups, 3), lists):
        flat = part.reshape(2, 5, -1)
        expected = [np.flatnonzero(flat[b, t]) for b in range(2) for t in range(5)]
        assert (found.codes == np.concatenate(expected)).all()
        assert (np.diff(found.starts) == part.sum(3)).all()
"""
    env = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", script], check=True, env=env, cwd=Path(__file__).parents[1]
    )


def test_bits_are_counted_over_many_steps() -> None:
    ones = np.random.default_rng(1).random((2, 600, 9, 64)) < 0.9
    bits = np.packbits(ones, axis=-1, bitorder="little").view(np.uint16)
    found = Spikes(bits=bits, channels=64).totals(Crew())
    np.testing.assert_array_equal(found, ones.sum((0, 1)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_joined_events_are_those_of_one_value_after_the_other(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    samples, steps = rng.integers(1, 4, 2)

    parts = []
    for _ in range(values):
        shape = (samples, steps, *rng.integers(1, 6, 2))
        x = rng.integers(-1, 4, shape) * (rng.random(shape) < 0.4)
        if rng.random() < 0.5:
            x[rng.integers(samples)] = 0
        if rng.random() < 0.5:
            x = (x > 0).astype(int)
        parts += Spikes(x.astype(rng.choice([np.int8, np.int32]))).lists(1, np.uint16, Crew())
    found = joined(parts, Crew())

    def events(given, b: int, t: int) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
        rows = slice(given.starts[b, t, 0], given.starts[b, t, -1])
        plain = given.plain[b, t]
        counts = np.ones(rows.stop - rows.start, int) if plain else given.counts[rows]
        return list(zip(given.codes[rows].tolist(), counts.tolist(), strict=True))

    for b, t in np.ndindex(samples, steps):
        assert events(found, b, t) == [e for part in parts for e in events(part, b, t)]
        assert found.plain[b, t] == all(part.plain[b, t] for part in parts)
        widths = np.concatenate([np.diff(part.starts[b, t]) for part in parts])
        np.testing.assert_array_equal(np.diff(found.starts[b, t]), widths)


@pytest.mark.parametrize(("size", "channels", "codes"), [(36, 64, np.uint16), (258, 1, np.int32)])
def test_rows_are_found_whether_codes_wrap_around_or_not(
    size: int, channels: int, codes: type
) -> None:
    """36 x 36 x 64 neurons have codes beyond 16 bits, but 576 rows; 66,564 of them as many rows."""
    net = Net(3)
    x = net.conv_relu(net.input(1, size, size), channels)
    x = net.conv_relu(x, 8) if channels > 1 else net.relu(net.gemm(net.flatten(x), 16))
    model = net.model(net.head(x) if channels > 1 else net.gemm(x, 4))
    network = compiled(model, 3, timesteps=4).model
    given_ = fresh(model, 3, 2)
    for precision in ("exact", "int8"):
        exactly = to_int8(network) if precision == "int8" else network
        program = EventBackend(precision=precision).build(network)
        stages = [s for s in program.stages if isinstance(s, Neurons)]
        assert stages[1].first.codes == codes
        found = program.run(given_, 4, SPIKES)
        expected = NumpyBackend().build(exactly).run(given_, 4, SPIKES)
        assert expected.counts[stages[1].node.name].sum()
        assert not differences(found, expected)
