"""Work that the cores share: everything is done once, errors come out, and BLAS has its threads back afterwards.

Parts of one op, and whole rows of a batch.
"""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minivl
from minivl import Blip2ForConditionalGeneration, BridgeTowerForContrastiveLearning, cores
from minivl.api import blip2, bridgetower
from minivl.cores import share
from minivl.errors import InputError
from minivl.ops import get
from minivl.ops import numpy as rows

OPS = get("numpy")


def blas_threads():
    return cores._openblas().scipy_openblas_get_num_threads64_()


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_part_is_done_once_and_by_more_than_one_thread():
    if cores.count() < 2:
        pytest.skip("one core, or a BLAS that is not OpenBLAS")
    meeting = threading.Barrier(2, timeout=30)  # two parts can only pass it together
    done, names = [], set()

    def work(part):
        if part < 2:
            meeting.wait()
        done.append(part)
        names.add(threading.get_ident())

    share(work, range(20))
    assert sorted(done) == list(range(20))
    assert len(names) >= 2


@pytest.mark.skipif(cores.count() > 1, reason="this run has more than one thread already")
def test_all_of_this_with_two_threads():
    """The suite's own processes have one thread each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {f"{library}_NUM_THREADS": "2" for library in ("OMP", "OPENBLAS", "MKL")}
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("cores", "ops")]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout


def test_work_that_shares_in_its_turn_does_its_parts_in_its_own_thread(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)
    both, done, threads = threading.Barrier(2, timeout=30), [], set()

    def whole(i):
        both.wait()
        if i == 0:  # the other thread is free at once, and could take parts of this
            share(part, range(5))

    def part(j):
        time.sleep(0.01)
        done.append(j)
        threads.add(threading.get_ident())

    share(whole, range(2))
    assert sorted(done) == list(range(5))
    assert len(threads) == 1


def test_after_an_error_work_is_shared_again():
    with pytest.raises(ZeroDivisionError):
        share(lambda part: 1 // 0, range(4))
    test_every_part_is_done_once_and_by_more_than_one_thread()


def test_nobody_waits_for_helpers_that_are_at_long_work_of_others(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)
    everybody, over, ended = threading.Barrier(3, timeout=30), threading.Event(), []

    def long(part):
        everybody.wait()
        over.wait(10)
        ended.append(part)

    other = threading.Thread(target=share, args=(long, range(2)))
    other.start()
    everybody.wait()  # now the one helper that there is has a part of the other's
    done = []
    share(done.append, range(3))
    assert sorted(done) == [0, 1, 2] and not ended
    over.set()
    other.join(30)
    assert len(ended) == 2
    test_every_part_is_done_once_and_by_more_than_one_thread()  # the helper is free again


def test_no_part_and_one_part():
    done = []
    share(done.append, [])
    share(done.append, [7])
    assert done == [7]


@pytest.mark.parametrize("bad", [0, 5, 19])
def test_an_error_of_any_part_comes_out_and_blas_gets_its_threads_back(bad):
    before = blas_threads()

    def work(part):
        if part == bad:
            raise ZeroDivisionError(f"part {part}")

    with pytest.raises(ZeroDivisionError, match=f"part {bad}"):
        share(work, range(20))
    assert blas_threads() == before


def test_blas_has_one_thread_while_parts_are_shared_and_all_of_them_afterwards():
    before, seen = blas_threads(), set()
    share(lambda part: seen.add(blas_threads()), range(4))
    assert seen == ({1} if cores.count() > 1 else {before})
    assert blas_threads() == before


def test_callers_in_several_threads_do_not_disturb_each_other():
    before = blas_threads()
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(7, 64)).astype(np.float32), rng.normal(size=(80_000, 64)).astype(np.float32)
    wanted = OPS.linear(x, w)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: OPS.linear(x, w), range(24)):
            np.testing.assert_array_equal(got, wanted)
    assert blas_threads() == before


def test_how_numpy_treats_errors_is_the_same_in_every_thread():
    def work(part):
        with pytest.raises(FloatingPointError):
            np.float32(1) / np.zeros(1, np.float32)

    with np.errstate(divide="raise"):
        share(work, range(8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_was_forked_has_threads_of_its_own():
    code = """
import os, numpy as np
from minivl.ops import get
x, w = np.ones((7, 64), np.float32), np.ones((80_000, 64), np.float32)
get("numpy").linear(x, w)
child = os.fork()
if child == 0:
    get("numpy").linear(x, w)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    assert run(code) == "0\n"


def test_the_limit_that_the_environment_sets_is_kept():
    code = "from minivl import cores; print(cores.count()); cores.share(print, [1, 2])"
    assert run(code, OPENBLAS_NUM_THREADS="1").split() == ["1", "1", "2"]


def test_without_openblas_one_thread_does_everything(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 1)
    names = set()
    share(lambda part: names.add(threading.get_ident()), range(10))
    assert names == {threading.get_ident()}


