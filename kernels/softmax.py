r"""Softmax over the last axis, and its gradient; nothing is kept between the two.

    y  = exp(x - max x) / Σ exp(x - max x)          a row of nothing but -inf gives zeros
    dx = y · (dy - Σ y dy)                          and has a gradient of zeros

In words: forward, every number becomes its share of the row. Subtracting the maximum changes nothing, since the factor
exp(-max) cancels, and keeps exp from overflowing. Backward, the shares always sum to 1, so a share's gradient counts
only as far as it differs from the mean of all, weighted by the shares.

The trick, forward: a row that fits into a block stays in registers from the maximum to the division. A wider one is
read twice instead of three times, because maximum and sum come from one loop: with m the maximum so far and
t = Σ exp(x - m), a block that raises m to m' first shrinks the sum, t · exp(m - m'), and then adds its own.
attention.py does the same to a whole matrix product. (Milakov & Gimelshein 2018, algorithm 3.) Backward, y is computed
again from x, and the same loop keeps a third sum, u = Σ exp(x - m) dy, which shrinks like t: Σ y dy = u / t.

    memory      forward: x once, y once; NumPy passes over the row five times. Rows wider than a block: x twice.
                backward: x and dy twice (the second time mostly from the cache), dx once
    schedule    one program takes ROWS rows, ⌈rows / ROWS⌉ programs

The plain versions are `softmax` in minivl/ops/plain.py and `softmax_backward` in minivl/ops/backward.py.
"""

from typing import Any

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import Array, arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, rows_per_program, unit_of

WIDEST = 4096  # elements of a block; rows wider than that are looped over


def config(C: int, rows: int = 1 << 20) -> dict[str, Any]:
    """The tile that ships for `rows` rows of C elements: 1024 of them or one row, 16 bytes a load and thread."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


@triton.jit
def finite(m):
    """The maximum to subtract; 0 where nothing but -inf was seen, since -inf minus -inf would be nan."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def row_sums(x_rows, dy_rows, in_rows, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Each row's maximum m and sums relative to it, in one loop: Σ exp(x - m), and Σ exp(x - m) dy if dy is not None.

    x_rows, dy_rows [ROWS, 1] pointers to where rows begin   in_rows [ROWS, 1]   ->   m, total, u [ROWS]
    """
    m = tl.full([ROWS], float("-inf"), tl.float32)  # [ROWS]
    total = tl.zeros([ROWS], tl.float32)  # [ROWS]
    u = tl.zeros([ROWS], tl.float32)  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        if dy_rows is not None:
            dy = tl.load(dy_rows + c[None, :], here, 0.0).to(tl.float32)  # [ROWS, BLOCK]
        m_new = tl.maximum(m, tl.max(x, 1))  # [ROWS]
        base = finite(m_new)  # [ROWS]
        shrink, e = tl.exp(m - base), tl.exp(x - base[:, None])  # [ROWS], [ROWS, BLOCK]
        total = total * shrink + tl.sum(e, 1)
        if dy_rows is not None:
            u = u * shrink + tl.sum(e * dy, 1)
        m = m_new
    return m, total, u


@triton.jit
def softmax_kernel(
    X, OUT,  # (rows, C), rows stride · UNIT apart; contiguous
    rows, stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows that fit into one block."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.arange(0, BLOCK)  # [BLOCK]
    here = (row < rows)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]

    x = tl.load(X + row[:, None] * (stride * UNIT) + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
    y = tl.exp(x - finite(tl.max(x, 1))[:, None])  # [ROWS, BLOCK]
    total = tl.sum(y, 1)  # [ROWS]
    y = y / tl.where(total == 0.0, 1.0, total)[:, None]  # [ROWS, BLOCK]
    tl.store(OUT + row[:, None] * C + c[None, :], y.to(OUT.dtype.element_ty), here)


@triton.jit
def softmax_wide_kernel(
    X, OUT,  # (rows, C), rows stride · UNIT apart; contiguous
    rows, stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows wider than a block: one loop for maximum and sum, one for the result."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    in_rows = (row < rows)[:, None]  # [ROWS, 1]
    x_rows = X + row[:, None] * (stride * UNIT)  # [ROWS, 1]
    m, total, _ = row_sums(x_rows, None, in_rows, C, ROWS, BLOCK)  # [ROWS], [ROWS]

    base = finite(m)  # [ROWS]
    total = tl.where(total == 0.0, 1.0, total)  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        y = tl.exp(x - base[:, None]) / total[:, None]  # [ROWS, BLOCK]
        tl.store(OUT + row[:, None] * C + c[None, :], y.to(OUT.dtype.element_ty), here)


@triton.jit
def softmax_backward_kernel(
    DY, X, DX,  # (rows, C), rows dy_stride · UNIT and x_stride · UNIT apart; contiguous
    rows, dy_stride, x_stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of any width: one loop for maximum and sums, one for the result."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    in_rows = (row < rows)[:, None]  # [ROWS, 1]
    x_rows, dy_rows = X + row[:, None] * (x_stride * UNIT), DY + row[:, None] * (dy_stride * UNIT)  # [ROWS, 1]
    m, total, u = row_sums(x_rows, dy_rows, in_rows, C, ROWS, BLOCK)  # [ROWS], [ROWS], [ROWS]

    base = finite(m)  # [ROWS]
    total = tl.where(total == 0.0, 1.0, total)  # [ROWS]
    mean = u / total  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        dy = tl.load(dy_rows + c[None, :], here, 0.0).to(tl.float32)  # [ROWS, BLOCK]
        dx = tl.exp(x - base[:, None]) / total[:, None] * (dy - mean[:, None])  # [ROWS, BLOCK]
        tl.store(DX + row[:, None] * C + c[None, :], dx.to(DX.dtype.element_ty), here)


@arrays
def softmax(x: Array, *, tile: dict[str, Any] | None = None) -> Array:
    """exp(x) / Σ exp(x) over the last axis; zeros for a row of nothing but -inf.   x (..., C) -> (..., C)"""
    check_floats("softmax", x=x)
    out, flat = empty(tuple(x.shape), x), as_rows(x)
    rows, C = flat.shape
    if rows and C:
        tile, unit = tile or config(C, rows), unit_of(flat.stride(0))
        kernel = softmax_kernel if C <= tile["BLOCK"] else softmax_wide_kernel
        kernel[(triton.cdiv(rows, tile["ROWS"]),)](flat, out, rows, flat.stride(0) // unit, C=C, UNIT=unit, **tile)
    return out


@arrays
def softmax_backward(dout: Array, x: Array, *, tile: dict[str, Any] | None = None) -> Array:
    """y · (dout - Σ y dout) with y = softmax(x), over the last axis.   dout, x (..., C) -> (..., C)"""
    check_floats("softmax_backward", x=x, dout=dout)
    if tuple(dout.shape) != tuple(x.shape):
        raise OpsError(
            f"softmax_backward: dout has shape {tuple(dout.shape)} and x {tuple(x.shape)}, they must be the same"
        )
    dx, flat, dout = empty(tuple(x.shape), x), as_rows(x), as_rows(dout)
    rows, C = flat.shape
    if rows and C:
        tile, unit = tile or config(C, rows), unit_of(flat.stride(0), dout.stride(0))
        softmax_backward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            dout, flat, dx, rows, dout.stride(0) // unit, flat.stride(0) // unit, C=C, UNIT=unit, **tile
        )
    return dx
