"""Memory of the event-driven simulator that is used again: by whom, and when not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import networks
from backends.event import memory
from backends.event.program import EventBackend
from snncompiler.driver import compile_model

LARGE = (64, 2048)  # int32: 512 KiB


@pytest.fixture(autouse=True)
def nothing_free() -> Iterator[None]:
    memory.release()
    yield
    memory.release()


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_no_view_needs_it() -> None:
    first = memory.empty(LARGE, np.int32)
    where, view = place(first), first[3:5].reshape(-1)
    del first
    other = memory.empty(LARGE, np.int32)
    assert place(other) != where
    view[:] = 7
    other[:] = 5
    assert (view == 7).all()
    del view
    assert place(memory.empty(LARGE, np.int32)) == where


def test_other_shapes_and_types_of_about_the_size_fit_too() -> None:
    first = memory.empty(LARGE, np.int32)
    where = place(first)
    assert where % 64 == 0
    del first
    second = memory.empty((2, 65_000), np.float32)  # 520,000 bytes
    assert (place(second), second.shape, second.dtype) == (where, (2, 65_000), np.float32)
    assert second.flags.c_contiguous
    assert second.flags.writeable


def test_a_smaller_array_does_not_take_what_is_far_too_large() -> None:
    first = memory.empty(LARGE, np.int32)
    where = place(first)
    del first
    assert place(memory.empty((300_000,), np.int8)) != where


@pytest.mark.parametrize("shape", [(3,), LARGE])
def test_zeros_are_zero_and_a_value_is_broadcast(shape: tuple[int, ...]) -> None:
    dirty = memory.empty(shape, np.int32)
    dirty[...] = -1
    del dirty
    assert not memory.zeros(shape, np.int32).any()
    found = memory.full(shape, np.arange(shape[-1]) + 0.75, np.int32)
    assert found.dtype == np.int32
    assert (found == np.arange(shape[-1])).all()


def test_an_array_without_elements() -> None:
    assert memory.zeros((0, 4), np.int32).shape == (0, 4)


def test_threads_never_share_memory() -> None:
    def work(number: int) -> bool:
        kept = []
        for i in range(40):
            array = memory.empty(LARGE, np.int32)
            array[...] = 1000 * number + i
            kept = [*kept[-2:], (array, 1000 * number + i)]
            if any((a != value).any() for a, value in kept):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_a_second_run_needs_no_new_memory_and_the_program_takes_it_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = networks.residual(0)
    x = networks.sample_input(model, 40, 0)
    program = EventBackend(threads=1).build(compile_model(model, x, timesteps=32).model)
    made = []
    block = memory.aligned.zeros

    def counted(shape: tuple[int, ...], kind: type) -> np.ndarray:
        if kind is np.uint8:
            made.append(shape)
        return block(shape, kind)

    monkeypatch.setattr(memory.aligned, "zeros", counted)
    first = program.run(x, 32)
    assert made
    made.clear()
    again = program.run(x, 32)
    assert not made
    for name, values in first.readout.items():
        np.testing.assert_array_equal(again.readout[name], values)
    del program
    assert not memory._free
