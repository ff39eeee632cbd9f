"""Threads to share work on the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone knows it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads. BLAS starts none beside them, which would wait busily for more to do."""
    with (
        _libraries().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(threads) as pool,
    ):
        yield pool


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
