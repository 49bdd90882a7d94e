r"""Layer norm and RMS norm, with or without a residual added first, and their gradients: each row is read once.

    y = n · w + b           n = (x - mean) · ρ      ρ = 1 / √(var + eps)        mean and biased variance of the row x
    y = n · w               n = x · ρ               ρ = 1 / √(mean(x²) + eps)   RMS norm (T5): no mean, no shift
    y = layer_norm(x + z)                           add_layer_norm: the residual stream enters a norm

    g  = dy · w
    dx = ρ · (g - mean(g) - n · mean(g · n))        means over the row; RMS norm has no mean(g)
    dw = Σ over rows of dy · n                      db = Σ over rows of dy

In words: forward, every token is shifted and scaled to mean 0 and variance 1, then each column is scaled and shifted by
the learned w and b. Backward, the output does not change when the row is shifted or scaled, so dx must have no
component along (1, ..., 1) and none along n: both are subtracted. w and b collect gradients from all rows.

The trick, for layer norm: E(x²) - E(x)² in one pass cancels badly where the mean is large, so the row is shifted first,
by a pivot p near its mean. With s = x - p,

    mean = p + E(s)        var = E(s²) - E(s)²      x - mean = s - E(s)

hold for every p. A row that fits into one block is its own best pivot: p is its mean as float32 rounds it, and E(s),
what the rounding left of it, is nearly nothing. A wider row takes the mean of its first block, n of C elements. If that
lies δ from the true mean, the row varies by at least δ² n / C, so the subtraction never costs more than a factor
1 + C / n. (Chan, Golub & LeVeque 1983: shifted data, and the corrected two-pass algorithm.)

Backward, mean and ρ are computed again, since the row is in registers anyway. With a residual, x + z is added again as
in the forward pass, so n is that of the sum before it was rounded; a gradient that reaches the sum itself, `dsum`, is
added while dx is in registers. dw and db sum over rows where dx sums along them: each program keeps sums for its rows
in registers and writes them as one row, and column_sums.py adds those rows. No atomics: the same numbers give the same
bits.

    memory      forward: x once, y once; with a residual z once more, and the sum once if it is asked for. w and b come
                from the cache. NumPy passes over the row eight times, layer_norm_naive.py four. Rows wider than a
                block: x three times, the second and third from the cache.
                backward: x, dy (z, dsum) once, dx once, and twice programs · C float32 numbers
    schedule    forward: one program takes ROWS rows whole, ⌈rows / ROWS⌉ programs. Backward: at most PARTS programs,
                each taking ROWS rows at a time, whole, from its own chunk of them. C is a constant of the compiled
                kernel, so the masks and the divisions by C cost nothing; strides: `unit_of` in rows.py.

The plain versions are the functions of the same names in minivl/ops/plain.py and minivl/ops/backward.py.
"""

from typing import Any

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.column_sums import chunk_of, column_sums
from minivl.kernels.launch import Array, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import as_rows, check_width, rows_per_program, unit_of

WIDEST = 4096  # elements of a block; forward, rows wider than that are looped over
WIDEST_BACKWARD = 8192  # elements of a row, which has to fit into the registers of one program

Tile = dict[str, Any]


