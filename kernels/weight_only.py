r"""A linear layer whose weights are kept in 8 bits: int8 rows with one scale each, widened in registers.

    y[m, f] = Σ_c x[m, c] w[f, c] · s[f] / 127 + b[f]           x (M, C)   w (F, C) int8   s (F,)   b (F,)

s is the absolute maximum of each row: the rows and scales of kernels/int8.py serve here as well. There activations are
rounded to 8 bits too; here they stay as they are.

While a sentence is written there is one row of x (or one for each beam), and every weight is used once or a few
times: two operations for each byte, where a GPU can do hundreds. So only the bytes of w count: `matvec_kernel` reads
them once. An int8 weight becomes a float32 only in the register of the thread that multiplies it, and s comes after the
sum. For more than MOST_ROWS rows a weight is used often enough for tensor cores: `weight_only_kernel` is linear.py's
product with w widened to x's dtype on its way to them (whole numbers up to 127 are exact in each).

The trick of `matvec_kernel` is to keep threads from waiting for each other. A tile is 512 bytes wide, 16 for each of 32
threads, so that a row of w belongs to one warp, and its sum over c needs no shared memory and no barrier. Each warp
loads the piece of x that it needs once more for itself, from the L1 cache. It uses no tensor cores: they take 8 or 16
rows of x at a time.

    memory      matvec_kernel reads w once: F · C bytes, against 4 F C in float32; x is small.
                weight_only_kernel: as linear.py, w in a quarter or half of the bytes
    schedule    matvec_kernel: BLOCK_F features of all M rows, ⌈F / BLOCK_F⌉ programs; weight_only_kernel: as linear.py

The plain version is `weight_only_linear` in minivl/ops/plain.py.
"""

from typing import Any

from minivl.errors import OpsError
from minivl.kernels import linear
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton
from minivl.kernels.linear import check_shapes, rows_at, tile_of, tile_product
from minivl.kernels.rows import as_rows, unit_of

MOST_ROWS = 8  # of matvec_kernel


@triton.jit
def matvec_kernel(
    X, W, S, B, Y,  # (M, C), (F, C) int8, (F,), (F,) or None, (M, F)
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

    y *= tl.div_rn(tl.load(S + f, f < F, 0.0), 127.0)[:, None]
    if B is not None:
        y += tl.load(B + f, f < F, 0.0).to(tl.float32)[:, None]
    tl.store(Y + m * F + f[:, None], y.to(Y.dtype.element_ty), (m < M) & (f[:, None] < F))


@triton.jit
def weight_only_kernel(
    X, W, S, B, Y,  # (M, C), (F, C) int8, (F,), (F,) or None, (M, F)
    M, F, C, sx, sw,  # C and both row strides are divided by V
    V: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    y = tile_product(X, W, None, m, f, M, F, C, sx, sw, V, TAIL, BLOCK_M, BLOCK_F, BLOCK_C)  # [BLOCK_M, BLOCK_F]
    y *= tl.div_rn(tl.load(S + f, f < F, 0.0), 127.0)[None, :]
    if B is not None:
        y += tl.load(B + f, f < F, 0.0).to(tl.float32)[None, :]
    kept = (m[:, None] < M) & (f[None, :] < F)
    tl.store(Y + m.to(tl.int64)[:, None] * F + f[None, :], y.to(Y.dtype.element_ty), kept)


def config(M: int, F: int, C: int, dtype: str) -> dict[str, Any]:
    """The tile that ships for M rows. The interpreter's cost is per program: there it is large."""
    if M > MOST_ROWS:
        return linear.config(M, F, C, dtype)
    return dict(BLOCK_F=256, BLOCK_C=512) if INTERPRETED else dict(BLOCK_F=8, BLOCK_C=512, num_warps=4)


@arrays
def weight_only_linear(
    x: Array, w: Array, scale: Array, b: Array | None = None, *, tile: dict[str, Any] | None = None
) -> Array:
    """x (w · scale / 127)ᵀ + b, w as small as it is kept.

    x (..., C) of float32, float16 or bfloat16   w (F, C) int8   scale (F,) float32, each row's absolute maximum
    b (F,) of x's dtype   ->   (..., F) of x's dtype
    tile    block sizes, warps and stages of matvec_kernel (up to 8 rows) or weight_only_kernel
    """
    check_shapes("weight_only_linear", x, None, b, w=w)
    check_floats("weight_only_linear", x=x, b=b)
    check_bytes("weight_only_linear", w, scale)
    (F, C), flat, w = w.shape, as_rows(x), as_rows(w)
    M = flat.shape[0]
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    V = unit_of(C, flat.stride(0), w.stride(0))
    given = flat, w, scale.contiguous(), None if b is None else b.contiguous(), y
    strides = C // V, flat.stride(0) // V, w.stride(0) // V
    how = tile or config(M, F, C, name_of(x.dtype))
    if M <= MOST_ROWS:
        matvec_kernel[(triton.cdiv(F, how["BLOCK_F"]),)](*given, F, *strides, V, M, triton.next_power_of_2(M), **how)
    else:
        grid = (triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)
        weight_only_kernel[grid](*given, M, F, *strides, V, C % how["BLOCK_C"] > 0, **how)
    return y


def check_bytes(op: str, w: Array, scale: Array) -> None:
    """Raise OpsError unless w is int8 with one float32 scale for each row."""
    if (name_of(w.dtype), name_of(scale.dtype), tuple(scale.shape)) != ("int8", "float32", tuple(w.shape[:1])):
        raise OpsError(
            f"{op}: w is {name_of(w.dtype)} and scale {name_of(scale.dtype)} {tuple(scale.shape)}; wanted are int8 rows"
            f" and one float32 for each of the {w.shape[0]}: quantise_rows(weight) gives both"
        )
