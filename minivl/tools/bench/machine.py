"""The machine: its name, its free memory, and its limits, measured: large products and reading memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from .clock import PAUSE, Side

PRODUCT = 2048  # rows and columns of the matrices of the large product
READ = 1 << 29  # bytes read at a time
PACKAGES = ("torch", "transformers", "tokenizers", "pillow")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about() -> dict[str, Any]:
    """What a reader of the times has to know."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = {"python": platform.python_version(), "minivl": __version__, "numpy": np.__version__}
    versions["blas"] = f"{blas.get('name')} {blas.get('version')}"
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    where = {"processor": processor(), "cores": cores(), "memory": total_memory(), "system": platform.platform()}
    return {**where, "versions": versions}


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def total_memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def free_memory() -> int | None:
    """Bytes that can be had without swapping, all memory where the system tells no more, None where not even that.

    A container's own limit counts too.
    """
    found = [total_memory()] if total_memory() else []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        found.append(int(limit.read_text()) - int(used.read_text()))
    return min(found, default=None)


# ---- limits ----------------------------------------------------------------------------------------------------------
def products(others: bool) -> dict[str, Callable[[], Any]]:
    """The same large product of float32 matrices, by everyone who is there."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(PRODUCT, PRODUCT)).astype(np.float32) for _ in range(2))
    ways: dict[str, Callable[[], Any]] = {"NumPy": lambda: a @ b}
    if others:
        import torch

        x, y = torch.from_numpy(a), torch.from_numpy(b)
        ways["torch"] = lambda: torch.mm(x, y)
        if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            packed = torch.ops.mkldnn._reorder_linear_weight(y, PRODUCT)
            ways["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return ways


def product_limit(others: bool) -> Side:
    """The fastest of them, to take turns with a model: how many operations a second there are."""
    ways = products(others)
    best = min(ways, key=lambda name: min(_seconds(ways[name], 3)))
    return Side("limit", "limit", ways[best], work=2.0 * PRODUCT**3)


def reading_limit(arrays: Sequence[np.ndarray], threads: int) -> Side:
    """Reading these arrays once, to take turns with a model that has to: how many bytes a second there are."""
    return Side("limit", "limit", reader(arrays, threads), work=float(sum(array.nbytes for array in arrays)))


def reader(arrays: Sequence[np.ndarray], threads: int) -> Callable[[], None]:
    """A function that reads every byte of the arrays, each thread its share of each."""
    pool, parts = ThreadPoolExecutor(threads), shares(arrays, threads)

    def read(share: list[np.ndarray]) -> None:
        for part in share:
            np.bitwise_or.reduce(part)

    def read_all() -> None:
        for _ in pool.map(read, parts):
            pass

    return read_all


def shares(arrays: Sequence[np.ndarray], threads: int) -> list[list[np.ndarray]]:
    """What each thread reads: its part of every array, as words of eight bytes."""
    found: list[list[np.ndarray]] = [[] for _ in range(threads)]
    for array in arrays:
        whole = array.reshape(-1).view(np.uint8)
        words = whole[: len(whole) // 8 * 8].view(np.int64)
        for share, part in zip(found, np.array_split(words, threads), strict=True):
            share.append(part)
    return found


def limits(plan: Any) -> Iterator[dict[str, Any]]:
    """What this machine can do, in raw times."""
    ways, rounds = products(plan.others), max(plan.rounds, 5)
    block = np.ones(READ // 8, np.int64)
    counts = sorted({1, plan.threads})
    told = {
        "products": {name: _seconds(way, rounds) for name, way in ways.items()},
        "operations": 2.0 * PRODUCT**3,
        "reading": {str(threads): _seconds(reader([block], threads), rounds) for threads in counts},
        "bytes": READ,
    }
    yield {"kind": "limits", "row": "limits", "what": "this machine", **told}


def _seconds(run: Callable[[], Any], rounds: int) -> list[float]:
    run()
    times = []
    for _ in range(rounds):
        time.sleep(PAUSE)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