def config(C: int, rows: int = 1 << 20) -> Tile:
    """The tile that ships for `rows` rows of C elements: 1024 of them or one row, 16 bytes a load and thread."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


def backward_config(C: int, rows: int = 1 << 20) -> Tile:
    """The tile of the backward kernel: 1024 elements or one row, by at most 256 programs."""
    block = triton.next_power_of_2(C)
    return dict(
        BLOCK=block, ROWS=rows_per_program(block, rows, 1024), PARTS=256, num_warps=min(max(block, 1024) // 256, 16)
    )


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
def normalise(x, c, eps, C: tl.constexpr, CENTRE: tl.constexpr):
    """Whole rows to mean 0 (if CENTRE) and variance 1.   x [ROWS, BLOCK], 0 beyond the row

    ->   n [ROWS, BLOCK], mean [ROWS] (0 for RMS norm), rstd [ROWS]: 1/σ
    """
    if CENTRE:
        pivot = tl.sum(x, 1) * (1.0 / C)  # [ROWS]
        s = tl.where((c < C)[None, :], x - pivot[:, None], 0.0)  # [ROWS, BLOCK]
        rest = tl.sum(s, 1) * (1.0 / C)  # [ROWS]
        mean = pivot + rest  # [ROWS]
        rstd = one_over_deviation(tl.sum(s * s, 1) * (1.0 / C), rest, eps)  # [ROWS]
        n = (s - rest[:, None]) * rstd[:, None]  # [ROWS, BLOCK]
    else:
        rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C) + eps)  # [ROWS]
        mean = tl.zeros_like(rstd)  # [ROWS]
        n = x * rstd[:, None]  # [ROWS, BLOCK]
    return n, mean, rstd


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
    """Mean and 1/σ of each row, where they are asked for.   mean, rstd [ROWS]"""
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
    normed, mean, rstd = normalise(x, c, eps, C, CENTRE)  # [ROWS, BLOCK], [ROWS], [ROWS]
    store_statistics(MEAN, RSTD, mean, rstd, row, rows)
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


@triton.jit
def norm_backward_kernel(
    DY, X, Z, DSUM,  # (rows, C), Z and DSUM or None, their rows that many strides · UNIT apart
    W, DX, SUMS,  # (C,), (rows, C), (programs, FOR_W · C + FOR_B · C) float32, the last two contiguous
    rows, chunk, dy_stride, x_stride, z_stride, dsum_stride, eps,
    C: tl.constexpr, UNIT: tl.constexpr, CENTRE: tl.constexpr,  # CENTRE: layer norm, otherwise RMS norm
    FOR_W: tl.constexpr, FOR_B: tl.constexpr,  # 1 or 0: whether dw and db are wanted
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    end = tl.minimum((part + 1) * chunk, rows)
    c = tl.arange(0, BLOCK)  # [BLOCK]
    column = tl.broadcast_to(c[None, :], [ROWS, BLOCK])  # [ROWS, BLOCK]
    w = tl.load(W + column, column < C, 0.0).to(tl.float32)  # [ROWS, BLOCK]
    dw = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    db = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    for start in range(part * chunk, end, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        here = (row < end)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
        x = load_rows(X, Z, row, c, here, x_stride, z_stride, UNIT)  # [ROWS, BLOCK]
        dy = load_rows(DY, None, row, c, here, dy_stride, 0, UNIT)  # [ROWS, BLOCK]
        n, _, rstd = normalise(x, c, eps, C, CENTRE)  # [ROWS, BLOCK], _, [ROWS]
        g = dy * w  # [ROWS, BLOCK]  0 beyond the row, where n is not
        dx = g - n * (tl.sum(g * n, 1) * (1.0 / C))[:, None]  # [ROWS, BLOCK]
        if CENTRE:
            dx -= (tl.sum(g, 1) * (1.0 / C))[:, None]
        dx *= rstd[:, None]
        if DSUM is not None:
            dx += load_rows(DSUM, None, row, c, here, dsum_stride, 0, UNIT)
        tl.store(DX + row[:, None] * C + c[None, :], dx.to(DX.dtype.element_ty), here)
        dw += tl.where(here, dy * n, 0.0)  # beyond the last row n may be 0 · ∞
        db += dy
    sums = SUMS + part * ((FOR_W + FOR_B) * C) + c  # [BLOCK]
    if FOR_W:
        tl.store(sums, tl.sum(dw, 0), c < C)
    if FOR_B:
        tl.store(sums + FOR_W * C, tl.sum(db, 0), c < C)


@arrays
def layer_norm(
    x: Array, w: Array, b: Array, eps: float, *, with_statistics: bool = False, tile: Tile | None = None
) -> Any:
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
def rms_norm(x: Array, w: Array, eps: float, *, with_statistics: bool = False, tile: Tile | None = None) -> Any:
    """Layer norm without mean and shift, as T5 has it.

    x (..., C)   w (C,)   ->   (..., C)
    with_statistics   -> y, 1/√(mean(x²) + eps), the latter (...) in float32
    """
    check_floats("rms_norm", x=x, w=w)
    check_width("rms_norm", x.shape[-1], w=w)
    y, _, _, rstd = _norm(x, None, w, None, eps, centre=False, statistics=with_statistics, tile=tile)
    return (y, rstd) if with_statistics else y


@arrays
def add_layer_norm(
    x: Array, y: Array, w: Array, b: Array, eps: float, *, with_sum: bool = False, with_statistics: bool = False,
    tile: Tile | None = None,
) -> Any:  # fmt: skip
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


def _norm(
    x: Array, z: Array | None, w: Array, b: Array | None, eps: float, *, centre: bool, tile: Tile | None,
    total: bool = False, statistics: bool = False,
) -> tuple[Array, Array | None, Array | None, Array | None]:  # fmt: skip
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


@arrays
def layer_norm_backward(
    dout: Array, x: Array, w: Array, b: Array, eps: float, *, wanted: tuple[bool, bool, bool] | None = None,
    tile: Tile | None = None,
) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
    """The gradients of `layer_norm` for x, w and b.

    dout, x (..., C)   w, b (C,)   ->   dx (..., C), dw (C,), db (C,)
    wanted    whether those of x, w and b are needed, all unless given; dw and db are None where they are not, dx always
              comes along
    tile      block size, rows and warps of a program, and how many programs at most; those of `backward_config` unless
              given
    """
    check_floats("layer_norm_backward", x=x, dout=dout, w=w, b=b)
    return _backward("layer_norm_backward", dout, x, None, None, w, b, eps, (wanted or (True,) * 3)[1:], tile)


@arrays
def add_layer_norm_backward(
    dout: Array, x: Array, y: Array, w: Array, b: Array, eps: float, *, dsum: Array | None = None,
    wanted: tuple[bool, bool, bool, bool] | None = None, tile: Tile | None = None,
) -> tuple[Array, Array, Array | None, Array | None]:  # fmt: skip
    """The gradients of `add_layer_norm` for x, y, w and b: that of the sum x + y is that of both.

    dout, x, y (..., C)   w, b (C,)   ->   dx, dy (one array, twice) (..., C), dw (C,), db (C,)
    dsum      (..., C), the gradient that reaches x + y itself, where a layer carries it on
    wanted, tile   as in `layer_norm_backward`, wanted for x, y, w and b
    """
    check_floats("add_layer_norm_backward", x=x, dout=dout, y=y, w=w, b=b, dsum=dsum)
    to_w_b = (wanted or (True,) * 4)[2:]
    dx, dw, db = _backward("add_layer_norm_backward", dout, x, y, dsum, w, b, eps, to_w_b, tile)
    return dx, dx, dw, db


@arrays
def rms_norm_backward(
    dout: Array, x: Array, w: Array, eps: float, *, wanted: tuple[bool, bool] | None = None, tile: Tile | None = None
) -> tuple[Array, Array | None]:
    """The gradients of `rms_norm` for x and w.   dout, x (..., C)   w (C,)   ->   dx (..., C), dw (C,)

    wanted, tile   as in `layer_norm_backward`, wanted for x and w
    """
    check_floats("rms_norm_backward", x=x, dout=dout, w=w)
    to_w = (wanted or (True,) * 2)[1]
    dx, dw, _ = _backward("rms_norm_backward", dout, x, None, None, w, None, eps, (to_w, False), tile, centre=False)
    return dx, dw


def _backward(
    op: str, dout: Array, x: Array, z: Array | None, dsum: Array | None, w: Array, b: Array | None, eps: float,
    to_w_b: tuple[bool, ...], tile: Tile | None, centre: bool = True,
) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
    """Check, allocate, launch, add up what the programs leave.   -> dx (..., C), dw (C,) or None, db (C,) or None"""
    shape, C = tuple(x.shape), x.shape[-1]
    check_width(op, C, w=w, b=b)
    for name, given in dict(dout=dout, y=z, dsum=dsum).items():
        if given is not None and tuple(given.shape) != shape:
            raise OpsError(f"{op}: {name} has shape {tuple(given.shape)} and x {shape}, they must be the same")
    if C > WIDEST_BACKWARD:
        raise OpsError(f"{op}: rows have {C} numbers, and the kernel keeps up to {WIDEST_BACKWARD}: use the torch ops")
    given = [None if a is None else as_rows(a) for a in (dout, x, z, dsum)]
    rows = given[1].shape[0]
    how = dict(tile or backward_config(C, rows))
    chunk = chunk_of(rows, how["ROWS"], how.pop("PARTS"))
    parts = max(1, triton.cdiv(rows, chunk))  # without a row one program is left, which writes zeros
    for_w, for_b = map(int, to_w_b)
    dx, sums = empty(shape, x), empty((parts, (for_w + for_b) * C), x, "float32")
    if C:
        strides = [0 if a is None else a.stride(0) for a in given]
        unit = unit_of(*strides)
        norm_backward_kernel[(parts,)](
            *given, w.contiguous(), dx, sums, rows, chunk, *(step // unit for step in strides), eps,
            C=C, UNIT=unit, CENTRE=centre, FOR_W=for_w, FOR_B=for_b, **how,
        )  # fmt: skip
    both = column_sums(sums, name_of(w.dtype)).reshape(for_w + for_b, C)
    return dx, both[0] if for_w else None, both[for_w] if for_b else None
