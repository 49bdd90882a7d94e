"""What the tests share: kernels in Triton's interpreter, seeded random numbers, the ops records, repeatable runs.

    pytest              everything
    pytest -m quick     under a minute on two cores: all but the files in SLOW
    pytest -m gpu       the kernels on a GPU

The run ends with the seconds that each room took.
"""

import contextlib
import os
import sys
from collections import Counter
from pathlib import Path

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


# Files that `pytest -m quick` leaves out, because they take more than three seconds or so; single tests in them that
# are fast are marked @pytest.mark.quick.
SLOW = {
    "api": {"bad_input"},
    "demo": {"demo", "demo_bridgetower", "train_numpy"},
    "generate": {"generate", "sampling"},
    "house": {"light"},
    "kernels": {
        *("compiled", "kernel_attention", "kernel_attention_backward", "kernel_decode_attention", "kernel_embeddings"),
        *("kernel_int8", "kernel_layer_norm", "launch", "training_kernels"),
    },
    "models": {"better_than_reference", "bridgetower", "t5"},
    "ops": {"backends", "cores", "quant", "triton_gradients"},
    "tools": {"batch", "bench", "finetune", "jobs", "parity", "player", "summary", "workbench", "workbench_check"},
    "tutorials": {"debugger", "tutorials"},
    "weights": {"bridgetower_weights", "faults", "faults_download", "weights"},
}


def is_slow(path: Path) -> bool:
    return path.stem.removeprefix("test_") in SLOW.get(path.parent.name, ())


def pytest_ignore_collect(collection_path, config):
    """A quick run does not even import the slow files, unless they have a test that is marked quick."""
    if config.getoption("markexpr") == "quick" and collection_path.suffix == ".py" and is_slow(collection_path):
        return "mark.quick" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if not is_slow(item.path) and item.get_closest_marker("gpu") is None:
            item.add_marker(pytest.mark.quick)


def pytest_terminal_summary(terminalreporter):
    """How many tests each room has, and how many seconds they took together, set-up included."""
    tests, seconds = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and report.nodeid.count("/") > 1:
                room = report.nodeid.split("/")[1]
                tests[room] += report.when == "call"
                seconds[room] += report.duration
    terminalreporter.section("rooms")
    for room, took in seconds.most_common():
        terminalreporter.write_line(f"{room:12}{tests[room]:6} tests{took:8.1f} s")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["plain", "numpy", "torch"])
def ops(request):
    """Each record that runs everywhere, one after the other."""
    import minivl.ops

    return minivl.ops.get(request.param)


@pytest.fixture(params=["plain", "numpy"])
def np_ops(request):
    """The formulas, and their fast forms."""
    import minivl.ops

    return minivl.ops.get(request.param)


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
