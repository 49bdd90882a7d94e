r"""Softmax over the last axis, each row read once.

    y = exp(x - max x) / Σ exp(x - max x)           a row of nothing but -inf gives zeros

In words: every number becomes its share of the row. Subtracting the maximum changes nothing, as the factor exp(-max)
stands above and below the line, and keeps exp from overflowing.

The trick: a row that fits into a block stays in registers from the maximum to the division. A wider one is read twice
instead of three times, by looking for the maximum and summing in the same loop: with m the maximum so far and
t = Σ exp(x - m), a block that raises m to m' first shrinks what was summed, t · exp(m - m'), and then adds its own.
attention.py does the same to a whole matrix product. (Milakov & Gimelshein 2018, algorithm 3.)

    memory      x once, y once; NumPy passes over the row five times. Rows wider than a block: x twice.
    schedule    one program takes ROWS rows, ⌈rows / ROWS⌉ programs

The plain version is `softmax` in minivl/ops/numpy.py.
"""

from minivl.kernels.activations import check_floats
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, rows_per_program, unit_of

WIDEST = 4096  # elements of a block; rows wider than that are looped over


def config(C, rows=1 << 20):
    """The tile that ships for `rows` rows of C elements: 1024 of them or one row, 16 bytes a load and thread."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


@triton.jit
def finite(m):
    """The maximum to subtract; 0 where nothing but -inf was seen, since -inf minus -inf would be nan."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def add_block(m, total, x):
    """Maximum and sum after one more block of each row.   m, total [ROWS]   x [ROWS, BLOCK], -inf beyond the row"""
    m_new = tl.maximum(m, tl.max(x, 1))  # [ROWS]
    base = finite(m_new)  # [ROWS]
    return m_new, total * tl.exp(m - base) + tl.sum(tl.exp(x - base[:, None]), 1)


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

    m = tl.full([ROWS], float("-inf"), tl.float32)  # [ROWS]
    total = tl.zeros([ROWS], tl.float32)  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        x = tl.load(x_rows + c[None, :], in_rows & (c < C)[None, :], float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        m, total = add_block(m, total, x)

    base = finite(m)  # [ROWS]
    total = tl.where(total == 0.0, 1.0, total)  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        y = tl.exp(x - base[:, None]) / total[:, None]  # [ROWS, BLOCK]
        tl.store(OUT + row[:, None] * C + c[None, :], y.to(OUT.dtype.element_ty), here)


@arrays
def softmax(x, tile=None):
    """exp(x) / Σ exp(x) over the last axis; zeros for a row of nothing but -inf.   x (..., C) -> (..., C)"""
    check_floats("softmax", x=x)
    out, flat = empty(tuple(x.shape), x), as_rows(x)
    rows, C = flat.shape
    if rows and C:
        tile, unit = tile or config(C, rows), unit_of(flat.stride(0))
        kernel = softmax_kernel if C <= tile["BLOCK"] else softmax_wide_kernel
        kernel[(triton.cdiv(rows, tile["ROWS"]),)](flat, out, rows, flat.stride(0) // unit, C=C, UNIT=unit, **tile)
    return out
