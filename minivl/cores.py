"""Work shared among the cores: parts of one op, or whole rows of a batch, each done by whichever thread comes first.

NumPy computes without Python's lock, so two threads are two cores' worth of work. BLAS brings threads of its own; while
parts are shared it gets one for each of ours, or they would wait for each other.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np


def share(work: Callable[[Any], None], parts: Iterable[Any]) -> None:
    """work(part) for all parts, in any order and at the same time: each must write to a place of its own.

    Work that shares in its turn does its own parts itself: the other threads are busy with their parts of the whole.
    The first exception of a part is raised once all threads have stopped.
    """
    left = deque(parts)
    extra = min(thread_count(), len(left)) - 1

    def go() -> None:
        while left:
            try:
                part = left.popleft()
            except IndexError:  # another thread was quicker
                return
            work(part)

    if extra < 1:
        return go()
    seats, outcomes = deque([None] * extra), SimpleQueue[BaseException | None]()

    def help_out() -> None:
        try:
            seats.pop()
        except IndexError:  # all was done before this thread was free
            return
        try:
            go()
        except BaseException as error:  # it is raised where the work was shared
            outcomes.put(error)
        else:
            outcomes.put(None)

    tasks, threads = _helpers()
    before = _sharing.set(True)
    try:
        with one_blas_thread():
            _keep_apart(threads)
            for _ in range(extra):
                tasks.put(partial(copy_context().run, help_out))
            try:
                go()
            finally:
                left.clear()
                found = [outcomes.get() for _ in range(extra - _taken_back(seats))]
    finally:
        _sharing.reset(before)
    for error in found:
        if error is not None:
            raise error


def _taken_back(seats: deque[None]) -> int:
    """How many helpers have not come yet, and need not any more: they may be at long work of somebody else."""
    taken = 0
    with suppress(IndexError):  # one may come at this very moment
        while True:
            seats.pop()
            taken += 1
    return taken


_sharing = ContextVar("sharing", default=False)  # whether this thread is at a part already


def thread_count() -> int:
    """How many threads `share` would take now: one for work that is itself a part."""
    return 1 if _sharing.get() else count()


def rows(shape: tuple[int, ...], size: int) -> list[slice]:
    """The rows of a matrix (F, C) in runs of about `size` numbers, equally many runs of equal size for every core."""
    F, C = shape
    runs = -(-F * C // size)
    runs = min(-(-runs // thread_count()) * thread_count() if runs > 1 else 1, F)
    edges = [F * i // runs for i in range(runs + 1)] if runs else [0]
    return [slice(start, end) for start, end in pairwise(edges)]


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
def _helpers() -> tuple[SimpleQueue[Any], list[int]]:
    """Where the threads that help find their tasks, and the threads' numbers in the system."""
    tasks: SimpleQueue[Any] = SimpleQueue()
    threads = [threading.Thread(target=_help, args=(tasks,), name="minivl", daemon=True) for _ in range(count() - 1)]
    for thread in threads:
        thread.start()
    return tasks, [thread.native_id for thread in threads if thread.native_id is not None]


def _help(tasks: SimpleQueue[Any]) -> None:
    while True:
        tasks.get()()


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


if hasattr(os, "register_at_fork"):  # a child process inherits the queue, but none of its threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)

_calls = 0  # how many calls of `share` are under way in this process
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
    global _calls
    library = _openblas()
    with _lock:
        _calls += step
        if library:
            library.scipy_openblas_set_num_threads64_(1 if _calls else count())
