"""Threads to share work on the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone knows it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, and BLAS on one of its own each."""
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        yield pool


def one_blas_thread() -> AbstractContextManager[object]:
    """BLAS starts no threads beside ours, which would wait busily for more to do."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
