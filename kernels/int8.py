r"""LLM.int8(): the product of a linear layer in 8-bit integers, its few large columns beside it in 16 bits.

Every row of x and of w is stretched so that its largest number becomes 127, and rounded:

    q[m, c] = round(x[m, c] · 127 / a[m])       a[m] = max_c |x[m, c]|          x rounded to float16 first, ties to even
    x[m, c] ≈ q[m, c] · a[m] / 127              likewise w[f, c] ≈ p[f, c] · s[f] / 127, once and for all

One large number in a row would leave nothing but zeros for the others. So a column of x that holds an |x| >= threshold
anywhere (6.0; all tokens of the call count) is an outlier column: its numbers are left out of q, and the numbers that
reach the threshold out of a. What was left out is multiplied as it is, in the dtype of x:

    y[m, f] = Σ_c q[m, c] p[f, c] · a[m] s[f] / 127²   +   Σ_outliers x[m, c] p[f, c] · s[f] / 127   +   b[f]
              int32, exact                                 tensor cores, float32 sums

The trick: s[f] / 127 comes before both sums, so the outlier columns of w are multiplied as the integers they are
(exact in every dtype of x), and both sums end in one epilogue. And nothing waits for the host: which columns are
outliers is counted on the device, and the product reads how far its last loop goes.

    memory      reads x three times (2 bytes a number: outliers, maximum, rounding; the third from the cache) and writes
                q (1 byte);  the product moves half the bytes of a 16-bit one, and w takes half the room for good
    programs    find_outliers_kernel   BLOCK_M x BLOCK_C numbers, a flag for each column
                list_outliers_kernel   a single one, which numbers the flagged columns by a running sum
                quantise_rows_kernel   BLOCK_M rows, first their maxima, then their integers
                int8_linear_kernel     BLOCK_M x BLOCK_F results, as in linear.py

Source: Dettmers et al. 2022, section 3; the order of rounding is that of the bitsandbytes package, so the integers are
the same, and 1/127² is 6.200124e-05 as it has it. It also rounds the outliers' weights to float16; here they are not.

The plain version is `int8_linear` in minivl/ops/plain.py.
"""

import math
from typing import Any

from minivl.errors import InputError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, tl, triton
from minivl.kernels.linear import check_shapes, rows_at, tile_of
from minivl.kernels.rows import as_rows, unit_of
from minivl.kernels.weight_only import check_bytes

STEP = tl.constexpr(127 * 6.200124e-05)  # 1/127, with 1/127² rounded as bitsandbytes has it: ops/plain.py's PER_STEP


@triton.jit
def find_outliers_kernel(
    X, FLAGS,  # (M, C), (⌈M / BLOCK_M⌉, C) int8: 1 where these rows hold an outlier
    M, C, sx, threshold,  # C and the row stride of X are divided by V
    V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x = tl.load(rows_at(X, m, M, sx, V, c), c[None, :] < C * V, 0.0)  # [BLOCK_M, BLOCK_C]
    large = tl.abs(x.to(tl.float16).to(tl.float32)) >= threshold
    tl.store(FLAGS + tl.program_id(0) * C * V + c, tl.max(large.to(tl.int32), 0).to(tl.int8), c < C * V)


@triton.jit
def list_outliers_kernel(
    FLAGS, COLUMNS, COUNT, MARKED,  # (blocks, C) int8, (C,) int32, (1,) int32, (C,) int8
    blocks, C, BLOCK_C: tl.constexpr,
):  # fmt: skip
    count = 0
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)  # [BLOCK_C]
        flag = tl.zeros([BLOCK_C], tl.int32)
        for block in range(0, blocks):
            flag = tl.maximum(flag, tl.load(FLAGS + block * C + c, c < C, 0).to(tl.int32))
        before = count + tl.cumsum(flag, 0) - flag  # outliers before this column
        tl.store(COLUMNS + before, c, flag > 0)
        tl.store(MARKED + c, flag.to(tl.int8), c < C)
        count += tl.sum(flag, 0)
    tl.store(COUNT, count)


@triton.jit
def nearest(x):
    """Round to the nearest whole number, ties to the even one, for |x| < 2²²: so large a number has no room for halves.

    Only where the multiplication before it is rounded on its own (enable_fp_fusion=False): a fused multiply-add would
    see the tie that float32 rounded away.
    """
    return x + 12582912.0 - 12582912.0  # 1.5 · 2²³


