"""Threads that stay awake while a run goes on, for tasks that take less time than waking up.

A thread that sleeps takes some 50 microseconds to wake up, as long as many a stage of a single
sample. So who waits for tasks looks for them again and again, without the GIL, and sleeps only if
none have come for about a millisecond.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from threading import Condition, Event

import numpy as np

from backends.event.flags import changes

#: Threads beyond which they wait for each other, for the GIL, more than they work.
_MOST = 8
#: How often to look for tasks before falling asleep; and for the end of those of others, at once.
_PATIENCE, _GLANCE = 20_000, 1_000
#: Flags lie on cache lines of their own.
_LINE = 8


class Crew:
    """The caller and helpers of a pool, `threads` in all. stop: when set, tasks are left undone."""

    def __init__(self, pool: Executor, threads: int, stop: Event) -> None:
        self.pool, self.threads, self.stop = pool, min(threads, _MOST), stop
        self.left: deque[Callable[[], object]] = deque()
        self.errors: list[BaseException] = []
        self.flags = np.zeros(_LINE * self.threads, np.int64)  # turns; who of the helpers works
        self.wake, self.sleeping = Condition(), 0
        self.begun, self.closed = False, False

    def each(self, tasks: Iterable[Callable[[], object]]) -> None:
        """Run tasks that do not depend on each other."""
        if not self.begun:  # many a network is too small for more than one thread
            self.begun = True
            for i in range(1, self.threads):
                self.pool.submit(self._help, _LINE * i)
        self.errors.clear()
        self.left.extend(tasks)
        self._call()
        try:
            self._work_off()
        finally:
            self.left.clear()
            for i in range(1, self.threads):
                while self.flags[_LINE * i]:
                    changes(self.flags, _LINE * i, 1, _GLANCE)
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Let the helpers go."""
        self.closed = True
        self._call()

    def _call(self) -> None:
        self.flags[0] += 1
        if self.sleeping:
            with self.wake:
                self.wake.notify_all()

    def _help(self, place: int) -> None:
        turn = 0
        while not self.closed:
            if not changes(self.flags, 0, turn, _PATIENCE):
                with self.wake:
                    self.sleeping += 1
                    if self.flags[0] == turn:
                        self.wake.wait()
                    self.sleeping -= 1
            turn = int(self.flags[0])
            self.flags[place] = 1  # before a task is taken: the caller waits for whoever has one
            try:
                self._work_off()
            except BaseException as error:  # the caller raises it
                self.errors.append(error)
                self.left.clear()
            finally:
                self.flags[place] = 0

    def _work_off(self) -> None:
        while self.left:
            if self.stop.is_set():
                raise KeyboardInterrupt
            try:
                task = self.left.popleft()
            except IndexError:  # another thread took the last one
                return
            task()
