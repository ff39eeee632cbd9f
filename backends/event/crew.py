"""Threads that stay awake while a run goes on, for kernels that take less time than waking up.

A thread that sleeps takes some 50 microseconds to wake up, as long as many a stage of a single
sample. So helpers look at a board again and again (see `sharing`), and sleep only if nothing has
been posted for about a millisecond. To start one takes longer still: they stay for the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from threading import Condition, Event, Thread
from typing import Any

import numpy as np

from backends.event import aligned
from backends.event.sharing import close, help_out, is_closed, new_board
from snncompiler.graph import Array

#: Threads beyond which there is too little for each of them in a layer of one sample.
_MOST = 8
#: How often to look at the board before falling asleep.
_PATIENCE = 20_000
#: Nanoseconds of work below which to share it costs more than it saves.
WORTH = 2e4
#: Nanoseconds of work between two looks at whether somebody wants to stop.
_PROMPT = 5e7
#: Tasks for every thread, of about the same work: little is left for the last one.
_EACH = 2


class Crew:
    """The caller and helpers, `threads` in all. stop: when set, tasks are left undone."""

    def __init__(self, stop: Event | None = None, threads: int = 1) -> None:
        self.stop, self.threads = stop or Event(), min(threads, _MOST)
        self.alone, self.shared = new_board(), new_board(self.threads - 1)
        self.helpers: list[Thread] = []  # many a network is too small for any
        self.wake, self.sleeping = Condition(), 0
        self._rooms: dict[tuple[Any, ...], Array] = {}

    def share(self, kernel: Callable[..., None], tasks: Array, work: float, *given: Any) -> None:
        """kernel(board, tasks, given), of tasks that do not depend on each other.

        tasks: whole numbers, [tasks, any]. work: all their nanoseconds, at a guess.
        """
        board = self.alone
        if self.hands(work) > 1 and len(tasks) > 1:
            self._call()
            board = self.shared
        for turn in self._turns(tasks, work):
            if self.stop.is_set():
                raise KeyboardInterrupt
            kernel(board, turn, given)

    @staticmethod
    def _turns(tasks: Array, work: float) -> list[Array]:
        """Tasks for one call each."""
        if work < _PROMPT:
            return [tasks]
        return [tasks[first:last] for first, last in cut(len(tasks), 1 + int(work / _PROMPT))]

    def room(self, purpose: str, shape: tuple[int, ...], kind: Any) -> Array:
        """Scratch for a call of a kernel: zeros, or as the last call left it that had the same."""
        key = purpose, shape, kind
        if key not in self._rooms:
            self._rooms[key] = aligned.zeros(shape, kind)
        return self._rooms[key]

    def hands(self, work: float) -> int:
        """How many threads will share so many nanoseconds of work; each has its own scratch."""
        return self.threads if work > WORTH else 1

    def pieces(self, work: float) -> int:
        """Into how many tasks to cut so much work, at least."""
        hands = self.hands(work)
        return (_EACH * hands if hands > 1 else 1) * (1 + int(work / _PROMPT))

    def tasks(self, size: int, work: float) -> Array:
        """0 .. size in as many tasks, (first, last) each, as so much work is cut into."""
        return cut(size, self.pieces(work))

    def close(self) -> None:
        """Let the helpers go."""
        close(self.shared)
        self._rouse()

    def _call(self) -> None:
        """See to it that helpers are awake."""
        if not self.helpers:
            hands = range(1, self.threads)
            self.helpers = [Thread(target=self._help, args=(i,), daemon=True) for i in hands]
            for helper in self.helpers:
                helper.start()
        self._rouse()

    def _rouse(self) -> None:
        if self.sleeping:
            with self.wake:
                self.wake.notify_all()

    def _help(self, hand: int) -> None:
        while not is_closed(self.shared):
            help_out(self.shared, hand, _PATIENCE)
            with self.wake:
                self.sleeping += 1
                if not is_closed(self.shared):
                    self.wake.wait()
                self.sleeping -= 1


@lru_cache(maxsize=1024)
def cut(size: int, pieces: int) -> Array:
    """0 .. size in so many tasks, (first, last) each, if it has as many; nobody may change them."""
    pieces = max(1, min(pieces, size))
    ends = [size * i // pieces for i in range(pieces + 1)]
    return np.array(list(pairwise(ends)), np.int64)