@triton.jit
def quantise_rows_kernel(
    X, MARKED, Q, A,  # (M, C), (C,) int8 or None, (M, C) int8, (M,) float32
    M, C, sx, threshold,  # C and the row stride of X are divided by V
    V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]

    a = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, C * V, BLOCK_C):
        x = tl.load(x_at + start, start + c[None, :] < C * V, 0.0).to(tl.float16).to(tl.float32)
        size = tl.abs(x)
        if MARKED is not None:
            size = tl.where(size >= threshold, 0.0, size)
        a = tl.maximum(a, tl.max(size, 1))
    tl.store(A + m, a, m < M)

    stretch = tl.where(a > 0, tl.div_rn(127.0, tl.where(a > 0, a, 1.0)), 0.0)  # a row of nothing but zeros stays so
    for start in range(0, C * V, BLOCK_C):
        inside = start + c < C * V
        x = tl.load(x_at + start, inside[None, :], 0.0).to(tl.float16).to(tl.float32)
        if MARKED is not None:
            x = tl.where(tl.load(MARKED + start + c, inside, 0)[None, :] != 0, 0.0, x)
        q = nearest(x * stretch[:, None]).to(tl.int8)  # [BLOCK_M, BLOCK_C]
        tl.store(Q + m.to(tl.int64)[:, None] * (C * V) + start + c[None, :], q, (m[:, None] < M) & inside[None, :])


