"""What the tests share: seeded random numbers, the ops records, repeatable hypothesis runs."""

import numpy as np
import pytest
from hypothesis import settings

import minivl.ops

settings.register_profile("minivl", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("minivl")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["numpy", "torch"])
def ops(request):
    """Each record that runs everywhere, one after the other."""
    return minivl.ops.get(request.param)


@pytest.fixture
def np_ops():
    return minivl.ops.get("numpy")
