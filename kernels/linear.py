r"""Every token times a weight matrix, and whatever follows at once: bias, activation, residual, or T5's gate.

    linear          y = act(x wᵀ + b) + r            x (M, C)   w (F, C)   b (F,)   r (M, F)   ->   y (M, F)
    gated_linear    y = act(x gᵀ) · (x uᵀ)           g, u (F, C)

The product in tiles: one program owns BLOCK_M tokens and BLOCK_F features and walks along C,

    acc[m, f] += Σ_c x[m, c] w[f, c]        c = start ... start + BLOCK_C          in float32, on tensor cores

The trick is in three places. What follows the product needs only acc[m, f] itself, so it is done while acc is in
registers: an MLP's hidden layer is written once, where product, bias and GELU as three kernels would write it three
times and read it twice. A token past the last one reads the last one again instead of being masked, and the ragged end
of C has a step of its own, so the loop knows no mask at all. And programs that run at the same time should share what
they read: they are numbered down GROUP tiles before they move one to the right, so that G x G tiles need 2 G strips of
x and w from memory instead of G² + 1.

Row strides are given divided by V, the largest power of two (up to 16) that divides them, and multiplied by it again in
the kernel: Triton only asks of a number whether 16 divides it, and from a stride of 88 it would conclude that a row
may begin anywhere, and load 2 bytes at a time.

    memory      reads x ⌈F / BLOCK_F⌉ times and w ⌈M / BLOCK_M⌉ times, mostly from the L2 cache; writes y once
    one program BLOCK_M x BLOCK_F results
    grid        (⌈M / BLOCK_M⌉ · ⌈F / BLOCK_F⌉,)

The plain version is `linear` in minivl/ops/numpy.py.
"""

import math

from minivl.errors import InputError
from minivl.kernels.activations import SMOOTH, activate, check_floats
from minivl.kernels.launch import INTERPRETED, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import as_rows, unit_of


