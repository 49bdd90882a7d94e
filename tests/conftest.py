"""What the tests share: kernels in Triton's interpreter, seeded random numbers, the ops records, repeatable runs."""

import contextlib
import os
import sys

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # the workers are as many as the cores: threads on top would wait for each other
    for library in ("OMP", "OPENBLAS", "MKL"):  # read once, while NumPy and torch are imported
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("minivl", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("minivl")


def pytest_configure(config):
    """Triton reads TRITON_INTERPRET once, while it is imported: decide here, before any test file does that.

    `pytest -m gpu` compiles the kernels, every other run interprets them, unless the variable is already set.
    """
    if "TRITON_INTERPRET" not in os.environ:
        if "triton" in sys.modules:
            raise pytest.UsageError("a pytest plugin imported triton already: set TRITON_INTERPRET=1 yourself")
        os.environ["TRITON_INTERPRET"] = "0" if config.getoption("markexpr") == "gpu" else "1"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["plain", "numpy", "torch"])
def ops(request):
    """Each record that runs everywhere, one after the other."""
    import minivl.ops

    return minivl.ops.get(request.param)


@pytest.fixture
def np_ops():
    import minivl.ops

    return minivl.ops.get("numpy")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the tensors of a kernel's test live: "cpu", which means interpreted; "cuda" only under `pytest -m gpu`.

    On both, what `launch.empty` hands out is full of NaN, so an element that no program wrote is seen. Interpreted, the
    whole test is watched: what a kernel reads or writes out of bounds, and a race between programs, is an error.
    """
    from minivl.kernels import launch

    if request.param == "cpu" and not launch.INTERPRETED:
        pytest.skip("kernels are compiled in this run, and tensors on the CPU need the interpreter")
    if request.param == "cuda" and launch.INTERPRETED:
        pytest.fail("a test for a GPU would run in the interpreter: start it with `TRITON_INTERPRET=0 pytest -m gpu`")
    monkeypatch.setattr(launch, "MARK_UNWRITTEN", True)
    if request.param == "cuda":
        yield "cuda"
        return
    from minivl.kernels.checking.checked import checked

    with checked():
        yield "cpu"


@pytest.fixture
def watch(device):
    """`with watch():` reports what reads or writes out of bounds, and races, in the interpreter; on a GPU nothing."""
    if device == "cuda":
        return contextlib.nullcontext
    from minivl.kernels.checking.checked import checked

    return checked
