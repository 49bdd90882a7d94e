"""Work shared among the cores: independent parts of one op, each done by whichever thread comes first.

NumPy computes without Python's lock, so two threads are two cores' worth of work. BLAS brings threads of its own; while
parts are shared it gets one for each of ours, or they would wait for each other.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def share(work: Callable[[Any], None], parts: Iterable[Any]) -> None:
    """work(part) for all parts, in any order and at the same time: each must write to a place of its own.

    The first exception of a part is raised once all threads have stopped.
    """
    left = deque(parts)
    extra = min(count(), len(left)) - 1

    def go():
        while left:
            try:
                part = left.popleft()
            except IndexError:  # another thread was quicker
                return
            work(part)

    if extra < 1:
        return go()
    with one_blas_thread():
        pool, threads = _pool()
        _keep_apart(threads)
        others: list[Future] = [pool.submit(copy_context().run, go) for _ in range(extra)]
        try:
            go()
        finally:
            left.clear()
            wait(others)
    for other in others:
        other.result()


def rows(shape: tuple[int, ...], size: int) -> list[slice]:
    """The rows of a matrix (F, C) in runs of about `size` numbers."""
    F, C = shape
    height = max(1, size // max(C, 1))
    return [slice(start, min(start + height, F)) for start in range(0, F, height)]


@cache
def count() -> int:
    """How many threads the work is shared among: as many as BLAS was allowed (OPENBLAS_NUM_THREADS, or all cores).

    1 where NumPy brings another BLAS than OpenBLAS: that one can not be told to keep to itself.
    """
    library = _openblas()
    return library.scipy_openblas_get_num_threads64_() if library else 1


@cache
def _openblas() -> ctypes.CDLL | None:
    """The OpenBLAS that NumPy's own wheels bring along, and have loaded by now."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):  # Linux and Windows; macOS
        for file in folder.glob("libscipy_openblas64_*"):
            return ctypes.CDLL(str(file))
    return None


@cache
def _pool() -> tuple[ThreadPoolExecutor, list[int]]:
    """The threads that help, and their numbers in the system."""
    size, numbers = count() - 1, list[int]()
    everybody = threading.Barrier(size + 1)  # a pool starts threads one by one, and only while none is idle

    def appear():
        numbers.append(threading.get_native_id())
        everybody.wait()

    pool = ThreadPoolExecutor(size, "minivl")
    for _ in range(size):
        pool.submit(appear)
    everybody.wait()
    return pool, numbers


def _keep_apart(threads: list[int]) -> None:
    """The helpers leave the core that this thread runs on.

    Linux wakes a thread on the core of the one that woke it, and takes longer to spread the two than most ops last.
    """
    if hasattr(os, "sched_setaffinity"):
        elsewhere = os.sched_getaffinity(0) - {_libc().sched_getcpu()}
        for thread in threads if elsewhere else ():
            with suppress(OSError):  # the allowed cores may have changed in between; apart is only better, not needed
                os.sched_setaffinity(thread, elsewhere)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


if hasattr(os, "register_at_fork"):  # a child process inherits the pool, but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)

_sharing = 0  # how many calls of `share` are under way in this process
_lock = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS computes in the calling thread alone until the last of those who asked for it is done."""
    _count_sharing(+1)
    try:
        yield
    finally:
        _count_sharing(-1)


def _count_sharing(step: int) -> None:
    global _sharing
    library = _openblas()
    with _lock:
        _sharing += step
        if library:
            library.scipy_openblas_set_num_threads64_(1 if _sharing else count())
