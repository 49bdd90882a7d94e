r"""The sum of every column: how a vector that was added to each row, a bias, learns from all of them.

    y_c = Σ_r x_rc              x (rows, C)

In words: the bias went into every row, so its gradient is the sum of the rows' gradients. The last step of the scales
and shifts in layer_norm.py's backward pass is the same sum, over what the programs there have left.

The trick is to have no atomics: with them programs would add in whatever order they come, and no two runs would give
the same bits. Here many rows are cut into at most PARTS chunks, one program sums each, and a second launch sums the
chunks' sums. Number and size of the chunks follow from the shape alone, so the order is the same on every run and chip.

    memory      x once; chunks · C float32 numbers written and read beside it
    schedule    one program takes BLOCK columns of one chunk, ROWS rows at a time: (⌈C / BLOCK⌉, chunks) programs, then
                (⌈C / BLOCK⌉, 1) if there was more than one chunk

The plain version is `x.sum(0)`, as in `linear_backward` of minivl/ops/backward.py.
"""

from typing import Any

from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import as_rows, unit_of


def config(C: int) -> dict[str, Any]:
    """The tile that ships for C columns; rows come in chunks of CHUNK, or larger ones, so that PARTS suffice."""
    block = min(4096 if INTERPRETED else 64, triton.next_power_of_2(C))
    return dict(BLOCK=block, ROWS=256 if INTERPRETED else 64, CHUNK=256, PARTS=64, num_warps=4)


@triton.jit
def column_sums_kernel(
    X, OUT,  # (rows, C), rows stride · UNIT apart; (chunks, C)
    rows, chunk, stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    part = tl.program_id(1)
    end = tl.minimum((part + 1) * chunk, rows)
    total = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    for start in range(part * chunk, end, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        here = (row < end)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
        total += tl.load(X + row[:, None] * (stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)
    tl.store(OUT + part * C + c, tl.sum(total, 0).to(OUT.dtype.element_ty), c < C)


@arrays
def column_sums(x: Array, dtype: str | None = None, tile: dict[str, Any] | None = None) -> Array:
    """The sum over all axes but the last, in float32, rounded once.   x (..., C) -> (C,), of x's dtype unless named"""
    x = as_rows(x)
    (rows, C), dtype = x.shape, dtype or name_of(x.dtype)
    if not C:
        return empty((0,), x, dtype)
    how = dict(tile or config(C))
    chunk = chunk_of(rows, how.pop("CHUNK"), how.pop("PARTS"))
    parts = max(1, triton.cdiv(rows, chunk))
    out, unit = empty((parts, C), x, dtype if parts == 1 else "float32"), unit_of(x.stride(0))
    grid = (triton.cdiv(C, how["BLOCK"]), parts)
    column_sums_kernel[grid](x, out, rows, chunk, x.stride(0) // unit, C=C, UNIT=unit, **how)
    return out.reshape(C) if parts == 1 else column_sums(out, dtype, how | dict(CHUNK=parts, PARTS=1))


def chunk_of(rows: int, step: int, most: int) -> int:
    """Rows of a chunk, a multiple of `step`, so that there are at most `most` of them."""
    return step * max(1, triton.cdiv(triton.cdiv(rows, step), most))