@triton.jit
def tile_of(program, M, F, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, GROUP: tl.constexpr):
    """The tile of a program: down GROUP tiles, then one to the right; the last group may be less tall.

    -> its tokens [BLOCK_M], its features [BLOCK_F]
    """
    across = tl.cdiv(F, BLOCK_F)
    top = program // (GROUP * across) * GROUP
    height = tl.minimum(tl.cdiv(M, BLOCK_M) - top, GROUP)
    inside = program % (GROUP * across)
    m = (top + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    f = inside // height * BLOCK_F + tl.arange(0, BLOCK_F)
    return m, f


@triton.jit
def rows_at(P, row, rows, stride, V: tl.constexpr, c):
    """Pointers [row, c] into a matrix of `rows` rows, stride · V apart; past the last row, to the last."""
    row = tl.minimum(row, rows - 1).to(tl.int64)
    return P + row[:, None] * (stride * V) + c[None, :]


@triton.jit
def linear_kernel(
    X, W, B, R, Y,  # (M, C), (F, C), (F,) or None, (M, F) or None, (M, F)
    M, F, C, sx, sw, sr,  # C and the row strides of X and W are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,  # TAIL: whether BLOCK_C leaves some of C over
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]
    w_at = rows_at(W, f, F, sw, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    acc = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    for start in range(0, whole, BLOCK_C):
        x = tl.load(x_at + start)  # [BLOCK_M, BLOCK_C]
        w = tl.load(w_at + start)  # [BLOCK_F, BLOCK_C]
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    if TAIL:
        inside = whole + c[None, :] < C * V
        x = tl.load(x_at + whole, inside, 0.0)
        w = tl.load(w_at + whole, inside, 0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")

    if B is not None:
        acc += tl.load(B + f, f < F, 0.0).to(tl.float32)[None, :]
    acc = activate(acc, act)
    kept = (m[:, None] < M) & (f[None, :] < F)
    row = m.to(tl.int64)[:, None]
    if R is not None:
        acc += tl.load(R + row * sr + f[None, :], kept, 0.0).to(tl.float32)
    tl.store(Y + row * F + f[None, :], acc.to(Y.dtype.element_ty), kept)


@triton.jit
def gated_linear_kernel(
    X, G, U, Y,  # (M, C), (F, C), (F, C), (M, F)
    M, F, C, sx, sg, su,  # C and the three row strides are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]
    g_at = rows_at(G, f, F, sg, V, c)  # [BLOCK_F, BLOCK_C]
    u_at = rows_at(U, f, F, su, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    gate = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    for start in range(0, whole, BLOCK_C):
        x = tl.load(x_at + start)  # [BLOCK_M, BLOCK_C]  read once for both products
        gate = tl.dot(x, tl.trans(tl.load(g_at + start)), gate, input_precision="ieee")
        up = tl.dot(x, tl.trans(tl.load(u_at + start)), up, input_precision="ieee")
    if TAIL:
        inside = whole + c[None, :] < C * V
        x = tl.load(x_at + whole, inside, 0.0)
        gate = tl.dot(x, tl.trans(tl.load(g_at + whole, inside, 0.0)), gate, input_precision="ieee")
        up = tl.dot(x, tl.trans(tl.load(u_at + whole, inside, 0.0)), up, input_precision="ieee")

    kept = (m[:, None] < M) & (f[None, :] < F)
    y = (activate(gate, act) * up).to(Y.dtype.element_ty)
    tl.store(Y + m.to(tl.int64)[:, None] * F + f[None, :], y, kept)


# What ships: (gated, 16-bit numbers, at most so many tokens) -> the tile. tests/test_compiled.py compiles every row.
TILES = {
    (False, True, 16): dict(BLOCK_M=16, BLOCK_F=64, BLOCK_C=128, GROUP=1, num_warps=4, num_stages=4),
    (False, True, 64): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=64, GROUP=1, num_warps=4, num_stages=4),
    (False, True, math.inf): dict(BLOCK_M=128, BLOCK_F=128, BLOCK_C=64, GROUP=8, num_warps=8, num_stages=3),
    (False, False, math.inf): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=32, GROUP=8, num_warps=4, num_stages=3),
    (True, True, 64): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=64, GROUP=1, num_warps=4, num_stages=3),
    (True, True, math.inf): dict(BLOCK_M=128, BLOCK_F=64, BLOCK_C=64, GROUP=8, num_warps=8, num_stages=3),
    (True, False, math.inf): dict(BLOCK_M=64, BLOCK_F=32, BLOCK_C=32, GROUP=8, num_warps=4, num_stages=3),
}


def config(M, F, C, dtype, gated=False):
    """The tile for a product of this shape. The interpreter's cost is per program: there it is as large as helps."""
    if INTERPRETED:
        M, F, C = (min(256, max(16, triton.next_power_of_2(size))) for size in (M, F, C))
        return dict(BLOCK_M=M, BLOCK_F=F, BLOCK_C=C, GROUP=8)
    return next(
        tile for (g, short, most), tile in TILES.items() if (g, short) == (gated, dtype != "float32") and M <= most
    )


def check_shapes(what, x, act=None, bias=None, residual=None, **weights):
    """Raise InputError, naming the argument, unless everything fits x (..., C) and the first weight (F, C)."""
    if act is not None and act not in SMOOTH:
        raise InputError(f"{what}: act is {act!r}, and the activations are {', '.join(SMOOTH)}, or None")
    first = next(iter(weights.values()))
    wanted = dict.fromkeys(weights, (first.shape[0], x.shape[-1]))
    wanted |= dict(b=tuple(first.shape[:1]), residual=(*x.shape[:-1], first.shape[0]))
    for name, given in (weights | dict(b=bias, residual=residual)).items():
        if given is not None and tuple(given.shape) != wanted[name]:
            raise InputError(
                f"{what}: {name} has shape {tuple(given.shape)}, and {wanted[name]} fits x {tuple(x.shape)}"
            )


@arrays
def linear(x, w, b=None, act=None, residual=None, tile=None):
    """act(x wᵀ + b) + residual, in one kernel.

    x (..., C)   w (F, C)   b (F,)   residual (..., F)   ->   (..., F), all of one dtype: float32, float16 or bfloat16
    act     None or a name of activations.py
    tile    block sizes, warps and stages; those of `config` unless given
    """
    check_shapes("linear", x, act, b, residual, w=w)
    check_floats("linear", x=x, w=w, b=b, residual=residual)
    (F, C), flat, w = w.shape, as_rows(x), as_rows(w)
    M = flat.shape[0]
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    rest = None if residual is None else as_rows(residual)
    b = None if b is None else b.contiguous()
    V = unit_of(C, flat.stride(0), w.stride(0))
    how = tile or config(M, F, C, name_of(x.dtype))
    linear_kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
        flat, w, b, rest, y, M, F, C // V, flat.stride(0) // V, w.stride(0) // V,
        0 if rest is None else rest.stride(0), act, V, C % how["BLOCK_C"] > 0, **how,
    )  # fmt: skip
    return y


@arrays
def gated_linear(x, gate, up, act, tile=None):
    """act(x gateᵀ) · (x upᵀ), in one kernel: the first half of T5's MLP (gated GELU is act="gelu_tanh").

    x (..., C)   gate, up (F, C)   ->   (..., F)         act and tile as in `linear`
    """
    check_shapes("gated_linear", x, act, gate=gate, up=up)
    check_floats("gated_linear", x=x, gate=gate, up=up)
    (F, C), flat, gate, up = gate.shape, as_rows(x), as_rows(gate), as_rows(up)
    M = flat.shape[0]
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    V = unit_of(C, flat.stride(0), gate.stride(0), up.stride(0))
    how = tile or config(M, F, C, name_of(x.dtype), gated=True)
    gated_linear_kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
        flat, gate, up, y, M, F, C // V, flat.stride(0) // V, gate.stride(0) // V, up.stride(0) // V,
        act, V, C % how["BLOCK_C"] > 0, **how,
    )  # fmt: skip
    return y
