r"""The gradients of layer norm and RMS norm, and of the norm of a sum, in one pass over the rows.

    y = n · w + b           n = (x - mean) · ρ          ρ = 1 / √(var + eps)
    g = dy · w
    dx = ρ · (g - mean(g) - n · mean(g · n))            means over the row; RMS norm has no mean(g)
    dw = Σ over rows of dy · n                          db = Σ over rows of dy

In words: a norm answers every change of a row but two, shifting it and scaling it; so what is left of the gradient is
what points along neither: its mean and its share along n are taken out. Scale and shift learn from all rows.

The trick: mean and ρ are not kept from the forward pass. The row is in registers anyway for n, and two sums more cost
no memory at all. With a residual, z is added again as the forward pass did, so n is that of the sum before it was
rounded; and a gradient that reaches the sum itself, `dsum`, is added while dx is in registers.

dw and db want columns where dx wants rows: each program keeps sums for its rows in registers, writes one row of them,
and column_sums.py adds those rows. No atomics: the same numbers give the same bits, on every run and chip.

    memory      x, dy (z, dsum) once, dx once; and twice programs · C float32 numbers
    schedule    at most PARTS programs, each taking ROWS rows at a time, whole, from its own chunk of them

The plain versions are `layer_norm_backward`, `add_layer_norm_backward` and `rms_norm_backward` in
minivl/ops/backward.py.
"""

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.column_sums import chunk_of, column_sums
from minivl.kernels.launch import arrays, empty, name_of, tl, triton
from minivl.kernels.layer_norm import load_rows, normalise
from minivl.kernels.rows import as_rows, check_width, rows_per_program, unit_of

WIDEST = 8192  # elements of a row, which has to fit into the registers of one program


def config(C, rows=1 << 20):
    """The tile that ships for `rows` rows of C elements: 1024 of them or one row, by at most 256 programs."""
    block = triton.next_power_of_2(C)
    return dict(
        BLOCK=block, ROWS=rows_per_program(block, rows, 1024), PARTS=256, num_warps=min(max(block, 1024) // 256, 16)
    )


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
        if CENTRE:
            n, _, rstd = normalise(x, c, eps, C)  # [ROWS, BLOCK], _, [ROWS]
        else:
            rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C) + eps)  # [ROWS]
            n = x * rstd[:, None]  # [ROWS, BLOCK]
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
def layer_norm_backward(dout, x, w, b, eps, *, wanted=(True, True, True), tile=None):
    """What x, scale and shift of `layer_norm` should change by.

    dout, x (..., C)   w, b (C,)   ->   dx (..., C), dw (C,), db (C,)
    wanted    which of dw and db are needed (dx always comes along): None stands for the others
    tile      block size, rows and warps of a program, and how many programs at most; those of `config` unless given
    """
    check_floats("layer_norm_backward", x=x, dout=dout, w=w, b=b)
    return _backward("layer_norm_backward", dout, x, None, None, w, b, eps, wanted, tile)


@arrays
def add_layer_norm_backward(dout, x, y, w, b, eps, *, dsum=None, wanted=(True, True, True, True), tile=None):
    """The same for `add_layer_norm`: the gradient of the sum x + y is that of both.

    dout, x, y (..., C)   w, b (C,)   ->   dx, dy (one array, twice) (..., C), dw (C,), db (C,)
    dsum      (..., C), the gradient that reaches x + y itself, where a layer carries it on
    """
    check_floats("add_layer_norm_backward", x=x, dout=dout, y=y, w=w, b=b, dsum=dsum)
    dx, dw, db = _backward("add_layer_norm_backward", dout, x, y, dsum, w, b, eps, wanted[1:], tile)
    return dx, dx, dw, db


@arrays
def rms_norm_backward(dout, x, w, eps, *, wanted=(True, True), tile=None):
    """The same for `rms_norm`.   dout, x (..., C)   w (C,)   ->   dx (..., C), dw (C,)"""
    check_floats("rms_norm_backward", x=x, dout=dout, w=w)
    return _backward("rms_norm_backward", dout, x, None, None, w, None, eps, (*wanted, False), tile, centre=False)[:2]


def _backward(op, dout, x, z, dsum, w, b, eps, wanted, tile, centre=True):
    """Check, allocate, launch, add up what the programs leave.   -> dx (..., C), dw (C,) or None, db (C,) or None"""
    shape, C = tuple(x.shape), x.shape[-1]
    check_width(op, C, w=w, b=b)
    for name, given in dict(dout=dout, y=z, dsum=dsum).items():
        if given is not None and tuple(given.shape) != shape:
            raise OpsError(f"{op}: {name} has shape {tuple(given.shape)} and x {shape}, they must be the same")
    if C > WIDEST:
        raise OpsError(f"{op}: rows have {C} numbers, and the kernel keeps up to {WIDEST}: use the torch ops")
    given = [None if a is None else as_rows(a) for a in (dout, x, z, dsum)]
    rows = given[1].shape[0]
    how = dict(tile or config(C, rows))
    chunk = chunk_of(rows, how["ROWS"], how.pop("PARTS"))
    parts = max(1, triton.cdiv(rows, chunk))  # without a row one program is left, which writes zeros
    for_w, for_b = map(int, wanted[1:])
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
