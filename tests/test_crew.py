"""The threads of a single sample: every task is done once, errors arrive, nobody waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, current_thread

import pytest

from backends.event import crew as crews
from backends.event import program
from backends.event.crew import Crew
from backends.event.program import EventBackend
from networks import mlp
from runs import compiled, fresh


@pytest.fixture
def stop() -> Event:
    return Event()


@pytest.fixture
def crew(stop: Event) -> Iterator[Crew]:
    with ThreadPoolExecutor(3) as pool:
        made = Crew(pool, 3, stop)
        yield made
        made.close()  # else the pool would wait for the helpers


def test_every_task_is_done_once(crew: Crew) -> None:
    for n in range(200):
        done: list[int] = []
        crew.each([partial(done.append, i) for i in range(n % 7)])
        assert sorted(done) == list(range(n % 7))


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_helpers_work_whether_they_slept_or_not(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr(crews, "_PATIENCE", 10 if pause else 10**9)
    who = set()

    def task() -> None:
        who.add(current_thread().name)
        time.sleep(0.05)

    for _ in range(3):
        time.sleep(pause)
        crew.each([task] * 3)
    assert len(who) == 3


@pytest.mark.parametrize("helper", [True, False])
def test_an_error_of_any_thread_arrives(crew: Crew, helper: bool) -> None:
    caller = current_thread()

    def task() -> None:
        time.sleep(0.02)
        if (current_thread() is not caller) == helper:
            raise ValueError("of a task")

    with pytest.raises(ValueError, match="of a task"):
        crew.each([task] * 30)
    done: list[int] = []
    crew.each([lambda: done.append(1)] * 5)
    assert done == [1] * 5


def test_whoever_is_stopped_leaves_tasks_undone(crew: Crew, stop: Event) -> None:
    done: list[int] = []

    def task() -> None:
        done.append(1)
        stop.set()

    with pytest.raises(KeyboardInterrupt):
        crew.each([task] * 1000)
    assert len(done) <= 3
    assert not crew.left


def test_no_more_stay_awake_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def made(pool: ThreadPoolExecutor, threads: int, stop: Event) -> Crew:
        asked.append(threads)
        return Crew(pool, threads, stop)

    monkeypatch.setattr(program, "Crew", made)
    model = mlp()
    network = compiled(model, 0, timesteps=4).model
    for cores, threads in ((1, 64), (3, 64), (3, 2)):
        monkeypatch.setattr(program, "available_cores", lambda n=cores: n)
        EventBackend(threads=threads).build(network).run(fresh(model, 0, 1), 4)
    assert asked == [3, 2]
