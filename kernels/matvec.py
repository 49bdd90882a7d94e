r"""One new token times a weight matrix, the matrix kept small: int8 or 16-bit rows, widened in registers.

    y[m, f] = Σ_c x[m, c] w[f, c] · s[f] / 127 + b[f]           x (M, C), M from 1 to 8   w (F, C)   s (F,)   b (F,)

s is the absolute maximum of each row, for int8 only: the 127 of kernels/int8.py, and the same weights serve both.
16-bit and float32 weights have no s and no 127.

While a sentence is being written there is one row of x (or one for each beam), and every weight is used once or a few
times: two operations for each byte or two, where a GPU can do hundreds. So nothing counts but the bytes of w. An int8
weight becomes a float32 only in the register of the thread that multiplies it, and s comes after the sum.

The trick is to keep threads from waiting for each other. A tile is 512 bytes wide, 16 for each of 32 threads, so that a
row of w belongs to one warp, and its sum over c needs no shared memory and no barrier. Each warp loads the piece of x
that it needs once more for itself, from the L1 cache. No tensor core: it would want 8 or 16 rows of x.

    memory      reads w once: F · C bytes in int8, 2 F C in 16 bits, against 4 F C in float32; x is small
    one program BLOCK_F features of all M rows
    grid        (⌈F / BLOCK_F⌉,)

The plain version is `linear` in minivl/ops/numpy.py, with w · s / 127 for w.
"""

from typing import Any

from minivl.errors import InputError, OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton
from minivl.kernels.linear import check_shapes, rows_at
from minivl.kernels.rows import as_rows, unit_of

MOST_ROWS = 8
WIDE = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4}  # bytes of one weight


@triton.jit
def matvec_kernel(
    X, W, S, B, Y,  # (M, C), (F, C), (F,) or None, (F,) or None, (M, F)
    F, C, sx, sw,  # C and both row strides are divided by V
    V: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,  # ROWS: the power of two that covers M
    BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)  # [BLOCK_F]
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    m = tl.arange(0, ROWS)[None, :]  # [1, ROWS]
    w_at = rows_at(W, f, F, sw, V, c)  # [BLOCK_F, BLOCK_C]
    x_at = tl.broadcast_to(X + c[None, :], [BLOCK_F, BLOCK_C])  # as w lies: no thread needs another's x

    y = tl.zeros([BLOCK_F, ROWS], tl.float32)
    for start in range(0, C * V, BLOCK_C):
        inside = start + c[None, :] < C * V
        w = tl.load(w_at + start, inside, 0).to(tl.float32)  # [BLOCK_F, BLOCK_C]
        for row in tl.static_range(M):
            x = tl.load(x_at + row * (sx * V) + start, inside, 0.0).to(tl.float32)  # [BLOCK_F, BLOCK_C]
            y = tl.where(m == row, y + tl.sum(w * x, 1)[:, None], y)  # [BLOCK_F, ROWS]

    if S is not None:
        y *= tl.div_rn(tl.load(S + f, f < F, 0.0), 127.0)[:, None]
    if B is not None:
        y += tl.load(B + f, f < F, 0.0).to(tl.float32)[:, None]
    tl.store(Y + m * F + f[:, None], y.to(Y.dtype.element_ty), (m < M) & (f[:, None] < F))


def config(dtype: str) -> dict[str, Any]:
    """The tile for weights of this dtype, 512 bytes wide. The interpreter's cost is per program: there it is large."""
    if INTERPRETED:
        return dict(BLOCK_F=256, BLOCK_C=512)
    return dict(BLOCK_F=8, BLOCK_C=512 // WIDE[dtype], num_warps=4)


@arrays
def matvec(
    x: Array, w: Array, scales: Array | None = None, b: Array | None = None, tile: dict[str, Any] | None = None
) -> Array:
    """x wᵀ + b for few rows, w as small as it is kept.

    x (..., C) of float32, float16 or bfloat16, 1 to 8 rows in all   b (F,) of x's dtype   ->   (..., F) of x's dtype
    w (F, C) int8 with scales (F,) float32, each row's absolute maximum; or any float dtype, without scales
    """
    check_shapes("matvec", x, None, b, w=w)
    check_floats("matvec", x=x, b=b)
    (F, C), flat, w = w.shape, as_rows(x), as_rows(w)
    M = flat.shape[0]
    if M > MOST_ROWS:
        raise InputError(f"matvec: x has {M} rows, and the kernel takes {MOST_ROWS} at most: use linear or int8_linear")
    _check_weights(w, scales)
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    V = unit_of(C, flat.stride(0), w.stride(0))
    how = tile or config(name_of(w.dtype))
    matvec_kernel[(triton.cdiv(F, how["BLOCK_F"]),)](
        flat, w, None if scales is None else scales.contiguous(), None if b is None else b.contiguous(), y,
        F, C // V, flat.stride(0) // V, w.stride(0) // V, V, M, triton.next_power_of_2(M), **how,
    )  # fmt: skip
    return y


def _check_weights(w: Array, scales: Array | None) -> None:
    """Raise OpsError unless w has a dtype the kernel takes, with scales if that is int8 and without otherwise."""
    dtype = name_of(w.dtype)
    if dtype not in WIDE:
        raise OpsError(f"matvec: w is {dtype}, and the kernel takes {', '.join(WIDE)}: convert it")
    if (scales is not None) != (dtype == "int8"):
        raise OpsError(
            f"matvec: w is {dtype} and scales are {'given' if scales is not None else 'missing'}: int8 rows need one"
            " float32 each, other rows none"
        )
    if scales is not None and (name_of(scales.dtype), tuple(scales.shape)) != ("float32", tuple(w.shape[:1])):
        raise OpsError(
            f"matvec: scales are {name_of(scales.dtype)} {tuple(scales.shape)}, wanted is one float32 for each of the"
            f" {w.shape[0]} rows of w"
        )
