r"""Layer norm as the formula says it, to read before layer_norm.py: three loops over the row, one row per program.

    mean = Σ x / C        var = Σ (x - mean)² / C        y = (x - mean) / √(var + eps) · w + b

In words: add the row up; add up how far it strays; write it shifted and scaled. Each loop takes BLOCK numbers at once,
so any width works, and nothing is kept from one loop to the next but two numbers.

The trick is missing on purpose. What the shipped kernel does better, step by step:

    - The row is read three times; layer_norm.py reads it once and keeps it in registers where it fits.
    - x - mean is only as good as the mean, which float32 rounds: from a row around 10,000 that varies by 0.01 hardly
      two digits are left. layer_norm.py measures what the rounding left over and takes it off.
    - C and the row stride are ordinary arguments, so the compiler cannot know that rows begin at multiples of 16 bytes
      unless 16 divides C, and loads 2 bytes at a time where it does not.
    - A program with one narrow row has more threads than numbers.

    memory      x three times (twice from the cache), y once
    schedule    one program takes one row
"""

from typing import Any

from minivl.kernels.activations import check_floats
from minivl.kernels.launch import Array, arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, check_width

TILE = dict(BLOCK=1024, num_warps=4)


@triton.jit
def layer_norm_naive_kernel(X, W, B, OUT, C, stride, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_row = X + row * stride  # x (rows, C), stride apart; out (rows, C), contiguous

    total = tl.zeros([BLOCK], tl.float32)  # [BLOCK]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        total += tl.load(x_row + c, c < C, 0.0).to(tl.float32)
    mean = tl.sum(total, 0) / C

    squares = tl.zeros([BLOCK], tl.float32)  # [BLOCK]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        x = tl.load(x_row + c, c < C, 0.0).to(tl.float32)  # [BLOCK]
        squares += tl.where(c < C, (x - mean) * (x - mean), 0.0)
    rstd = tl.rsqrt(tl.sum(squares, 0) / C + eps)

    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        x = tl.load(x_row + c, c < C, 0.0).to(tl.float32)  # [BLOCK]
        w = tl.load(W + c, c < C, 0.0).to(tl.float32)  # [BLOCK]
        b = tl.load(B + c, c < C, 0.0).to(tl.float32)  # [BLOCK]
        y = (x - mean) * rstd * w + b  # [BLOCK]
        tl.store(OUT + row * C + c, y.to(OUT.dtype.element_ty), c < C)


@arrays
def layer_norm_naive(x: Array, w: Array, b: Array, eps: float, *, tile: dict[str, Any] | None = None) -> Array:
    """`layer_norm` of minivl/ops/plain.py.   x (..., C)   w, b (C,)   ->   (..., C)"""
    check_floats("layer_norm_naive", x=x, w=w, b=b)
    check_width("layer_norm_naive", x.shape[-1], w=w, b=b)
    out, flat = empty(tuple(x.shape), x), as_rows(x)
    rows, C = flat.shape
    if rows:
        layer_norm_naive_kernel[(rows,)](
            flat, w.contiguous(), b.contiguous(), out, C, flat.stride(0), eps, **(tile or TILE)
        )
    return out