@triton.jit
def int8_linear_kernel(
    Q, A, W, S, B, X, COLUMNS, COUNT, Y,  # (M, C) int8, (M,), (F, C) int8, (F,), (F,) or None, (M, C), ..., (M, F)
    M, F, C, sw, sx,  # C and the row stride of W are divided by V; X may have another divisor, so sx is as it is
    V: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    q_at = rows_at(Q, m, M, C, V, c)  # [BLOCK_M, BLOCK_C]
    w_at = rows_at(W, f, F, sw, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    acc = tl.zeros([BLOCK_M, BLOCK_F], tl.int32)
    for start in range(0, whole, BLOCK_C):
        acc = tl.dot(tl.load(q_at + start), tl.trans(tl.load(w_at + start)), acc, out_dtype=tl.int32)
    if TAIL:
        inside = whole + c[None, :] < C * V
        q = tl.load(q_at + whole, inside, 0)
        acc = tl.dot(q, tl.trans(tl.load(w_at + whole, inside, 0)), acc, out_dtype=tl.int32)
    y = acc.to(tl.float32) * (tl.load(A + m, m < M, 0.0) * STEP)[:, None]  # [BLOCK_M, BLOCK_F]

    if COLUMNS is not None:
        count = tl.load(COUNT)
        for start in tl.range(0, count, BLOCK_O, num_stages=1):
            o = start + tl.arange(0, BLOCK_O)  # [BLOCK_O]
            column = tl.load(COLUMNS + o, o < count, 0)
            x = tl.load(rows_at(X, m, M, sx, 1, column), o[None, :] < count, 0.0)  # [BLOCK_M, BLOCK_O]
            w = tl.load(rows_at(W, f, F, sw, V, column), o[None, :] < count, 0).to(x.dtype)  # [BLOCK_F, BLOCK_O]
            y = tl.dot(x, tl.trans(w), y, input_precision="ieee")
    y *= tl.div_rn(tl.load(S + f, f < F, 0.0), 127.0)[None, :]
    if B is not None:
        y += tl.load(B + f, f < F, 0.0).to(tl.float32)[None, :]
    kept = (m[:, None] < M) & (f[None, :] < F)
    tl.store(Y + m.to(tl.int64)[:, None] * F + f[None, :], y.to(Y.dtype.element_ty), kept)


# What ships. The product: at most so many tokens -> the tile; the others have one configuration each.
TILES = {
    16: dict(BLOCK_M=16, BLOCK_F=64, BLOCK_C=128, GROUP=1, BLOCK_O=16, num_warps=4, num_stages=4),
    64: dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=128, GROUP=1, BLOCK_O=16, num_warps=4, num_stages=4),
    math.inf: dict(BLOCK_M=128, BLOCK_F=128, BLOCK_C=128, GROUP=8, BLOCK_O=16, num_warps=8, num_stages=3),
}
FIND = dict(BLOCK_M=32, BLOCK_C=128, num_warps=4)
LIST = dict(BLOCK_C=1024, num_warps=4)
QUANTISE = dict(BLOCK_M=1, BLOCK_C=1024, num_warps=4, enable_fp_fusion=False)
# The interpreter's cost is per program, so there each takes a good deal more.
INTERPRETED_TILE = dict(BLOCK_M=64, BLOCK_F=128, BLOCK_C=128, GROUP=8, BLOCK_O=16)
INTERPRETED_ROWS = dict(BLOCK_M=64, BLOCK_C=512, enable_fp_fusion=False)


def config(M: int) -> dict[str, Any]:
    """The tile of the product for M tokens."""
    return INTERPRETED_TILE if INTERPRETED else next(tile for most, tile in TILES.items() if M <= most)


def _outliers(x: Array, threshold: float) -> tuple[Array, Array, Array]:
    """Which columns of x (M, C) hold an |x| >= threshold -> columns (C,), of which count (1,) hold; marked (C,)."""
    M, C = x.shape
    how = INTERPRETED_ROWS if INTERPRETED else FIND
    V = unit_of(C, x.stride(0))
    blocks = triton.cdiv(M, how["BLOCK_M"])
    flags = empty((blocks, C), x, "int8")
    find_outliers_kernel[(blocks, triton.cdiv(C, how["BLOCK_C"]))](
        x, flags, M, C // V, x.stride(0) // V, float(threshold), V, **how
    )
    columns, count, marked = empty((C,), x, "int32"), empty((1,), x, "int32"), empty((C,), x, "int8")
    list_outliers_kernel[(1,)](flags, columns, count, marked, blocks, C, **LIST)
    return columns, count, marked


def _quantise(x: Array, threshold: float, marked: Array | None = None) -> tuple[Array, Array]:
    """x (M, C), marked (C,) or None -> q (M, C) int8, a (M,) float32, as the header has them."""
    M, C = x.shape
    how = INTERPRETED_ROWS if INTERPRETED else QUANTISE
    V = unit_of(C, x.stride(0))
    q, a = empty((M, C), x, "int8"), empty((M,), x, "float32")
    quantise_rows_kernel[(triton.cdiv(M, how["BLOCK_M"]),)](
        x, marked, q, a, M, C // V, x.stride(0) // V, float(threshold), V, **how
    )
    return q, a


@arrays
def quantise_rows(x: Array, threshold: float = 0.0) -> tuple[Array, Array]:
    """Every row of x as 8-bit integers and the absolute maximum that 127 stands for.

    x (..., C) float32, float16 or bfloat16   ->   q (..., C) int8, a (...) float32, with x ≈ q · a / 127

    threshold 0 is for weights. Above 0, columns that reach it are zeros in q; such numbers do not count in a.
    """
    check_floats("quantise_rows", x=x)
    if not x.numel():
        raise InputError(f"quantise_rows: x has shape {tuple(x.shape)}, and there is nothing in it to quantise")
    flat = as_rows(x)
    marked = _outliers(flat, threshold)[2] if threshold > 0 else None
    q, a = _quantise(flat, threshold, marked)
    return q.reshape(*x.shape), a.reshape(*x.shape[:-1])


@arrays
def int8_linear(
    x: Array, w: Array, scale: Array, b: Array | None = None, threshold: float = 6.0,
    tile: dict[str, Any] | None = None,
) -> Array:  # fmt: skip
    """x times the transpose of an int8 weight, plus bias, as LLM.int8() computes it.

    x (..., C)   w (F, C) int8   scale (F,) float32, each row's absolute maximum   b (F,), of x's dtype   ->   (..., F)

    threshold 0 means no outlier columns. An outlier anywhere in x changes every row's result a little.
    """
    check_shapes("int8_linear", x, None, b, w=w)
    check_floats("int8_linear", x=x, b=b)
    check_bytes("int8_linear", w, scale)
    (F, C), flat, w = w.shape, as_rows(x), as_rows(w)
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    columns, count, marked = _outliers(flat, threshold) if threshold > 0 else (None, None, None)
    q, a = _quantise(flat, threshold, marked)
    M, V = flat.shape[0], unit_of(C, w.stride(0))
    how = tile or config(M)
    int8_linear_kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
        q, a, w, scale.contiguous(), None if b is None else b.contiguous(), flat, columns, count, y,
        M, F, C // V, w.stride(0) // V, flat.stride(0), V, C % how["BLOCK_C"] > 0, **how,
    )  # fmt: skip
    return y
