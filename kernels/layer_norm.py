r"""Layer norm and RMS norm, each row read once and kept in registers; with a residual added on the way in if wanted.

    y = (x - mean) / √(var + eps) · w + b           mean, var = those of the row x, var the biased one
    y = x / √(mean(x²) + eps) · w                   RMS norm (T5): no mean, no shift
    y = layer_norm(x + z)                           add_layer_norm: the bridge layers, and every residual before a norm

In words: every token is shifted and scaled so that its numbers have mean 0 and spread 1, then each column is scaled and
shifted as training found best.

The trick, for layer norm: E(x²) - E(x)² in one pass cancels badly where the mean is large, so the row is shifted first,
by a pivot p near its mean. With s = x - p,

    mean = p + E(s)        var = E(s²) - E(s)²      x - mean = s - E(s)

hold for every p. A row that fits into one block is its own best pivot: p is its mean as float32 rounds it, and E(s),
what the rounding left of it, is nearly nothing. A wider row takes the mean of its first block, n of C elements. If that
lies δ from the true mean, the row varies by at least δ² n / C, so the subtraction never costs more than a factor
1 + C / n. (Chan, Golub & LeVeque 1983: shifted data, and the corrected two-pass algorithm.)

    memory      x once, y once; with a residual z once more, and the sum once if it is asked for. w and b come from the
                cache. NumPy passes over the row eight times, layer_norm_naive.py four. Rows wider than a block: x three
                times, the second and third from the cache.
    schedule    one program takes ROWS rows whole, ⌈rows / ROWS⌉ programs. C is a constant of the compiled kernel, so
                the masks and the divisions by C cost nothing; strides: `unit_of` in rows.py.

The plain version, and the one these are tested against, is `layer_norm` in minivl/ops/numpy.py.
"""

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, check_width, rows_per_program, unit_of

WIDEST = 4096  # elements of a block; rows wider than that are looped over


