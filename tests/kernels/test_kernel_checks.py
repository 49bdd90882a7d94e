"""The rule that kernels are held to must itself be able to say no, and the tensors drawn must lie as they claim."""

import numpy as np
import pytest
import torch
from kernel_checks import LAYOUTS, draw, no_worse, room, same_bits


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (3, 4), (7,), ()])
def test_every_layout_holds_the_same_numbers(dtype, shape):
    drawn = [draw(np.random.default_rng(1), shape, dtype, layout=layout) for layout in LAYOUTS]
    for x, layout in zip(drawn, LAYOUTS, strict=True):
        assert tuple(x.shape) == shape and x.dtype == getattr(torch, dtype)
        same_bits(x, drawn[0], layout)


def test_no_two_layouts_share_strides():
    strides = {draw(np.random.default_rng(1), (2, 3, 5, 8), "float32", layout=x, pad=p).stride() for x in LAYOUTS[1:]
               for p in (3, 5)}  # fmt: skip
    assert len(strides) == 5  # padded and offset differ in where they start; strided has no pad
    x = draw(np.random.default_rng(1), (3, 4), "float32", layout="offset")
    assert x.storage_offset() == 7
    around = torch.empty(0).set_(x.untyped_storage(), 0, (7,), (1,))
    assert torch.isnan(around).all()


def test_a_room_is_empty_all_over():
    assert torch.isnan(room((3, 4), "bfloat16", layout="padded")).all()
    assert (room((3, 4), "int8", layout="permuted") == -128).all()


EXACT = np.random.default_rng(5).standard_normal((40, 30))


def rounded(dtype):
    return torch.from_numpy(EXACT).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_rounded_once_passes(dtype):
    no_worse(rounded(dtype), EXACT, rounded(dtype), cap=0.1, what="x")


def wrong(place, value, dtype="float32"):
    x = rounded(dtype)
    x[place] = value
    return x


@pytest.mark.parametrize(
    "ours, words",
    [
        (wrong((3, 4), float(EXACT[3, 4]) + 1e-5), r"x \(float32\): at \(3, 4\) ours is .* is above .* = 2 x the ref"),
        (wrong((3, 4), float("nan")), r"x: at \(3, 4\) ours is nan, exactly .* \(1 of 1200"),
        (wrong((39, 29), float("inf")), r"x: at \(39, 29\) ours is inf"),
        (rounded("float16"), "x: dtype is float16, and the reference's is float32"),
        (rounded("float32")[:, :1], r"x: shapes are \(40, 1\) ours"),
    ],
)
def test_what_is_wrong_does_not(ours, words):
    with pytest.raises(AssertionError, match=words):
        no_worse(ours, EXACT, rounded("float32"), cap=1.0, what="x")


def test_a_bad_reference_is_no_excuse():
    bad = rounded("float32") + 1
    with pytest.raises(AssertionError, match="above the cap 0.5"):
        no_worse(bad, EXACT, bad, cap=0.5, what="x")
    with pytest.raises(AssertionError, match="root mean square of all errors is"):
        no_worse(bad, EXACT, bad, cap=2, what="x")
    no_worse(bad, EXACT, bad, cap=2, what="x", rms=2)


def test_one_bad_element_of_the_reference_allows_no_error_everywhere():
    reference, ours = wrong((3, 4), float(EXACT[3, 4]) + 0.5), rounded("float32") + 0.01
    with pytest.raises(AssertionError, match="root mean square"):
        no_worse(ours, EXACT, reference, cap=1, what="x")
    no_worse(wrong((3, 4), float(EXACT[3, 4]) + 1e-5), EXACT, reference, cap=1, what="x")


def test_infinities_of_the_exact_answer_are_wanted():
    exact = np.array([1.0, -np.inf, 2.0])
    right = torch.from_numpy(exact).float()
    no_worse(right, exact, right, cap=1, what="x")
    with pytest.raises(AssertionError, match=r"at \(1,\) ours is 0.0, exactly -inf"):
        no_worse(torch.tensor([1.0, 0.0, 2.0]), exact, right, cap=1, what="x")


def test_numpy_arrays_are_taken_too():
    no_worse(EXACT.astype(np.float32), EXACT, rounded("float32"), cap=1e-6, what="x")


def test_same_bits_names_the_first_that_differs():
    with pytest.raises(AssertionError, match=r"x: at \(3, 4\) 9\.0, not .*; 1 of 1200 differ"):
        same_bits(wrong((3, 4), 9.0), rounded("float32"), "x")
    same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]), "x")