def test_rows_cover_a_matrix_once():
    for shape in [(1, 1), (10, 3), (7, 100), (0, 5), (5, 0)]:
        parts = cores.rows(shape, 30)
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(shape[0]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_core_gets_as_many_rows(monkeypatch, count):
    monkeypatch.setattr(cores, "count", lambda: count)
    parts = cores.rows((2560, 2560), 1 << 20)  # 6.25 of the wanted size
    heights = [part.stop - part.start for part in parts]
    assert len(parts) == {1: 7, 2: 8, 3: 9}[count]
    assert max(heights) - min(heights) <= 1
    assert cores.rows((10, 3), 1000) == [slice(0, 10)]  # too small to be cut


# ---- whole rows of a batch ---------------------------------------------------------------------------------------


def numbers(tree):
    """The arrays of an output, in order."""
    if isinstance(tree, np.ndarray):
        return [tree]
    return [array for branch in tree for array in numbers(branch)] if isinstance(tree, list | tuple) else []


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)
    monkeypatch.setattr(rows, "LEAST", 0)


@pytest.fixture
def seen(monkeypatch):
    """How many rows by_rows handed out, each time."""
    heights = []

    def by_rows(ops, run, *arrays):
        def counted(*parts):
            heights.append([len(part) for part in parts])
            return run(*parts)

        return rows.by_rows(ops, counted, *arrays)

    for face in (bridgetower, blip2):
        monkeypatch.setattr(face, "by_rows", by_rows)
    return heights


def pairs(batch):
    rng = np.random.default_rng(batch)
    mask = np.ones((batch, 5), int)
    mask[0, 3:] = 0
    pixels = rng.normal(size=(batch, 3, 64, 64)).astype(np.float32)
    return {"input_ids": rng.integers(4, 90, (batch, 5)), "attention_mask": mask, "pixel_values": pixels}


def test_rows_apart_are_the_rows_of_the_batch(two_cores, seen, monkeypatch):
    model = BridgeTowerForContrastiveLearning.from_pretrained("demo-bridgetower")
    asked = {"output_attentions": True, "output_hidden_states": True, "return_loss": True}
    got = model(**pairs(6), **asked)
    assert seen == [[3, 3, 3], [3, 3, 3]]
    monkeypatch.setattr(rows, "LEAST", 1 << 40)
    wanted = model(**pairs(6), **asked)
    assert seen[2:] == [[6, 6, 6]]
    a, b = numbers(got.to_tuple()), numbers(wanted.to_tuple())
    assert len(a) == len(b) > 20
    for x, y in zip(a, b, strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_pictures_apart_are_told_of_in_order(two_cores, seen, monkeypatch):
    model = Blip2ForConditionalGeneration.from_pretrained("demo")
    pixels = pairs(4)["pixel_values"]
    got = model.generate(pixels)
    assert seen == [[2], [2]]
    monkeypatch.setattr(rows, "LEAST", 1 << 40)
    np.testing.assert_array_equal(got, model.generate(pixels))
    assert len({tuple(row) for row in got}) > 1, "rows in the wrong order would not show"


def test_an_odd_batch_and_a_small_one_stay_whole(two_cores, seen, monkeypatch):
    model = BridgeTowerForContrastiveLearning.from_pretrained("demo-bridgetower")
    model(**pairs(3))
    monkeypatch.setattr(rows, "LEAST", 1 << 17)
    model(**pairs(2))
    assert seen == [[3, 3, 3], [2, 2, 2]]


def test_who_watches_sees_whole_batches(two_cores):
    model = BridgeTowerForContrastiveLearning.from_pretrained("demo-bridgetower")
    with minivl.trace(model) as flow:
        model(**pairs(4))
    assert {len(flow[name]) for name in flow if name.endswith(".mlp")} == {4}


def test_an_error_in_one_part_of_the_batch_comes_out(two_cores):
    model = BridgeTowerForContrastiveLearning.from_pretrained("demo-bridgetower")
    bad = pairs(4)
    bad["input_ids"][3, 1] = 10_000
    with pytest.raises(InputError, match="10000"):
        model(**bad)


@pytest.mark.parametrize(
    "B, H, T, S", [(1, 16, 257, 257), (8, 12, 130, 130), (3, 2, 400, 700), (5, 1, 1, 1), (2, 3, 800, 900)]
)
def test_attention_in_groups_of_heads_is_attention(B, H, T, S):
    rng = np.random.default_rng(B)
    q, k, v = (rng.normal(size=(B, H, n, 8)).astype(np.float32) for n in (T, S, S))
    mask, bias = rng.random((B, 1, 1, S)) > 0.3, rng.normal(size=(1, H, T, S)).astype(np.float32)
    got = OPS.attention(q, k, v, mask=mask, bias=bias, causal=T <= S)
    whole = OPS.attention_weights(q, k, mask=mask, bias=bias, causal=T <= S) @ v
    np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)
