r"""What goes through a softmax backwards: each share's gradient, less the mean of all, weighted by the shares.

    y = softmax(x)          dx = y · (dy - Σ y dy)          over the last axis; 0 in a row of nothing but -inf

In words: the shares always sum to 1, so only what a share gains on the others counts.

The trick is to keep nothing: y is found again from x. With m and total of softmax_rows.py a third sum runs along in
the same loop, u = Σ exp(x - m) dy, which shrinks like the total when a block raises m. Then Σ y dy = u / total.

    memory      x and dy twice (the second time mostly from the cache), dx once
    schedule    one program takes ROWS rows, ⌈rows / ROWS⌉ programs

The plain version is `softmax_backward` in minivl/ops/backward.py.
"""

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, unit_of
from minivl.kernels.softmax_rows import config, finite


@triton.jit
def softmax_backward_kernel(
    DY, X, DX,  # (rows, C), rows dy_stride · UNIT and x_stride · UNIT apart; contiguous
    rows, dy_stride, x_stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    in_rows = (row < rows)[:, None]  # [ROWS, 1]
    x_rows, dy_rows = X + row[:, None] * (x_stride * UNIT), DY + row[:, None] * (dy_stride * UNIT)  # [ROWS, 1]

    m = tl.full([ROWS], float("-inf"), tl.float32)  # [ROWS]
    total = tl.zeros([ROWS], tl.float32)  # [ROWS]
    u = tl.zeros([ROWS], tl.float32)  # [ROWS]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows + c[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        dy = tl.load(dy_rows + c[None, :], here, 0.0).to(tl.float32)  # [ROWS, BLOCK]
        m_new = tl.maximum(m, tl.max(x, 1))  # [ROWS]
        base = finite(m_new)  # [ROWS]
        e, shrink = tl.exp(x - base[:, None]), tl.exp(m - base)  # [ROWS, BLOCK], [ROWS]
        total, u = total * shrink + tl.sum(e, 1), u * shrink + tl.sum(e * dy, 1)
        m = m_new

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
def softmax_backward(dout, x, tile=None):
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