def config(C, rows=1 << 20):
    """The tile that ships for `rows` rows of C elements: 1024 of them or one row, 16 bytes a load and thread."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


@triton.jit
def load_rows(X, Z, row, c, here, x_stride, z_stride, UNIT: tl.constexpr):
    """x, or x + z where there is a residual, in float32.   -> [ROWS, BLOCK]"""
    x = tl.load(X + row[:, None] * (x_stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)
    if Z is not None:
        x += tl.load(Z + row[:, None] * (z_stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)
    return x


@triton.jit
def one_over_deviation(power, rest, eps):
    """1/√(var + eps) from E(s²) and E(s); where all numbers are equal, rounding may leave a variance below 0."""
    var = power - rest * rest
    return tl.rsqrt(tl.where(var < 0, 0.0, var) + eps)  # not tl.maximum, which would drop a nan


@triton.jit
def normalise(x, c, eps, C: tl.constexpr):
    """Whole rows to mean 0 and variance 1.   x [ROWS, BLOCK], 0 beyond the row   -> normed, mean [ROWS], rstd [ROWS]"""
    pivot = tl.sum(x, 1) * (1.0 / C)  # [ROWS]
    s = tl.where((c < C)[None, :], x - pivot[:, None], 0.0)  # [ROWS, BLOCK]
    rest = tl.sum(s, 1) * (1.0 / C)  # [ROWS]
    rstd = one_over_deviation(tl.sum(s * s, 1) * (1.0 / C), rest, eps)  # [ROWS]
    return (s - rest[:, None]) * rstd[:, None], pivot + rest, rstd


@triton.jit
def store_rows(OUT, SUM, W, B, x, normed, row, c, here, C: tl.constexpr):
    """normed · w + b, and the sum if it is asked for.   x, normed [ROWS, BLOCK]"""
    place = row[:, None] * C + c[None, :]
    if SUM is not None:
        tl.store(SUM + place, x.to(SUM.dtype.element_ty), here)
    column = tl.broadcast_to(c[None, :], here.shape)  # [ROWS, BLOCK]  w's layout is then x's, with x's wide loads
    y = normed * tl.load(W + column, column < C, 0.0).to(tl.float32)
    if B is not None:
        y += tl.load(B + column, column < C, 0.0).to(tl.float32)
    tl.store(OUT + place, y.to(OUT.dtype.element_ty), here)


@triton.jit
def store_statistics(MEAN, RSTD, mean, rstd, row, rows):
    """What a backward pass wants to know of each row.   mean, rstd [ROWS]"""
    if MEAN is not None:
        tl.store(MEAN + row, mean, row < rows)
    if RSTD is not None:
        tl.store(RSTD + row, rstd, row < rows)


@triton.jit
def norm_kernel(
    X, Z,  # (rows, C), Z or None, rows x_stride · UNIT and z_stride · UNIT apart
    W, B,  # (C,), B or None
    OUT, SUM,  # (rows, C), contiguous, SUM or None
    MEAN, RSTD,  # (rows,), or None
    rows, x_stride, z_stride, eps,
    C: tl.constexpr, UNIT: tl.constexpr, CENTRE: tl.constexpr,  # CENTRE: layer norm, otherwise RMS norm
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows that fit into one block."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.arange(0, BLOCK)  # [BLOCK]
    here = (row < rows)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]

    x = load_rows(X, Z, row, c, here, x_stride, z_stride, UNIT)  # [ROWS, BLOCK]
    if CENTRE:
        normed, mean, rstd = normalise(x, c, eps, C)  # [ROWS, BLOCK], [ROWS], [ROWS]
        store_statistics(MEAN, RSTD, mean, rstd, row, rows)
    else:
        rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C) + eps)  # [ROWS]
        normed = x * rstd[:, None]  # [ROWS, BLOCK]
        store_statistics(None, RSTD, rstd, rstd, row, rows)
    store_rows(OUT, SUM, W, B, x, normed, row, c, here, C)


@triton.jit
def norm_wide_kernel(
    X, Z,  # (rows, C), Z or None, rows x_stride · UNIT and z_stride · UNIT apart
    W, B,  # (C,), B or None
    OUT, SUM,  # (rows, C), contiguous, SUM or None
    MEAN, RSTD,  # (rows,), or None
    rows, x_stride, z_stride, eps,
    C: tl.constexpr, UNIT: tl.constexpr, CENTRE: tl.constexpr,  # CENTRE: layer norm, otherwise RMS norm
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows wider than a block: one loop for the sums, one for the result."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    in_rows = (row < rows)[:, None]  # [ROWS, 1]

    pivot = tl.zeros([ROWS], tl.float32)  # [ROWS]
    if CENTRE:  # the first block is full: the row is wider
        first = load_rows(X, Z, row, tl.arange(0, BLOCK), in_rows, x_stride, z_stride, UNIT)  # [ROWS, BLOCK]
        pivot = tl.sum(first, 1) * (1.0 / BLOCK)  # [ROWS]

    total = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    squares = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = load_rows(X, Z, row, c, here, x_stride, z_stride, UNIT)  # [ROWS, BLOCK]
        s = tl.where((c < C)[None, :], x - pivot[:, None], 0.0)  # [ROWS, BLOCK]
        total += s
        squares += s * s
    power = tl.sum(squares, 1) * (1.0 / C)  # [ROWS]
    rest = tl.sum(total, 1) * (1.0 / C) if CENTRE else tl.zeros([ROWS], tl.float32)  # [ROWS]
    rstd = one_over_deviation(power, rest, eps)  # [ROWS]
    store_statistics(MEAN, RSTD, pivot + rest, rstd, row, rows)

    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = in_rows & (c < C)[None, :]  # [ROWS, BLOCK]
        x = load_rows(X, Z, row, c, here, x_stride, z_stride, UNIT)  # [ROWS, BLOCK]
        normed = (x - pivot[:, None] - rest[:, None]) * rstd[:, None]  # [ROWS, BLOCK]
        store_rows(OUT, SUM, W, B, x, normed, row, c, here, C)


@arrays
def layer_norm(x, w, b, eps, *, with_statistics=False, tile=None):
    """Every token shifted to mean 0 and scaled to variance 1, then to the learned scale and shift.

    x (..., C)   w, b (C,)   ->   (..., C)
    with_statistics   -> y, mean, 1/√(var + eps), the last two (...) in float32
    tile              block size, rows and warps of a program; those of `config` unless given
    """
    check_floats("layer_norm", x=x, w=w, b=b)
    check_width("layer_norm", x.shape[-1], w=w, b=b)
    y, _, mean, rstd = _norm(x, None, w, b, eps, centre=True, statistics=with_statistics, tile=tile)
    return (y, mean, rstd) if with_statistics else y


@arrays
def rms_norm(x, w, eps, *, with_statistics=False, tile=None):
    """Layer norm without mean and shift, as T5 has it.

    x (..., C)   w (C,)   ->   (..., C)
    with_statistics   -> y, 1/√(mean(x²) + eps), the latter (...) in float32
    """
    check_floats("rms_norm", x=x, w=w)
    check_width("rms_norm", x.shape[-1], w=w)
    y, _, _, rstd = _norm(x, None, w, None, eps, centre=False, statistics=with_statistics, tile=tile)
    return (y, rstd) if with_statistics else y


@arrays
def add_layer_norm(x, y, w, b, eps, *, with_sum=False, with_statistics=False, tile=None):
    """layer_norm(x + y), the sum never leaving the registers unless asked for; it is normalised before it is rounded.

    x, y (..., C)   w, b (C,)   ->   (..., C)
    with_sum          -> that and x + y (..., C), which a pre-LN layer carries on
    with_statistics   -> that (and x + y), mean, 1/√(var + eps), the last two (...) in float32
    """
    check_floats("add_layer_norm", x=x, y=y, w=w, b=b)
    check_width("add_layer_norm", x.shape[-1], w=w, b=b)
    if x.shape != y.shape:
        raise OpsError(f"add_layer_norm: x has shape {tuple(x.shape)} and y {tuple(y.shape)}, they must be the same")
    normed, total, mean, rstd = _norm(
        x, y, w, b, eps, centre=True, total=with_sum, statistics=with_statistics, tile=tile
    )
    extra = ((total,) if with_sum else ()) + ((mean, rstd) if with_statistics else ())
    return (normed, *extra) if extra else normed


def _norm(x, z, w, b, eps, *, centre, tile, total=False, statistics=False):
    """Allocate, launch.   -> y (..., C), x + z (..., C) or None, mean (...) or None, rstd (...) or None"""
    shape, C = tuple(x.shape), x.shape[-1]
    out = empty(shape, x)
    added = empty(shape, x) if total else None
    mean = empty(shape[:-1], x, "float32") if statistics and centre else None
    rstd = empty(shape[:-1], x, "float32") if statistics else None
    flat, more = as_rows(x), None if z is None else as_rows(z)
    strides = flat.stride(0), 0 if more is None else more.stride(0)
    rows, unit = flat.shape[0], unit_of(*strides)
    if rows:
        tile = tile or config(C, rows)
        kernel = norm_kernel if C <= tile["BLOCK"] else norm_wide_kernel
        kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            flat, more, w.contiguous(), None if b is None else b.contiguous(), out, added, mean, rstd,
            rows, strides[0] // unit, strides[1] // unit, eps,
            C=C, UNIT=unit, CENTRE=centre, **tile,
        )  # fmt: skip
    return out, added, mean, rstd
