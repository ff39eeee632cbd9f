"""Threads that share kernels do every task once, whoever comes late; nobody waits for ever."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Thread

import numpy as np
import pytest
from numba import njit

from backends.event import crew as crews
from backends.event import program
from backends.event.crew import Crew, cut
from backends.event.program import EventBackend
from backends.event.sharing import body, close, help_out, new_board, together
from backends.reference import NumpyBackend
from networks import mlp
from runs import SPIKES, compiled, differences, fresh

MUCH = 1e6  # nanoseconds: worth sharing


@body
def _count(hand, task, done, who, rounds):  # type: ignore[no-untyped-def]
    for i in range(task[0], task[1]):
        done[i] += 1
        who[i] = hand
        x = 1.0
        for _ in range(rounds):
            x = np.sqrt(x + 1.0)
        who[i] += 0 if x > 0.0 else 100


@njit(nogil=True, error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def count(board, tasks, given):  # type: ignore[no-untyped-def]
    """done[i] += 1 for the numbers i of every task; who[i]: the hand that did it."""
    together(board, _count, tasks, given)


@pytest.fixture
def stop() -> Event:
    return Event()


@pytest.fixture
def crew(stop: Event) -> Iterator[Crew]:
    made = Crew(stop, 3)
    yield made
    made.close()
    assert end(made.helpers) or not made.helpers


def shared(crew: Crew, size: int, pieces: int, rounds: int, work: float) -> np.ndarray:
    """Who did what, everything once."""
    done, who = np.zeros(size, np.int64), np.full(size, -1)
    crew.share(count, cut(size, pieces), work, done, who, rounds)
    assert (done == 1).all()
    return who


@pytest.mark.parametrize("rounds", [0, 300])
def test_every_task_is_done_once(crew: Crew, rounds: int) -> None:
    for n in range(2000):
        who = shared(crew, 1 + n % 23, 1 + n % 7, rounds, MUCH)
        assert set(who) <= {0, 1, 2}


@pytest.mark.parametrize("patience", [10, 10**9])
def test_helpers_work_whether_they_slept_or_not(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(crews, "_PATIENCE", patience)
    for _ in range(3):
        seen, deadline = set[int](), time.monotonic() + 60
        while seen != {0, 1, 2} and time.monotonic() < deadline:
            time.sleep(0.05)
            assert crew.sleeping == (2 if patience == 10 and crew.helpers else 0)
            seen |= set(shared(crew, 60, 60, 100_000, MUCH))
        assert seen == {0, 1, 2}


def test_what_is_not_worth_it_one_thread_does_alone(crew: Crew) -> None:
    assert set(shared(crew, 100, 100, 10, 0.0)) == {0}
    assert set(shared(crew, 100, 1, 10, MUCH)) == {0}  # a single task
    assert not crew.helpers
    assert crew.hands(0.0) == 1
    assert crew.hands(MUCH) == 3


def test_whoever_helps_reads_nothing_that_is_gone() -> None:
    """Tasks that take no time: helpers often come when all is over, and must leave it alone."""
    board = new_board(2)
    with ThreadPoolExecutor(2) as pool:
        helping = [pool.submit(help_out, board, hand, 10**12) for hand in (1, 2)]
        try:
            for n in range(20_000):
                done, who = np.zeros(3, np.int64), np.zeros(3, np.int64)
                count(board, cut(3, 3), (done, who, n % 5))
                assert done.tolist() == [1, 1, 1]
        finally:
            close(board)
        for helper in helping:
            helper.result(timeout=10)


def test_whoever_is_stopped_leaves_tasks_undone(crew: Crew, stop: Event) -> None:
    done, who = np.zeros(10, np.int64), np.zeros(10, np.int64)
    seconds = 10.0 * crews._PROMPT  # ten looks at whether to stop

    def kernel(board: np.ndarray, tasks: np.ndarray, given: tuple[object, ...]) -> None:
        count(board, tasks, given)
        stop.set()

    with pytest.raises(KeyboardInterrupt):
        crew.share(kernel, cut(10, 10), seconds, done, who, 0)
    assert 0 < done.sum() < 10
    with pytest.raises(KeyboardInterrupt):
        crew.share(kernel, cut(10, 10), 0.0, done, who, 0)


def test_much_work_is_cut_for_prompt_stops() -> None:
    crew = Crew()
    assert crew.pieces(0.0) == 1
    assert crew.pieces(10.5 * crews._PROMPT) == 11


def end(helpers: list[Thread]) -> bool:
    """Whether there were some, and all of them end soon."""
    for helper in helpers:
        helper.join(10)
    return bool(helpers) and not any(helper.is_alive() for helper in helpers)


def test_helpers_stay_for_the_next_run_and_end_with_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crews, "WORTH", 0.0)
    monkeypatch.setattr(program, "available_cores", partial(int, 3))
    model = mlp()
    built = EventBackend(threads=3).build(compiled(model, 0, timesteps=4).model)
    expected = built.run(fresh(model, 0, 1), 4, SPIKES)
    (crew,) = built._crews
    helpers = crew.helpers
    assert len(helpers) == 2
    for _ in range(3):
        assert not differences(built.run(fresh(model, 0, 1), 4, SPIKES), expected)
        assert list(built._crews) == [crew]
        assert crew.helpers is helpers
    assert all(helper.is_alive() for helper in helpers)
    del built
    gc.collect()
    assert end(helpers)


def test_runs_at_once_have_crews_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "WORTH", 0.0)
    monkeypatch.setattr(program, "available_cores", partial(int, 2))
    model = mlp()
    network = compiled(model, 0, timesteps=4).model
    built = EventBackend(threads=2).build(network)
    xs = [fresh(model, seed, 1) for seed in range(4)]
    expected = [NumpyBackend().build(network).run(x, 4, SPIKES) for x in xs]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = pool.map(lambda x: built.run(x, 4, SPIKES), xs)
            for one, other in zip(found, expected, strict=True):
                assert not differences(one, other)


def test_a_run_that_fails_leaves_no_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "WORTH", 0.0)
    monkeypatch.setattr(program, "available_cores", partial(int, 2))
    model = mlp()
    built = EventBackend(threads=2).build(compiled(model, 0, timesteps=4).model)
    built.run(fresh(model, 0, 1), 4)
    (crew,) = built._crews

    def fail(_done: int, _whole: int) -> None:
        assert not built._crews
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built.run(fresh(model, 0, 1), 4, progress=fail)
    assert not built._crews
    assert end(crew.helpers)


def test_no_more_stay_awake_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def made(threads: int) -> Crew:
        asked.append(threads)
        return Crew(threads=threads)

    monkeypatch.setattr(program, "Crew", made)
    model = mlp()
    network = compiled(model, 0, timesteps=4).model
    for cores, threads in ((1, 64), (3, 64), (3, 2)):
        monkeypatch.setattr(program, "available_cores", partial(int, cores))
        EventBackend(threads=threads).build(network).run(fresh(model, 0, 1), 4)
    assert asked == [1, 3, 2]
