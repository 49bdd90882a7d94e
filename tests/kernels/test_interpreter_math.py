"""The interpreter's arithmetic against torch, bit for bit: bfloat16, casts, multiply-add, int8 products, libdevice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import same_bits

from minivl.kernels.launch import INTERPRETED, tl, triton

if not INTERPRETED:
    pytest.skip("kernels are compiled in this run", allow_module_level=True)

from triton.language.extra import libdevice

from minivl.kernels.interpreter_math import multiply_add, narrow, round_to_tf32, widen


@triton.jit
def binary_kernel(X, Y, Z, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    x, y = tl.load(X + i, i < n, 1.0), tl.load(Y + i, i < n, 1.0)
    if OP == "add":
        z = x + y
    elif OP == "subtract":
        z = x - y
    elif OP == "multiply":
        z = x * y
    elif OP == "divide":
        z = x / y
    elif OP == "maximum":
        z = tl.maximum(x, y)
    elif OP == "negative":
        z = -x
    elif OP == "absolute":
        z = tl.abs(x)
    elif OP == "fma":
        z = tl.fma(x, y, x)
    elif OP == "scalar":
        z = 0.3 * x + 1.1  # a Python number takes the dtype of the other side
    elif OP == "choose":
        z = tl.where((x > y) & (x >= 0) & (y != 0.5), x, y)
    tl.store(Z + i, z, i < n)


TORCH = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "negative": lambda x, y: -x,
    "absolute": lambda x, y: x.abs(),
    "fma": lambda x, y: torch.from_numpy(narrow((x.double() * y.double() + x.double()).numpy())).view(x.dtype),
    "scalar": lambda x, y: x * torch.tensor(0.3, dtype=x.dtype) + torch.tensor(1.1, dtype=x.dtype),
    "choose": lambda x, y: torch.where((x > y) & (x >= 0) & (y != 0.5), x, y),
}


def every_bfloat16():
    """All 65,536 of them as one tensor, the infinities and NaN among them."""
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def run_binary(x, y, op):
    z = torch.zeros_like(x)
    block = 1 << 14
    binary_kernel[(-(-x.numel() // block),)](x, y, z, x.numel(), OP=op, BLOCK=block)
    return z


@pytest.mark.parametrize("op", TORCH)
def test_bfloat16_arithmetic_is_that_of_torch(op, rng):
    x = every_bfloat16()
    y = torch.from_numpy(rng.permutation(1 << 16).astype(np.uint16)).view(torch.bfloat16)
    if op == "maximum":  # whether NaN wins is torch's own choice
        x, y = (torch.where(torch.isnan(v), torch.ones_like(v), v) for v in (x, y))
    if op == "fma":  # of this size the sum is exact in float64
        x, y = (torch.where((v.abs() > 2**-8) & (v.abs() < 2**8), v, torch.ones_like(v)) for v in (x, y))
    same_bits(run_binary(x, y, op), TORCH[op](x, y), f"bfloat16 {op}")


def test_bfloat16_signs_of_zero_are_kept():
    x, y = torch.tensor([[0.0, -0.0], [-1.0, -1.0]], dtype=torch.bfloat16)
    assert torch.signbit(run_binary(x, y, "multiply")).tolist() == [True, False]


@triton.jit
def cast_kernel(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(Z + i, tl.load(X + i, i < n, 0).to(Z.dtype.element_ty), i < n)


def cast(x, dtype):
    z = torch.zeros(x.shape, dtype=dtype)
    block = 1 << 14
    cast_kernel[(-(-x.numel() // block),)](x, z, x.numel(), BLOCK=block)
    return z


def hard_to_round(rng):
    """float32: ties of bfloat16 between even and odd, their neighbours, the largest and smallest, inf and NaN."""
    upper = rng.integers(0, 1 << 16, 4000).astype(np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (upper[:, None] | lower).ravel()
    extremes = np.array([3.4e38, -3.4e38, 3.39e38, 1e-45, -1e-40, np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    return torch.from_numpy(np.concatenate([bits.view(np.float32), extremes]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_casts_from_float32_round_to_nearest_even(dtype, rng):
    x, dtype = hard_to_round(rng), getattr(torch, dtype)
    same_bits(cast(x, dtype), x.to(dtype), f"float32 to {dtype}")


@triton.jit
def rounding_kernel(X, Z, n, WAY: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(Z + i, tl.load(X + i, i < n).to(tl.bfloat16, fp_downcast_rounding=WAY), i < n)


def test_a_cast_rounds_the_way_it_is_told(rng):
    x = torch.from_numpy(rng.standard_normal(1 << 14).astype(np.float32))
    nearest, cut = torch.zeros(2, x.numel(), dtype=torch.bfloat16)
    rounding_kernel[(1,)](x, nearest, x.numel(), WAY="rtne", BLOCK=1 << 14)
    rounding_kernel[(1,)](x, cut, x.numel(), WAY="rtz", BLOCK=1 << 14)
    same_bits(nearest, x.bfloat16(), "to nearest")
    same_bits(cut, (x.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16(), "towards zero")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_casts_from_bfloat16(dtype):
    x, dtype = every_bfloat16(), getattr(torch, dtype)
    same_bits(cast(x, dtype), x.to(dtype), f"bfloat16 to {dtype}")


def test_casts_between_bfloat16_and_whole_numbers():
    whole = torch.tensor([0, 1, -1, 255, 256, 257, 258, 259, 2**24 + 2**16 + 1, 2**31 - 1, -(2**31)], dtype=torch.int32)
    same_bits(
        cast(whole, torch.bfloat16), torch.from_numpy(whole.double().numpy()).to(torch.float32).bfloat16(), "int32"
    )
    small = torch.tensor([0.0, -1.0, 2.5, -2.5, 127.0, -128.0], dtype=torch.bfloat16)
    same_bits(cast(small, torch.int8), small.to(torch.int8), "bfloat16 to int8")
    same_bits(cast(small, torch.int32), small.to(torch.int32), "bfloat16 to int32")


@given(st.floats(allow_nan=False, min_value=-(2.0**127), max_value=2.0**127))
@settings(max_examples=300)
def test_a_float64_rounds_once(x):
    """Of all bfloat16 the nearest; a tie goes to the even one."""
    bits = int(narrow(np.array([x]))[0])
    got = float(widen(np.array([bits], np.uint16))[0])
    for step in (-1, 1):
        if 0 <= (bits & 0x7FFF) + step < 0x7F80:
            other = float(widen(np.array([bits + step], np.uint16))[0])
            assert abs(got - x) < abs(other - x) or (abs(got - x) == abs(other - x) and bits % 2 == 0)


def test_a_float64_just_beside_a_tie_of_bfloat16_does_not_become_one():
    tie = 1 + 2.0**-8
    for x, wanted in ((tie, 1.0), (tie + 2.0**-40, 1 + 2.0**-7), (tie - 2.0**-40, 1.0), (tie + 2.0**-7, 1 + 2.0**-6)):
        assert widen(narrow(np.array([x]))) == wanted
    assert widen(narrow(np.array([tie + 0.75 * 2.0**-23]))) == 1 + 2.0**-7  # float32's nearest is odd already


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**40), max_value=2.0**40)


@given(numbers, numbers, numbers)
@settings(max_examples=300)
def test_multiply_add_of_float32_rounds_once(x, y, z):
    """Against exact fractions: the float32 nearest to x y + z, ties to even."""
    from fractions import Fraction

    got = np.float32(multiply_add(*(np.array([v], np.float32) for v in (x, y, z)))[0])
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    error = abs(Fraction(float(got)) - exact)
    for towards in (-np.inf, np.inf):
        other = np.nextafter(got, np.float32(towards))
        rival = abs(Fraction(float(other)) - exact)
        assert error < rival or (error == rival and int(got.view(np.uint32)) % 2 == 0)


def test_multiply_add_where_rounding_twice_goes_wrong():
    x, y, z = (np.array([v], np.float32) for v in (1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60))
    # x y = 1 + 2^-11 + 2^-24 lies on a tie of float32; z is too small for float64 to see, and decides all the same.
    assert np.float32(multiply_add(x, y, z)[0]) == np.float32(1 + 2.0**-11 + 2.0**-23)
    assert np.float32(multiply_add(x, y, -z)[0]) == np.float32(1 + 2.0**-11)


@triton.jit
def dot_kernel(A, B, C, K: tl.constexpr):
    m, k, n = tl.arange(0, 16), tl.arange(0, K), tl.arange(0, 32)  # [16], [K], [32]
    a = tl.load(A + m[:, None] * K + k[None, :])  # [16, K]
    b = tl.load(B + k[:, None] * 32 + n[None, :])  # [K, 32]
    if A.dtype.element_ty == tl.int8:
        c = tl.dot(a, b, tl.full([16, 32], 7, tl.int32), out_dtype=tl.int32)  # [16, 32]
    else:
        c = tl.dot(a, b, tl.full([16, 32], 7.0, tl.float32))  # [16, 32]
    tl.store(C + m[:, None] * 32 + n[None, :], c)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_product_of_half_numbers_adds_up_in_float32(dtype, rng):
    """Whole numbers up to 255, so every sum is exact and its order does not matter."""
    a, b = (
        torch.from_numpy(rng.integers(-255, 256, shape)).to(getattr(torch, dtype)) for shape in ((16, 64), (64, 32))
    )
    c = torch.zeros(16, 32)
    dot_kernel[(1,)](a, b, c, K=64)
    same_bits(c, (a.double() @ b.double() + 7).float(), f"dot of {dtype}")


@pytest.mark.parametrize("K", [16, 1024, 2048])
def test_a_product_of_int8_is_exact(K, rng):
    a, b = (torch.from_numpy(rng.integers(-128, 128, shape).astype(np.int8)) for shape in ((16, K), (K, 32)))
    a[0], b[:, 0] = -128, -128  # the largest sum there is
    c = torch.zeros(16, 32, dtype=torch.int32)
    dot_kernel[(1,)](a, b, c, K=K)
    same_bits(c, (a.int() @ b.int() + 7).int(), "dot of int8")
    assert c[0, 0] == K * 128 * 128 + 7


@triton.jit
def reduce_kernel(X, SUM, MOST, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, WIDTH)  # [ROWS], [WIDTH]
    x = tl.load(X + r[:, None] * WIDTH + c[None, :])  # [ROWS, WIDTH]
    tl.store(SUM + r, tl.sum(x, 1))
    tl.store(MOST + r, tl.max(x, 1))


def test_reductions_of_bfloat16(rng):
    x = torch.from_numpy(rng.integers(-255, 256, (16, 128))).bfloat16()  # every partial sum is exact in float32
    total, most = torch.zeros(16, dtype=torch.bfloat16), torch.zeros(16, dtype=torch.bfloat16)
    reduce_kernel[(1,)](x, total, most, ROWS=16, WIDTH=128)
    same_bits(total, x.sum(1), "sum")
    same_bits(most, x.max(1).values, "max")


def test_tf32_rounds_to_ten_bits():
    x = np.array([1 + 2.0**-11, 1 + 2.0**-12, 1 + 2.0**-10, -1 - 2.0**-11, 3.0], np.float32)
    np.testing.assert_array_equal(round_to_tf32(x), [1 + 2.0**-10, 1, 1 + 2.0**-10, -1 - 2.0**-10, 3])


@triton.jit
def libdevice_kernel(X, Z, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)  # [BLOCK]
    x = tl.load(X + i)
    if OP == "erf":
        z = libdevice.erf(x)
    elif OP == "tanh":
        z = libdevice.tanh(x)
    elif OP == "exp":
        z = libdevice.exp(x)
    elif OP == "log1p":
        z = libdevice.log1p(tl.abs(x))
    elif OP == "rsqrt":
        z = libdevice.rsqrt(tl.abs(x))
    elif OP == "pow":
        z = libdevice.pow(tl.abs(x), 1.5)
    elif OP == "rint":
        z = libdevice.rint(x)
    tl.store(Z + i, z)


@pytest.mark.parametrize("op", ["erf", "tanh", "exp", "log1p", "rsqrt", "pow", "rint"])
def test_libdevice_computes(op, rng):
    x = torch.from_numpy(rng.standard_normal(256).astype(np.float32) * 2)
    z, d = torch.zeros_like(x), x.double()
    libdevice_kernel[(1,)](x, z, OP=op, BLOCK=256)
    wanted = {
        "erf": torch.erf,
        "tanh": torch.tanh,
        "exp": torch.exp,
        "log1p": lambda v: torch.log1p(v.abs()),
        "rsqrt": lambda v: torch.rsqrt(v.abs()),
        "pow": lambda v: v.abs() ** 1.5,
        "rint": torch.round,
    }[op](d)
    torch.testing.assert_close(z, wanted.float(), rtol=1.2e-7, atol=0)


def test_libdevice_refuses_half_numbers_as_the_compiler_does():
    x = torch.ones(16, dtype=torch.bfloat16)
    with pytest.raises(Exception, match="libdevice.tanh takes fp32 or fp64, not bf16"):
        libdevice_kernel[(1,)](x, torch.zeros_like(x), OP="tanh", BLOCK=16)


def test_no_warning_where_a_gpu_gives_none(recwarn):
    x = torch.tensor([1e30, np.inf] * 8)
    z = torch.zeros(16)
    binary_kernel[(1,)](x, -x, z, 16, OP="add", BLOCK=16)
    binary_kernel[(1,)](x, x, z, 16, OP="multiply", BLOCK=16)
    assert torch.isinf(z).all() and not recwarn.list
