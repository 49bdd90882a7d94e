"""What from_pretrained decides, as the table in the header of api/loading.py has it."""

import numpy as np
import pytest

from minivl.api.loading import decide
from minivl.errors import InputError, OpsError
from minivl.weights.files import Stored

FULL = {"w": Stored("F32", np.zeros((4, 4), np.float32))}
HALF = {"w": Stored("BF16", np.zeros((4, 4), np.uint16))}
LANGUAGE = "opt"

# backend, dtype, load_in_8bit, the file's tensors  ->  the dtype that is computed in, whether weights take another form
TABLE = [
    ("plain", None, None, FULL, "float32", False),
    ("numpy", None, None, HALF, "float32", False),
    ("numpy", "auto", None, FULL, "float32", False),
    ("numpy", "auto", None, HALF, "float32", True),
    ("plain", "auto", None, HALF, "float32", True),
    ("numpy", "float32", None, HALF, "float32", False),
    ("numpy", "bfloat16", None, FULL, "float32", True),
    ("numpy", "float16", None, FULL, "float32", False),
    ("numpy", "float16", True, FULL, "float32", True),
    ("plain", None, "weight-only", FULL, "float32", True),
    ("torch", None, None, HALF, "float32", False),
    ("torch", "auto", None, HALF, "bfloat16", False),
    ("torch", "auto", None, FULL, "float32", False),
    ("torch", "float16", None, FULL, "float16", False),
    ("torch", "bfloat16", True, FULL, "bfloat16", True),
    ("torch", None, "weight-only", HALF, "float32", True),
    ("torch", None, False, HALF, "float32", False),
]


@pytest.mark.parametrize("backend, dtype, eight, tensors, computes, keeps", TABLE)
def test_a_line_of_the_table(backend, dtype, eight, tensors, computes, keeps):
    found = decide(backend, dtype, eight, "cpu", None, tensors, LANGUAGE)
    assert (found.dtype, found.keep is not None) == (computes, keeps)
    assert found.ops.name == backend


@pytest.mark.parametrize(
    "wrong, error, words",
    [
        (dict(dtype="float8"), InputError, "dtype 'float8' is not one of auto, float32, float16, bfloat16"),
        (dict(load_in_8bit="4bit"), InputError, "load_in_8bit: wanted True, False or 'weight-only', found '4bit'"),
        (dict(device_map={"a": 0, "b": 1}), InputError, "minivl uses one device"),
        (dict(backend="jax"), OpsError, "jax"),
        (dict(device="cuda"), OpsError, "cuda"),
    ],
)
def test_what_means_nothing_is_refused(wrong, error, words):
    given = dict(backend="numpy", dtype=None, load_in_8bit=None, device=None, device_map=None) | wrong
    with pytest.raises(error, match=words):
        decide(**given, tensors=FULL, language=LANGUAGE)
