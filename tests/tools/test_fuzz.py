"""A few hundred mutants of the many that tests/helpers/fuzz.py makes, and whether it would notice what it looks for."""

import os
import random
import time

import fuzz
import numpy as np
import pytest

from minivl.weights import files

COUNT = 400


def test_no_mutant_does_anything_but_fail_cleanly_or_be_read(capfd):
    tally, findings = fuzz.run(COUNT, seed=7)
    assert findings == []
    assert sum(tally.values()) == COUNT
    for kind in fuzz.READERS:
        outcomes = {found: n for (name, found), n in tally.items() if name == kind}
        assert sum(outcomes.values()) == COUNT // len(fuzz.READERS)
        assert any(found.endswith("Error") for found in outcomes), kind  # the damage does damage
    assert sum(n for (_, found), n in tally.items() if found == "read") > COUNT // 20  # and is not all there is


def test_a_mutant_is_the_same_every_time():
    good = fuzz.goods()
    for i, kind in enumerate(fuzz.READERS):
        first, again, other = (fuzz.mutant(kind, good, random.Random(f"0 {n}")) for n in (i, i, i + 1000))
        assert first == again and first != other


def crash(folder):
    raise KeyError("x")


def write(folder):
    (folder / "model.safetensors").write_bytes(b"")


def start(folder):
    os.system("true")


def overflow(folder):
    np.float32(3e38) * np.float32(10)


def work(folder):
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass


@pytest.mark.parametrize(
    ("reader", "words"),
    [(crash, "KeyError"), (write, "it did open"), (start, "os.system"), (overflow, "overflow"), (work, "it took 0.")],
)
def test_the_fuzzer_sees_what_it_looks_for(reader, words, tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz.READERS, "safetensors", ("model.safetensors", reader))
    monkeypatch.setattr(fuzz, "LIMIT", 0.1)
    _, wrong = fuzz.outcome("safetensors", tmp_path, fuzz.Watchman())
    assert words in wrong


def test_the_good_pickle_of_the_fuzzer_is_one(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(fuzz.archive(fuzz.program(), np.arange(16, dtype="<f4").tobytes()))
    found = files.read(tmp_path)
    assert found["weight"].array.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert found["bias"].array.tolist() == [12, 13, 14, 15]
